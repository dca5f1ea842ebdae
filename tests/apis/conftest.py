"""The demo model, loaded once, and scenes that it was not trained on."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ovd
from ovd.data.shapes.dataset import scene


@pytest.fixture(scope="session")
def loaded():
    return ovd.load("demo", device="cpu")


@pytest.fixture
def detector(loaded):
    """A session of its own for each test."""
    return loaded.session()


@pytest.fixture(scope="session")
def scenes() -> list[tuple[np.ndarray, list]]:
    """Pixels and objects. Scene 10 has a striped green crown and four more that are all found."""
    return [scene(7, 0, index, 192, False) for index in range(12)]


@pytest.fixture(scope="session")
def files(scenes, tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("scenes")
    paths = [folder / f"{index}.png" for index in range(len(scenes))]
    for path, (pixels, _) in zip(paths, scenes):
        Image.fromarray(pixels).save(path)
    return paths
