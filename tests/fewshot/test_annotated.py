"""Rows of a store joined with the annotations that they are of."""

import copy

import numpy as np
import pytest
from annotated_world import NAMES, embed, make_records, write_annotations, write_store

from ovd.data.annotations import load_annotations
from ovd.errors import UserError
from ovd.fewshot.annotated import AnnotatedObjects


def joined(tmp_path, contents, stored=None, names=NAMES):
    """``contents`` with the store that was made of ``stored``."""
    stored = stored or contents
    store = write_store(tmp_path / "store", stored, embed(stored))
    path = write_annotations(tmp_path, contents)
    return AnnotatedObjects.join(store, load_annotations(path), path, names)


def test_every_row_has_its_annotation_also_of_unordered_files(tmp_path):
    contents = make_records(9)
    np.random.default_rng(0).shuffle(contents["annotations"])
    contents["images"].reverse()
    objects = joined(tmp_path, contents)
    rows, by_id = embed(contents), {a["id"]: a for a in contents["annotations"]}
    assert len(objects) == 36 and sorted(objects.annotation_ids) == sorted(by_id) and objects.left_out == 0
    found = objects.embeddings(np.arange(36)[::-1])[::-1]
    for row, annotation_id in enumerate(objects.annotation_ids.tolist()):
        record = by_id[annotation_id]
        assert NAMES[objects.labels[row]] == NAMES[record["category_id"] - 1]
        assert objects.image_ids[row] == record["image_id"] == objects.store.image_ids[objects.image_of[row]]
        assert objects.boxes[row].tolist()[:2] == record["bbox"][:2]
        np.testing.assert_allclose(found[row], rows[annotation_id], atol=1e-3)
    blocks = list(objects.blocks(10))
    assert [len(rows) for _, rows in blocks] == [10, 10, 10, 6]
    np.testing.assert_array_equal(np.concatenate([rows for _, rows in blocks]), found)


def test_other_labels_are_fine_and_boxes_that_are_not_stored_are_counted(tmp_path):
    contents = make_records(6)
    stored = copy.deepcopy(contents)
    del stored["annotations"][5]
    contents["annotations"][0]["category_id"] = 1 + contents["annotations"][0]["category_id"] % 4
    objects = joined(tmp_path, contents, stored)
    assert objects.left_out == 1 and len(objects) == 23 and 6 not in objects.annotation_ids
    assert objects.labels[objects.annotation_ids == 1] == contents["annotations"][0]["category_id"] - 1


def moved(contents):
    contents["annotations"][7]["bbox"][0] += 1


def removed(contents):
    del contents["annotations"][3]


def swapped(contents):
    here = contents["annotations"]
    here[0], here[1] = here[1], here[0]


@pytest.mark.parametrize("change", [moved, removed, swapped])
def test_a_store_of_other_boxes_is_refused(tmp_path, change):
    stored = make_records(5)
    contents = copy.deepcopy(stored)
    change(contents)
    with pytest.raises(UserError, match=r"its boxes of image \d+ are not those that .*train.json has: .*ovd proposals"):
        joined(tmp_path, contents, stored)


def test_stores_of_other_images_are_refused(tmp_path):
    five, six = make_records(5), make_records(6)
    with pytest.raises(UserError, match="holds no regions of 1 image"):
        joined(tmp_path / "a", six, five)
    with pytest.raises(UserError, match=r"has 6 images, .*train.json has 5"):
        joined(tmp_path / "b", five, six)
