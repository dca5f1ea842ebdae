"""Images as people have them: every form of one picture is the same picture, and a broken one is named."""

import numpy as np
import pytest
from PIL import Image

from ovd.apis.images import read_rgb
from ovd.errors import UserError


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)


def test_files_pil_and_arrays_are_one_picture(picture, tmp_path):
    Image.fromarray(picture).save(tmp_path / "a.png")
    rgba = np.concatenate([picture, np.full((40, 60, 1), 77, np.uint8)], axis=2)
    for image in (picture, tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(picture),
                  Image.open(tmp_path / "a.png"), rgba, Image.fromarray(rgba)):
        assert np.array_equal(read_rgb(image), picture)


def test_grey_is_grey_in_every_form(picture, tmp_path):
    grey = picture[..., 0]
    Image.fromarray(grey.astype(np.uint16) * 256).save(tmp_path / "deep.png")
    expected = np.stack([grey] * 3, axis=2)
    for image in (grey, grey[..., None], Image.fromarray(grey), tmp_path / "deep.png",
                  Image.fromarray(grey.astype(np.uint16) * 256)):
        assert np.array_equal(read_rgb(image), expected)


def test_a_palette_is_its_colours(picture):
    image = Image.fromarray(picture).quantize(16)
    assert np.array_equal(read_rgb(image), np.asarray(image.convert("RGB")))


def test_a_photo_is_upright_whether_a_file_or_an_image(picture, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture).save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as image:
        for photo in (tmp_path / "turned.png", image):
            assert np.array_equal(read_rgb(photo), np.rot90(picture, -1))


def test_a_detector_says_which_image_is_broken(detector, files, tmp_path):
    whole = files[0].read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[:len(whole) // 2])
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "phone.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    Image.new("1", (20_000, 20_000)).save(tmp_path / "large.png")
    for name, said in (("cut.png", "cut off or damaged"), ("text.jpg", "not an image"), (".", "is a folder"),
                       ("phone.HEIC", "convert it to JPEG"), ("large.png", "more than 179 million pixels")):
        with pytest.raises(UserError, match=said) as error:
            detector.detect([files[0], tmp_path / name])
        assert str(tmp_path / name) in str(error.value)


@pytest.mark.parametrize("shape", [(1, 500), (500, 1), (2, 3000)])
def test_an_image_of_which_a_side_would_vanish_is_refused(detector, picture, shape):
    with pytest.raises(UserError, match=f"{shape[1]} x {shape[0]} pixels is too narrow"):
        detector.detect([picture, np.zeros((*shape, 3), np.uint8)])


@pytest.mark.parametrize("wrong, said", [
    (np.zeros((4, 4, 3)), "float64 is no image: give uint8"), (np.zeros((4, 4, 2), np.uint8), "one channel for grey"),
    (np.zeros((0, 4, 3), np.uint8), r"\[0, 4, 3\]"), (np.zeros((2, 4, 4, 3), np.uint8), "no image"),
    (7, "int is no image"), (None, "NoneType is no image")])
def test_what_is_no_image_is_refused(detector, wrong, said):
    with pytest.raises(UserError, match=said):
        detector.detect(wrong)
