import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ovd.data.encoded_stream import split_images
from ovd.errors import UserError


class Drip(io.RawIOBase):
    """A stream that gives a few bytes at a time, as a pipe may."""

    def __init__(self, data, step):
        self.data, self.step = data, step

    def read(self, count=-1):
        taken, self.data = self.data[:self.step], self.data[self.step:]
        return taken


def encoded(seed, form, options):
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 256, (*generator.integers(1, 40, 2), 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **options)
    return buffer.getvalue()


FORMS = [("PNG", {}), ("JPEG", {}), ("JPEG", {"progressive": True}), ("JPEG", {"restart_marker_blocks": 1}),
         ("JPEG", {"quality": 100, "subsampling": 0}), ("JPEG", {"comment": b"\xff\xd9\xff\xd8 inside a segment"})]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9999), st.sampled_from(FORMS)), max_size=5), st.integers(1, 5000))
def test_images_come_out_as_they_went_in(images, step):
    written = [encoded(seed, *form) for seed, form in images]
    assert list(split_images(Drip(b"".join(written), step))) == written


@pytest.mark.parametrize("form", [0, 1, 2])
@pytest.mark.parametrize("kept", [1, 2, 5, 20, 0.5, -1])
def test_a_cut_off_image_is_refused_after_the_whole_ones(form, kept):
    whole, last = encoded(1, *FORMS[0]), encoded(2, *FORMS[form])
    cut = last[:int(len(last) * kept) if isinstance(kept, float) else kept]
    images = split_images(io.BytesIO(whole + cut))
    assert next(images) == whole
    with pytest.raises(UserError, match="image 1 of the stream"):
        next(images)


def test_something_else_is_refused():
    with pytest.raises(UserError, match="neither JPEG nor PNG"):
        list(split_images(io.BytesIO(b"GIF89a......")))
