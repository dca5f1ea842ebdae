"""Image files become what training sees of them, whatever kind of pixels they hold."""

import cv2
import numpy as np
import pytest
from PIL import Image

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
