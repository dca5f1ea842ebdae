"""Training on novel classes is asked for by name, and labels are positions among what is learned."""

import json

import pytest
from tiny_world import write_world

from ovd.data.fine_tuning import FineTuningDataset, part_of
from ovd.errors import UserError
from ovd.vocabulary.splits import Split


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Training annotations with all classes: those of the validation images."""
    return write_world(tmp_path_factory.mktemp("few"), ["ant", "bee", "cat"], ["dog", "elk"])


def labels(world, learn: str) -> tuple[FineTuningDataset, list[int]]:
    dataset = FineTuningDataset(ann_file="annotations/val.json", split="annotations/split.json", learn=learn,
                                data_root=str(world), data_prefix={"img": "val"}, pipeline=[])
    return dataset, [instance["bbox_label"] for i in range(len(dataset)) for instance in dataset.get_instances(i)]


@pytest.mark.parametrize(("learn", "names"), [("all", ("ant", "bee", "cat", "dog", "elk")), ("novel", ("dog", "elk")),
                                              ("base", ("ant", "bee", "cat"))])
def test_labels_are_positions_among_the_classes_that_are_learned(world, learn, names):
    dataset, found = labels(world, learn)
    written = json.loads((world / "annotations/val.json").read_text())["annotations"]
    classes = ("ant", "bee", "cat", "dog", "elk")
    expected = sorted(names.index(classes[a["category_id"]]) for a in written if classes[a["category_id"]] in names)
    assert sorted(found) == expected and set(found) == set(range(len(names)))
    assert dataset.metainfo["classes"] == names and dataset.metainfo["num_base"] == len(names)


def test_groups_stay_where_all_their_classes_do():
    split = Split("s", "custom", base=("a", "b"), novel=("c",), groups={"old": ("a",), "mixed": ("b", "c")})
    assert part_of(split, "base").groups == {"old": ("a",)}
    assert part_of(split, "base").excluded == ("c",)
    assert part_of(split, "all").groups == split.groups


def test_wrong_parts_are_refused(world):
    with pytest.raises(UserError, match="learn='everything' is not one of base, novel, all"):
        labels(world, "everything")
    with pytest.raises(UserError, match="no novel classes"):
        part_of(Split("s", "custom", base=("a",)), "novel")
