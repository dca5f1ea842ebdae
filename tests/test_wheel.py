"""An installed package, apart from any checkout: it has the configs, the recipes and the demo model with it."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from ovd.data.shapes.dataset import scene

ROOT = Path(__file__).parents[1]
PARTS = ("ovd", "pipelines", "configs", "setup.py", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The contents of a wheel, made of a copy of what it is made of (and of a download that must stay out)."""
    copy, site = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / part, copy)
    (copy / "pretrained").mkdir()
    for file in (ROOT / "pretrained").glob("shapes_*"):
        shutil.copy(file, copy / "pretrained")
    (copy / "pretrained/downloaded.safetensors").write_bytes(b"large")
    earlier = copy / "build/lib/ovd/_shipped/configs"  # what an earlier build left
    earlier.mkdir(parents=True)
    (earlier / "gone.py").touch()
    done = subprocess.run([sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--quiet",
                           "--wheel-dir", copy / "dist", copy], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next((copy / "dist").glob("*.whl"))) as wheel:
        wheel.extractall(site)
    return site


def run(installed, folder, *command):
    done = subprocess.run([sys.executable, *map(str, command)], cwd=folder, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_files_beside_the_code_are_in_it_and_nothing_else(installed):
    shipped = installed / "ovd" / "_shipped"
    assert {path.name for path in (shipped / "pretrained").iterdir()} == \
        {path.name for path in (ROOT / "pretrained").glob("shapes_*")}
    ours = sorted(path.relative_to(ROOT) for path in (ROOT / "configs").rglob("*.*") if "__pycache__" not in path.parts)
    assert sorted(path.relative_to(shipped) for path in (shipped / "configs").rglob("*.*")) == ours
    assert {path.name for path in installed.iterdir() if path.suffix != ".dist-info"} == {"ovd", "pipelines"}


def test_words_find_things_without_a_checkout(installed, tmp_path):
    pixels, _ = scene(seed=7, subset=0, index=10, size=192, weighted=False)
    Image.fromarray(pixels).save(tmp_path / "scene.png")
    said = run(installed, tmp_path, "-m", "pipelines.cli", "detect", "scene.png", "--words", "dotted blue heart")
    assert "1 of 1 classes: dotted blue heart" in said
    assert (tmp_path / "detections/pictures/scene.png.jpg").exists()


def test_configs_are_found_by_their_usual_names(installed, tmp_path):
    said = run(installed, tmp_path, "-m", "pipelines.cli", "doctor", "configs/recipes/demo.py")
    assert "ovd run configs/recipes/demo.py" in said
    code = ("import ovd; from ovd.engine.config import load_config\n"
            "print(ovd.__file__, load_config('configs/shapes/vild.py').filename)")
    paths = run(installed, tmp_path, "-c", code).split()
    assert all(Path(path).is_relative_to(installed) for path in paths)
    (tmp_path / "configs/shapes").mkdir(parents=True)
    (tmp_path / "configs/shapes/vild.py").write_text("model = dict(type='mine')\n")
    code = "from ovd.engine.config import load_config; print(load_config('configs/shapes/vild.py').model.type)"
    assert run(installed, tmp_path, "-c", code) == "mine\n"  # one's own comes first
