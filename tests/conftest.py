"""Fixtures that every test may use."""

import os
from pathlib import Path

import pytest

import ovd  # noqa: F401 (before mmdet: it stands in for mmcv's compiled operators)

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("OVD_TEST_DATA", ROOT.parent / "shared"))

os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's root folder."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data for tests, beside the project (``OVD_TEST_DATA`` names another place); skips where absent."""
    if not (SHARED / "data" / "README.md").exists():
        pytest.skip(f"needs the real-data folder {SHARED.name}/ beside the project (or OVD_TEST_DATA)")
    return SHARED
