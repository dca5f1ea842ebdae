"""Image files become what training sees of them, whatever kind of pixels they hold."""

import cv2
import numpy as np
import pytest
from PIL import ExifTags, Image

from ovd.apis.images import read_rgb
from ovd.data.rgb import load_rgb

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 17, 3), dtype=np.uint8)


def picture(kind):
    image = Image.fromarray(PIXELS)
    if kind == "16 bits":
        return Image.fromarray(np.arange(12 * 17, dtype=np.uint16).reshape(12, 17) * 321)
    if kind == "transparent palette":
        palette = image.quantize(20)
        palette.info["transparency"] = b"\x00\xff"
        return palette
    return image.convert(kind)


@pytest.mark.parametrize("kind", ["RGB", "RGBA", "L", "LA", "1", "16 bits", "transparent palette"])
def test_pixels_are_those_that_training_reads(kind, tmp_path):
    path = tmp_path / "image.png"
    picture(kind).save(path)
    np.testing.assert_array_equal(np.asarray(load_rgb(path, 17, 12)), cv2.imread(str(path))[..., ::-1])


@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_of_an_animation_the_first_picture_is_taken(suffix, tmp_path):
    path, palette = tmp_path / f"image.{suffix}", Image.fromarray(PIXELS).quantize(16).convert("RGB")
    palette.save(path, save_all=True, append_images=[palette.rotate(180)])
    np.testing.assert_array_equal(np.asarray(load_rgb(path)), np.asarray(palette))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_turned_upright_where_asked(orientation, tmp_path):
    path, exif = tmp_path / "photo.png", Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(PIXELS).save(path, exif=exif)
    stored = PIXELS
    upright = {1: stored, 2: stored[:, ::-1], 3: stored[::-1, ::-1], 4: stored[::-1], 5: stored.transpose(1, 0, 2),
               6: np.rot90(stored, -1), 7: stored[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(stored)}[orientation]
    np.testing.assert_array_equal(np.asarray(load_rgb(path)), stored)
    np.testing.assert_array_equal(np.asarray(load_rgb(path, upright=True)), upright)
    np.testing.assert_array_equal(read_rgb(path), upright)
    with Image.open(path) as image:
        np.testing.assert_array_equal(read_rgb(image), upright)
