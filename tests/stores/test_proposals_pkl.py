"""Proposal files keep to the order that is said, give boxes to the right images, and never run code."""

import io
import os
import pickle
import pickletools
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovd.errors import UserError
from ovd.stores.proposals_pkl import load_proposals, save_proposals
from ovd.stores.shards import RegionStore


@dataclass
class Photo:
    id: int
    height: int
    width: int


# in the order of the json; only the one order gives every image boxes that fit
PHOTOS = [Photo(30, 100, 200), Photo(10, 200, 100), Photo(20, 50, 50)]


def proposals_of(photo: Photo, count: int = 5) -> np.ndarray:
    rng = np.random.default_rng(photo.id)
    size = np.array([photo.width, photo.height])
    corners = np.sort(rng.uniform(0, 1, (count, 2, 2)), axis=1) * size
    corners[0] = [[0, 0], size]  # a box as large as the image tells the images apart
    scores = np.sort(rng.uniform(size=count))[::-1]
    return np.concatenate([corners.reshape(count, 4), scores[:, None]], axis=1).astype(np.float32)


def dump(path, entries, protocol=4):
    path.write_bytes(pickle.dumps(entries, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("order", ["json", "sorted"])
def test_entries_go_to_their_images_in_the_order_that_is_said(tmp_path, order, protocol):
    ordered = PHOTOS if order == "json" else sorted(PHOTOS, key=lambda p: p.id)
    path = dump(tmp_path / "p.pkl", [proposals_of(photo) for photo in ordered], protocol)
    found = load_proposals(path, PHOTOS, order)
    assert found.keys() == {10, 20, 30}
    for photo in PHOTOS:
        np.testing.assert_array_equal(found[photo.id].boxes, proposals_of(photo)[:, :4])
        np.testing.assert_array_equal(found[photo.id].scores, proposals_of(photo)[:, 4])


def test_the_other_order_is_noticed_and_named(tmp_path):
    path = dump(tmp_path / "p.pkl", [proposals_of(photo) for photo in PHOTOS])
    with pytest.raises(UserError, match=r"p\.pkl: entry 0 has the box \[0\.0, 0\.0, 200\.0, 100\.0\] outside image 10 "
                                        r"\(100 x 200\) with order 'sorted'; all boxes fit with order 'json'"):
        load_proposals(path, PHOTOS, "sorted")
    dump(path, [proposals_of(Photo(1, 999, 999))] * 3)
    with pytest.raises(UserError, match=r"image 30 .*no order fits: these are proposals of other images"):
        load_proposals(path, PHOTOS, "json")
    with pytest.raises(UserError, match="unknown order 'jsn'; did you mean json"):
        load_proposals(path, PHOTOS, "jsn")


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_export_and_import_give_the_same_store(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("pkl")
    ids = data.draw(st.lists(st.integers(0, 10**12), min_size=1, max_size=9, unique=True))
    photos = [Photo(i, 480, 640) for i in ids]
    order = data.draw(st.sampled_from(["json", "sorted"]))
    counts = {i: data.draw(st.integers(0, 4)) for i in ids}
    first = {p.id: proposals_of(p)[:counts[p.id]] for p in photos}
    ordered = photos if order == "json" else sorted(photos, key=lambda p: p.id)
    found = load_proposals(dump(folder / "a.pkl", [first[p.id] for p in ordered]), photos, order)
    writer = RegionStore.create(folder / "store", "proposals", ids, 4)
    for shard in writer.missing():
        writer.write(shard, {i: found[i] for i in writer.image_ids(shard)})
    writer.finish("proposals", {}, {})
    for again in ("json", "sorted"):
        save_proposals(folder / "b.pkl", RegionStore(folder / "store"), photos, again)
        exported = pickle.loads((folder / "b.pkl").read_bytes())
        expected = photos if again == "json" else sorted(photos, key=lambda p: p.id)
        assert [e.shape[1] for e in exported] == [5] * len(ids) and {e.dtype for e in exported} == {np.dtype("f4")}
        for entry, photo in zip(exported, expected):
            np.testing.assert_array_equal(entry, first[photo.id])
    assert pickletools.genops((folder / "b.pkl").read_bytes()).__next__()[1] == 4, "pickle protocol"


def test_export_of_images_that_are_not_stored_is_refused(tmp_path):
    writer = RegionStore.create(tmp_path / "store", "proposals", [10, 20])
    found = load_proposals(dump(tmp_path / "p.pkl", [proposals_of(p) for p in PHOTOS[1:]]), PHOTOS[1:], "json")
    writer.write(0, found)
    writer.finish("proposals", {}, {})
    with pytest.raises(UserError, match="image id 30"):
        save_proposals(tmp_path / "out.pkl", RegionStore(tmp_path / "store"), PHOTOS, "json")
    assert not (tmp_path / "out.pkl").exists()


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<f2", "<i4"])
@pytest.mark.parametrize("layout", ["C", "F"])
def test_every_number_type_and_memory_layout_is_read(tmp_path, dtype, layout):
    boxes = np.array([[0, 0, 20, 10, 1], [5, 5, 9, 40, 0]], dtype, order=layout)
    found = load_proposals(dump(tmp_path / "p.pkl", [boxes], protocol=2), [Photo(1, 50, 50)], "json")[1]
    np.testing.assert_array_equal(found.boxes, [[0, 0, 20, 10], [5, 5, 9, 40]])
    assert found.scores.tolist() == [1, 0] and found.boxes.dtype == np.float32


def test_boxes_come_best_first_without_empty_ones(tmp_path):
    boxes = np.float32([[0, 0, 0, 0, 0.9], [1, 1, 5, 5, 0.2], [2, 2, 6, 6, 0.8], [3, 3, 3, 9, 0.7], [4, 4, 8, 8, 0.8]])
    photos = [Photo(1, 50, 50), Photo(2, 50, 50), Photo(3, 50, 50)]
    path = dump(tmp_path / "p.pkl", [boxes, np.zeros((1, 4), np.float32), np.zeros((0,), np.float32)])
    found = load_proposals(path, photos, "json")
    assert found[1].boxes[:, 0].tolist() == [2, 4, 1], "equal scores keep their order"
    assert len(found[2]) == len(found[3]) == 0 and found[3].boxes.shape == (0, 4)
    assert load_proposals(path, photos, "json", max_per_image=1)[1].boxes[:, 0].tolist() == [2]


def test_arrays_without_scores_get_one(tmp_path):
    boxes = np.float32([[0, 0, 5, 5], [1, 1, 5, 5]])
    found = load_proposals(dump(tmp_path / "p.pkl", [boxes]), [Photo(1, 50, 50)], "json")[1]
    assert found.scores.tolist() == [1, 1] and found.boxes.tolist() == boxes.tolist()


def with_box(box):
    boxes = proposals_of(PHOTOS[1])
    boxes[2, :len(box)] = box
    return boxes


@pytest.mark.parametrize("entry, message", [
    (with_box([np.nan]), r"entry 1 \(image 10\): box 2 .* is not finite"),
    (with_box([0, 0, 1, 1]).astype(np.float64) * 1e300, "is not finite"),
    (with_box([0, 0, 1, 1, np.inf]), r"entry 1 \(image 10\): box 2 .*score inf, is not finite"),
    (with_box([20, 0, 10, 10]), r"entry 1 \(image 10\): box 2 \[20.0, 0.0, 10.0, 10.0\].* is inverted"),
    (with_box([0, 20, 10, 10]), "is inverted"),
    (with_box([-1.5, 0, 10, 10]), r"entry 1 has the box \[-1.5, 0.0, 10.0, 10.0\] outside image 10"),
    (with_box([0, 0, 10, 201.5]), "outside image 10"),
    (np.zeros((3, 6), np.float32), r"shape \[3, 6\], expected \[n, 5\]"),
    (np.zeros(5, np.float32), r"shape \[5\]"),
    ([np.zeros((3, 5), np.float32)], r"entry 1 \(image 10\) is of type list, expected an array .*detections"),
    (None, "is of type NoneType"),
    (np.array([["a", "b"]]), "arrays of type 'U1', expected numbers"),
    (np.array([{}, 1], object), "arrays of type 'O8', expected numbers"),
])
def test_bad_entries_are_named(tmp_path, entry, message):
    path = dump(tmp_path / "p.pkl", [proposals_of(PHOTOS[0]), entry, proposals_of(PHOTOS[2])])
    with pytest.raises(UserError, match=message) as caught:
        load_proposals(path, PHOTOS, "json")
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_box_may_reach_one_pixel_over_the_border(tmp_path):
    path = dump(tmp_path / "p.pkl", [proposals_of(PHOTOS[0]), with_box([-1, -1, 101, 201]), proposals_of(PHOTOS[2])])
    assert load_proposals(path, PHOTOS, "json")[10].boxes[2].tolist() == [-1, -1, 101, 201]


def test_another_number_of_images_is_refused(tmp_path):
    path = dump(tmp_path / "p.pkl", [proposals_of(photo) for photo in PHOTOS])
    with pytest.raises(UserError, match=r"p\.pkl: proposals of 3 images, but the annotation file has 2"):
        load_proposals(path, PHOTOS[:2], "json")


@pytest.mark.parametrize("value, message", [
    ({"a.jpg": np.zeros((1, 5))}, "is of type dict, expected a list"),
    (np.zeros((3, 5)), "is of type array, expected a list"),
    (7, "is of type int"),
])
def test_files_that_hold_something_else_are_refused(tmp_path, value, message):
    with pytest.raises(UserError, match=message):
        load_proposals(dump(tmp_path / "p.pkl", value), PHOTOS, "json")


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=40), st.floats(0, 1, exclude_max=True))
def test_damaged_files_are_one_clear_line(tmp_path_factory, junk, fraction):
    path = tmp_path_factory.mktemp("pkl") / "p.pkl"
    whole = pickle.dumps([proposals_of(photo) for photo in PHOTOS], protocol=4)
    for data in (junk, whole[:int(fraction * len(whole))]):
        path.write_bytes(data)
        with pytest.raises(UserError, match=r"p\.pkl") as caught:
            load_proposals(path, PHOTOS, "json")
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no such file"):
        load_proposals(path.with_name("none"), PHOTOS, "json")


class Command:
    def __reduce__(self):
        return os.system, ("touch owned",)


class Evaluate:
    def __reduce__(self):
        return eval, ("open('owned', 'w')",)


class Attribute:
    def __reduce__(self):
        return getattr, (np.ndarray, "tofile")


@pytest.mark.parametrize("payload", [Command(), Evaluate(), Attribute(), np.load, np.random.default_rng(0),
                                     {1, Command()}, np.float32(1), np.ma.masked_array([1.0])])
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_malicious_file_runs_nothing(tmp_path, monkeypatch, payload, protocol):
    monkeypatch.chdir(tmp_path)
    path = dump(tmp_path / "p.pkl", [proposals_of(PHOTOS[0]), payload], protocol)
    with pytest.raises(UserError, match=r"p\.pkl: holds .*could run code"):
        load_proposals(path, PHOTOS[:2], "json")
    assert os.listdir(tmp_path) == ["p.pkl"]


@pytest.mark.parametrize("script", [
    b"cos\nsystem\n(S'touch owned'\ntR.",  # the classic
    b"c__builtin__\nexec\n(S'open(\"owned\",\"w\")'\ntR.",
    b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x0btouch owned\x85R.",  # STACK_GLOBAL
    b"cnumpy\nndarray.tofile\n(S'owned'\ntR.", b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.",  # dotted names
    b"(S'touch owned'\nios\nsystem\n.",  # INST
])
def test_hand_made_opcodes_run_nothing(tmp_path, monkeypatch, script):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.pkl").write_bytes(script)
    with pytest.raises(UserError, match="could run code"):
        load_proposals("p.pkl", PHOTOS, "json")
    assert os.listdir(tmp_path) == ["p.pkl"]


def test_files_of_older_numpy_and_python_2_are_read(tmp_path):
    buffer = io.BytesIO()
    pickle.dump([proposals_of(photo) for photo in PHOTOS], buffer, protocol=2)
    old = buffer.getvalue().replace(b"numpy._core", b"numpy.core")
    (tmp_path / "p.pkl").write_bytes(old)
    assert len(load_proposals(tmp_path / "p.pkl", PHOTOS, "json")[20]) == 5

    # protocol 2 of Python 2: the data is a byte string (opcode T), not text to encode
    raw = np.float32([[0, 0, 5, 200, 0.5]]).tobytes()
    array = (b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x01K\x05\x86"
             b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T"
             + len(raw).to_bytes(4, "little") + raw + b"tb")
    (tmp_path / "p.pkl").write_bytes(b"\x80\x02]" + array + b"a.")
    found = load_proposals(tmp_path / "p.pkl", [Photo(1, 200, 100)], "json")[1]
    assert found.boxes.tolist() == [[0, 0, 5, 200]] and found.scores.tolist() == [0.5]
