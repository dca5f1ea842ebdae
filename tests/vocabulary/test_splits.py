"""Splits: the published lists, labels, files of users, and their mistakes."""

import json
import pickle
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovd.errors import UserError
from ovd.vocabulary.classes import COCO_IDS, COCO_NAMES, LVIS_V1, VOC_NAMES
from ovd.vocabulary.splits import SPLITS, Split, get_split

# Category ids as Detic and BARON list them, apart from the names in the code.
BASE_48_IDS = [
    1, 2, 3, 4, 7, 8, 9, 15, 16, 19, 20, 23, 24, 25, 27, 31, 33, 34, 35, 38, 42, 44, 48, 50, 51, 52, 53, 54, 55, 56, 57,
    59, 60, 62, 65, 70, 72, 73, 74, 75, 78, 79, 80, 82, 84, 85, 86, 90,
]  # fmt: skip
NOVEL_17_IDS = [5, 6, 17, 18, 21, 22, 28, 32, 36, 41, 47, 49, 61, 63, 76, 81, 87]
# Positions in COCO_NAMES, as in the Rahman et al. split of OpenSet-dev.
NOVEL_15_POSITIONS = [4, 6, 12, 15, 21, 28, 29, 31, 42, 48, 52, 61, 64, 70, 78]


def test_48_17_has_the_published_category_ids_in_order():
    ids, split = dict(zip(COCO_NAMES, COCO_IDS)), get_split("48_17")
    assert [ids[name] for name in split.base] == BASE_48_IDS
    assert [ids[name] for name in split.novel] == NOVEL_17_IDS
    assert {*split.classes, *split.excluded} == set(COCO_NAMES)


def test_65_15_has_the_published_positions():
    split = get_split("65_15")
    assert [COCO_NAMES.index(name) for name in split.novel] == NOVEL_15_POSITIONS
    assert len(split.base) == 65 and not split.excluded


def test_the_novel_classes_of_60_20_are_those_of_voc():
    """VOC's names against COCO's, pair by pair; six are spelled otherwise."""
    spelled = {"aeroplane": "airplane", "diningtable": "dining table", "motorbike": "motorcycle",
               "pottedplant": "potted plant", "sofa": "couch", "tvmonitor": "tv"}
    split = get_split("60_20")
    assert set(split.novel) == {spelled.get(name, name) for name in VOC_NAMES} and len(split.novel) == 20
    assert set(split.classes) == set(COCO_NAMES) and len(split.base) == 60 and not split.excluded
    for group in (split.base, split.novel):
        assert list(group) == sorted(group, key=COCO_NAMES.index)


def test_866_337_is_split_by_frequency_in_id_order():
    split = get_split("866_337")
    assert list(split.novel) == [c.name for c in LVIS_V1 if c.frequency == "r"]
    assert list(split.base) == [c.name for c in LVIS_V1 if c.frequency != "r"]
    assert (len(split.base), len(split.novel)) == (866, 337)


@pytest.mark.parametrize(
    ("name", "novel"),
    [
        ("voc_split1", {"bird", "bus", "cow", "motorbike", "sofa"}),
        ("voc_split2", {"aeroplane", "bottle", "cow", "horse", "sofa"}),
        ("voc_split3", {"boat", "cat", "motorbike", "sheep", "sofa"}),
    ],
)
def test_voc_splits(name, novel):
    split = get_split(name)
    assert set(split.novel) == novel and set(split.classes) == set(VOC_NAMES) and len(split.base) == 15


@pytest.mark.parametrize("name", SPLITS)
def test_labels_are_positions_bases_first(name):
    split = get_split(name)
    assert [split.label(c) for c in split.classes] == list(range(len(split.classes)))
    groups = split.all_groups()
    assert list(groups) == ["base", "novel", "all"]
    assert groups["base"] + groups["novel"] == groups["all"] == list(range(len(split.classes)))
    assert len(groups["base"]) == split.num_base


def test_either_spelling_of_the_speaker_has_a_label():
    split = get_split("866_337")
    assert split.label("speaker_(stereo_equipment)") == split.label("speaker_(stero_equipment)")
    assert "speaker_(stereo_equipment)" in split


def test_an_unknown_class_is_named_with_the_nearest():
    with pytest.raises(UserError, match=r"no class 'umbrela'; did you mean umbrella"):
        get_split("48_17").label("umbrela")


