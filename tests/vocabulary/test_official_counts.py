"""Counts of the official files against the metadata that is at hand."""

import json

from ovd.vocabulary.official import RESULTS, SOURCES, Counts, is_official
from ovd.vocabulary.splits import SPLITS, Split


def test_lvis_training_counts_are_sums_over_the_real_categories(shared):
    real = json.loads((shared / "data/lvis_meta/lvis_v1_train_cat_info.json").read_bytes())
    by_frequency = {f: sum(c["instance_count"] for c in real if c["frequency"] == f) for f in "fcr"}
    assert SOURCES["lvis_v1", "train"].annotations == sum(by_frequency.values())
    assert RESULTS["866_337", "train"].annotations == by_frequency["f"] + by_frequency["c"]


def test_counts_of_a_split_fit_into_its_source():
    for (name, subset), result in RESULTS.items():
        source = SOURCES[SPLITS[name].dataset, subset]
        assert result.images == source.images and result.annotations <= source.annotations
    # The differences are those of the published file lists.
    assert RESULTS["48_17", "train"].annotated_images == 118_287 - 10_526
    assert RESULTS["48_17", "val"].annotated_images == 5_000 - 164


def test_differences_name_what_is_known_and_differs():
    found = Counts(10, 2_000, 3)
    assert found.differences(Counts(10, 2_000)) == []
    differences = ["2,000 annotations instead of 1,000", "3 with objects instead of 4"]
    assert found.differences(Counts(10, 1_000, 4)) == differences


def test_only_built_in_splits_of_a_full_file_are_official():
    assert is_official(SPLITS["48_17"], "train", 118_287) and is_official(SPLITS["866_337"], "val", 19_809)
    assert not is_official(SPLITS["48_17"], "val", 118_287)
    assert not is_official(SPLITS["voc_split1"], "train", 118_287)
    assert not is_official(Split("48_17", "coco", ("person",)), "train", 118_287)
