"""Class lists against the official files."""

import json
from collections import Counter

import pytest

from ovd.vocabulary.classes import COCO_IDS, COCO_NAMES, LVIS_NAMES, LVIS_V1, VOC_NAMES, canonical


def test_coco_ids_and_names_are_those_of_the_real_file(shared):
    file = json.loads((shared / "data/coco128/instances_train2017.json").read_bytes())
    assert [(c["id"], c["name"]) for c in file["categories"]] == list(zip(COCO_IDS, COCO_NAMES))


def test_lvis_is_the_real_category_list(shared):
    real = json.loads((shared / "data/lvis_meta/lvis_v1_train_cat_info.json").read_bytes())
    for category, ours in zip(sorted(real, key=lambda c: c["id"]), LVIS_V1, strict=True):
        assert (ours.id, ours.name, ours.synset, list(ours.synonyms), ours.frequency) == tuple(
            category[key] for key in ("id", "name", "synset", "synonyms", "frequency")
        )


def test_lvis_ids_have_no_gaps_and_frequencies_have_the_known_sizes():
    assert [c.id for c in LVIS_V1] == list(range(1, 1204))
    assert Counter(c.frequency for c in LVIS_V1) == {"f": 405, "c": 461, "r": 337}


@pytest.mark.parametrize(("names", "count"), [(COCO_NAMES, 80), (VOC_NAMES, 20), (LVIS_NAMES, 1203)])
def test_names_are_unique(names, count):
    assert len(set(map(canonical, names))) == len(names) == count


def test_both_spellings_of_the_speaker_are_one_class():
    assert canonical("speaker_(stereo_equipment)") == "speaker_(stero_equipment)" in LVIS_NAMES
    assert canonical("stereo_(sound_system)") == "stereo_(sound_system)"
