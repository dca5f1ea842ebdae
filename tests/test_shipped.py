"""The project's own files, asked for from another folder."""

from pathlib import Path

import pytest

from ovd.engine.config import load_config
from ovd.errors import UserError
from ovd.shipped import CONFIGS, located, shown
from pipelines.running.journal import code_digest
from pipelines.running.recipe_file import load_recipe

VILD = "configs/shapes/vild.py"


def test_configs_are_named_the_same_from_everywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(CONFIGS.parent)
    assert located(VILD) == Path(VILD) == shown(CONFIGS / "shapes" / "vild.py")
    digest = code_digest([["train", VILD]])
    monkeypatch.chdir(tmp_path)
    assert located(VILD) == CONFIGS / "shapes" / "vild.py" and shown(located(VILD)) == Path(VILD)
    assert load_config(VILD).model.type and load_recipe("configs/recipes/demo.py", None).stages
    assert code_digest([["train", VILD]]) == digest != code_digest([["train"]])
    assert located("other/vild.py") == Path("other/vild.py") == shown(Path("other/vild.py"))
    assert shown(Path("/elsewhere/vild.py")) == Path("/elsewhere/vild.py")


def test_ones_own_config_of_the_same_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mine = tmp_path / VILD
    mine.parent.mkdir(parents=True)
    mine.write_text("model = dict(type='mine')\n")
    assert load_config(VILD).model.type == "mine"


def test_a_config_that_is_not_there_is_told_with_the_nearest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"vlid\.py: no such config; did you mean configs/shapes/vild\.py"):
        load_config("configs/shapes/vlid.py")
    with pytest.raises(UserError, match=r"nowhere/vild\.py: no such config; the project's own are in configs$"):
        load_config("nowhere/vild.py")
