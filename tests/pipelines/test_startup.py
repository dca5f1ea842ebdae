"""Starting up is quick because nothing heavy is imported until it is needed: which modules, not how long."""

import subprocess
import sys

import pytest

from pipelines.cli import STAGES

# Packages that take a tenth of a second or more to import, or that bring such ones along.
HEAVY = {"torch", "torchvision", "mmcv", "mmengine", "mmdet", "open_clip", "cv2", "matplotlib", "faiss", "h5py",
         "scipy", "pandas", "PIL", "pycocotools", "hotcoco", "gradio", "ray", "supervision", "transformers", "timm",
         "tensorboard", "wandb", "playwright"}


def loaded_by(code: str, root) -> set[str]:
    """Top-level packages that a fresh interpreter has after the code, which may end with SystemExit."""
    script = ("import contextlib, io, sys\n"
              "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
              f"    {code}\n"
              "print(*sorted({name.partition('.')[0] for name in sys.modules}))")
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_the_package_alone_loads_no_other(root):
    assert not loaded_by("import ovd", root) & (HEAVY | {"numpy", "msgspec", "tqdm", "safetensors"})


def test_the_list_of_stages_loads_no_other(root):
    assert not loaded_by("import pipelines.cli; pipelines.cli.main(['--help'])", root) & (HEAVY | {"numpy", "msgspec"})


@pytest.mark.parametrize("stage", STAGES)
def test_the_help_of_a_stage_loads_nothing_heavy(stage, root):
    loaded = loaded_by(f"import pipelines.cli; pipelines.cli.main([{stage!r}, '--help'])", root)
    assert "argparse" in loaded  # it did run
    assert not loaded & HEAVY


def test_the_check_sees_what_is_loaded(root):
    assert "PIL" in loaded_by("import PIL", root)
