"""Files of one image each: DetPro's and OADP's layouts, and refusals that name the file."""

import re
import zipfile

import numpy as np
import pytest
import torch
from test_shards import make_regions

from ovd.errors import UserError
from ovd.stores.per_image import checksum, file_name, is_whole, load_image, save_image


def test_the_layouts_are_the_documented_ones(tmp_path):
    regions = make_regions(3, 8, 5)
    path = tmp_path / file_name(3)
    assert path.name == "000000000003.pth"
    save_image(path, regions, "detpro")
    found = torch.load(path, weights_only=True)
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(found, regions.embeddings)
    save_image(path, regions, "oadp")
    found = torch.load(path, weights_only=True)
    assert {key: (value.dtype, list(value.shape)) for key, value in found.items()} == {
        "embeddings": (torch.float16, [5, 8]), "bboxes": (torch.float16, [5, 4]), "objectness": (torch.float16, [5, 1])}
    np.testing.assert_array_equal(found["bboxes"], regions.boxes.astype(np.float16))
    np.testing.assert_array_equal(found["objectness"][:, 0], regions.scores.astype(np.float16))


@pytest.mark.parametrize("layout", ["detpro", "oadp"])
def test_what_is_saved_is_loaded_and_the_bytes_are_the_contents(tmp_path, layout):
    regions = make_regions(3, 8, 5)
    for name in ("a", "b"):
        save_image(tmp_path / name, regions, layout)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    embeddings, boxes, scores = load_image(tmp_path / "a", layout)
    np.testing.assert_array_equal(embeddings, regions.embeddings)
    if layout == "oadp":
        np.testing.assert_array_equal(boxes, regions.boxes.astype(np.float16))
        np.testing.assert_array_equal(scores, regions.scores.astype(np.float16))
    save_image(tmp_path / "b", make_regions(4, 8, 5), layout)
    assert checksum(tmp_path / "a") != checksum(tmp_path / "b")


def test_a_cut_file_is_not_whole(tmp_path):
    path = tmp_path / "a.pth"
    save_image(path, make_regions(3, 64, 50), "detpro")
    assert is_whole(path) and not is_whole(tmp_path / "none")
    data = path.read_bytes()
    for size in (0, 1, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        assert not is_whole(path)
        with pytest.raises(UserError, match=r"a\.pth: cannot be read"):
            load_image(path, "detpro")
        if size > 1:
            with pytest.raises(UserError, match=r"a\.pth: cannot be read .*cut"):
                checksum(path)


class Code:
    def __reduce__(self):
        return print, ("ran",)


GOOD = {"embeddings": torch.ones(2, 8), "bboxes": torch.ones(2, 4), "objectness": torch.ones(2, 1)}


@pytest.mark.parametrize(("layout", "content", "message"), [
    ("detpro", GOOD, "the tensor is a dict, expected a tensor .*--layout"),
    ("detpro", torch.ones(2, 8, dtype=torch.long), "expected a tensor of floating-point numbers"),
    ("detpro", torch.ones(8), r"the tensor has shape \[8\], expected \[n, width\]"),
    ("oadp", torch.ones(2, 8), "holds a tensor, expected a dict of embeddings, bboxes, objectness; .*--layout"),
    ("oadp", {"embeddings": torch.ones(2, 8)}, "holds a dict of embeddings, expected"),
    ("oadp", GOOD | {"bboxes": torch.ones(3, 4)}, "2 embeddings, 3 bboxes and 2 objectness"),
    ("oadp", GOOD | {"bboxes": torch.ones(2, 5)}, r"bboxes has shape \[2, 5\], expected \[n, 4\]"),
    ("oadp", GOOD | {"objectness": [1, 2]}, "objectness is a list"),
    ("detpro", Code(), "holds other things than tensors"),
])
def test_other_contents_are_refused_by_file(tmp_path, capsys, layout, content, message):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(UserError, match=f"^{re.escape(str(tmp_path))}/a.pth: .*{message}"):
        load_image(tmp_path / "a.pth", layout)
    assert "ran" not in capsys.readouterr().out


def test_files_of_an_older_torch_are_read(tmp_path):
    torch.save(torch.ones(2, 8), tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    assert not zipfile.is_zipfile(tmp_path / "a.pth")
    assert load_image(tmp_path / "a.pth", "detpro")[0].shape == (2, 8)
    assert checksum(tmp_path / "a.pth").startswith("sha256:")


def test_a_coordinate_beyond_float16_is_refused(tmp_path):
    regions = make_regions(3, 8, 2)
    regions.boxes[1, 2] = 70_000
    with pytest.raises(UserError, match="beyond 65504 pixels"):
        save_image(tmp_path / "a.pth", regions, "oadp")
    assert not list(tmp_path.iterdir())
