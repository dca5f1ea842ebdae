"""Image files by id: those that were given, as with a dict, in a fraction of its memory."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from ovd.clip.image_files import ImageFiles
from ovd.clip.shard_job import ImageFile


def some(count, seed=0):
    rng = np.random.default_rng(seed)
    ids = rng.choice(10**12, count, replace=False).tolist()
    return [(i, f"train/{'ü' * (i % 3)}{i}.jpg", int(w), int(h)) for i, (w, h) in zip(ids, rng.integers(1, 9000,
                                                                                                       (count, 2)))]


def test_files_are_those_that_were_given_and_survive_pickling():
    given = some(200)
    files = pickle.loads(pickle.dumps(ImageFiles(Path("/data"), iter(given))))
    assert dict(files) == {i: ImageFile(Path("/data") / name, w, h) for i, name, w, h in given}
    assert list(files) == sorted(i for i, *_ in given) and len(files) == 200


def test_ids_that_are_not_there_are_no_files():
    files = ImageFiles(Path(), [(5, "a.jpg", 1, 2), (3, "b.jpg", 3, 4)])
    assert 3 in files and 4 not in files and 6 not in files
    for absent in (2, 4, 6):
        with pytest.raises(KeyError):
            files[absent]
    assert len(ImageFiles(Path(), [])) == 0 and 1 not in ImageFiles(Path(), [])


def test_an_image_takes_some_fifty_bytes():
    assert len(pickle.dumps(ImageFiles(Path("/data"), some(1000)))) < 60 * 1000