def test_an_unknown_split_is_named_with_the_nearest():
    with pytest.raises(UserError, match=r"no split named '48_71'; did you mean 48_17"):
        get_split("48_71")


class_names = st.text(min_size=1, max_size=12).filter(str.strip)


@given(st.lists(class_names, min_size=1, max_size=12, unique=True), st.data())
def test_a_saved_split_is_loaded_equal(tmp_path_factory, names, data):
    first, second = sorted(data.draw(st.tuples(*[st.integers(0, len(names))] * 2)))
    base, novel, excluded = names[:first], names[first:second], names[second:]
    if not (base or novel):
        base, excluded = excluded, []
    groups = {"some": tuple(data.draw(st.lists(st.sampled_from(base + novel), unique=True)))}
    split = Split("mine-1", "custom", base, novel, excluded, groups)
    path = tmp_path_factory.mktemp("split") / "split.json"
    split.save(path)
    loaded = get_split(path)
    assert loaded == split == pickle.loads(pickle.dumps(split)) and hash(loaded) == hash(split)
    assert [loaded.classes[i] for i in loaded.all_groups()["some"]] == list(groups["some"])


def test_a_text_file_is_a_list_of_base_classes(tmp_path):
    (tmp_path / "pets.txt").write_text("cat\n\n fire hydrant \ndog")
    split = get_split("pets.txt", root=tmp_path)
    assert (split.name, split.base, split.novel) == ("pets", ("cat", "fire hydrant", "dog"), ())


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"base": ["a", "b", "a"]}, "class 'a' is twice in base"),
        ({"base": ["a", "b"], "novel": ["c", "b"]}, "class 'b' is in base and in novel"),
        ({"base": ["a"], "excluded": ["a"]}, "class 'a' is in base and in excluded"),
        ({"base": ["speaker_(stero_equipment)", "speaker_(stereo_equipment)"]}, "twice in base"),
        ({"base": []}, "vocabulary is empty"),
        ({"base": [], "excluded": ["a"]}, "vocabulary is empty"),
        ({"base": ["a", " "]}, "' ' is not a class name"),
        ({"base": ["a", 3]}, "3 is not a class name"),
        ({"base": "person"}, "must be a list of class names"),
        ({"base": None}, "must be a list of class names"),
        ({"base": ["zebra"], "groups": {"g": ["zebr"]}}, "unknown class 'zebr'; did you mean zebra"),
        ({"base": ["a"], "groups": {"novel": ["a"]}}, "group name 'novel' is taken"),
        ({"base": ["a"], "groups": ["a"]}, "'groups' must map"),
        ({"base": ["a"], "name": "x/y"}, "goes into file names"),
        ({"base": ["a"], "novle": ["b"]}, "no key 'novle'; did you mean novel"),
        (["a"], "must be a json object"),
    ],
)
def test_a_mistake_in_a_split_file_is_named_with_the_file(tmp_path, value, words):
    path = tmp_path / "split.json"
    path.write_text(json.dumps(value))
    with pytest.raises(UserError) as error:
        get_split(path)
    assert words in str(error.value) and str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b'{"base": ["a"', b"\xff\xfe"])
def test_a_broken_split_file_is_a_users_mistake(tmp_path, content):
    path = tmp_path / "split.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"split\.json"):
        get_split(path)


def test_a_missing_split_file_is_a_users_mistake(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        get_split(tmp_path / "none.json")


def test_importing_splits_is_light():
    code = "import sys, ovd.vocabulary.splits; print([m for m in ('torch', 'mmengine', 'numpy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize(("name", "count"), [("voc", 20), ("coco_transfer", 80), ("objects365_v1", 365),
                                             ("objects365_v2", 365)])
def test_no_class_of_a_transfer_target_is_base(name, count):
    split = get_split(name)
    assert (split.num_base, len(split.novel)) == (0, count)
    assert len({class_name.lower() for class_name in split.classes}) == count


def test_objects365_files_spell_some_names_with_blanks_around_them():
    assert get_split("objects365_v1").label("tissue ") == get_split("objects365_v1").label("tissue")
    assert "Formula 1 " in get_split("objects365_v2") and "formula 1" not in get_split("objects365_v2")
