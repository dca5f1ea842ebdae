"""Head surgery from the command line: the file, its names, what is refused."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ovd.engine.checkpoints import read_checkpoint
from ovd.errors import UserError
from ovd.stores.class_heads import ClassHead
from ovd.stores.class_registry import ClassRegistry
from ovd.stores.manifest import Manifest
from ovd.vocabulary.splits import Split
from pipelines.head_surgery import head_surgery

ROOT = Path(__file__).resolve().parents[2]
BASE, NOVEL = ("ant", "bee", "cat"), ("dog", "elk")


def write(path: Path, names, seed: int = 0, meta: dict | None = None) -> Path:
    generator = torch.Generator().manual_seed(seed)
    weights = {"neck.weight": torch.ones(2), "roi_head.bbox_head.fc_cls.weight": torch.randn(
        len(names) + 1, 6, generator=generator)}
    torch.save({"state_dict": weights, "meta": {"classes": list(names), "iter": 7} if meta is None else meta}, path)
    return path


@pytest.fixture
def files(tmp_path):
    write(tmp_path / "base.pth", BASE)
    write(tmp_path / "novel.pth", NOVEL, seed=1)
    Split("tiny", "custom", base=BASE, novel=NOVEL).save(tmp_path / "split.json")
    return tmp_path


def rows(path: Path) -> torch.Tensor:
    return read_checkpoint(path)["state_dict"]["roi_head.bbox_head.fc_cls.weight"]


def test_the_command_writes_a_checkpoint_with_the_split_s_names(files):
    command = [sys.executable, "-m", "pipelines.cli", "head-surgery", str(files / "base.pth"), "--split",
               str(files / "split.json"), "--out", str(files / "init.pth"), "--seed", "3"]
    first = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "new (random)         2 classes: dog, elk" in first.stdout
    contents = read_checkpoint(files / "init.pth")
    assert contents["meta"] == {"classes": [*BASE, *NOVEL], "num_base": 3, "iter": 7}
    assert torch.equal(rows(files / "init.pth")[:3], rows(files / "base.pth")[:3])
    assert Manifest.read(files / "init.pth").counts == {"copied": 3, "made": 2, "removed": 0}
    assert head_surgery(files / "base.pth", files / "init.pth", split=str(files / "split.json"), seed=3) is None
    before = (files / "init.pth").read_bytes()
    head_surgery(files / "base.pth", files / "init.pth", split=str(files / "split.json"), seed=3, overwrite=True)
    assert (files / "init.pth").read_bytes() == before


def test_novel_rows_alone_are_trained_and_put_beside_the_base_rows(files):
    split = str(files / "split.json")
    head_surgery(files / "base.pth", files / "start.pth", split=split, part="novel")
    assert read_checkpoint(files / "start.pth")["meta"]["classes"] == list(NOVEL)
    head_surgery(files / "base.pth", files / "both.pth", split=split, method="combine",
                 novel_checkpoint=files / "novel.pth")
    both, base, novel = (rows(files / f"{name}.pth") for name in ("both", "base", "novel"))
    assert torch.equal(both, torch.cat([base[:3], novel[:2], base[3:]]))
    head_surgery(files / "both.pth", files / "back.pth", classes=BASE, method="remove")
    assert torch.equal(rows(files / "back.pth"), base)


def test_rows_from_names(files):
    weights = torch.nn.functional.normalize(torch.randn(5, 1, 4, generator=torch.Generator().manual_seed(0)), dim=-1)
    ClassHead(names=(*BASE, *NOVEL), weights=weights).save(files / "head.safetensors")
    operation = head_surgery(files / "base.pth", files / "text.pth", split=str(files / "split.json"), method="text",
                             class_head=files / "head.safetensors")
    assert operation.made == NOVEL and operation.kind == "text" and rows(files / "text.pth").isfinite().all()
    ClassRegistry(files / "registry").add(ClassHead.load(files / "head.safetensors"))
    head_surgery(files / "base.pth", files / "again.pth", split=str(files / "split.json"), method="text",
                 class_head=files / "registry")
    assert torch.allclose(rows(files / "again.pth"), rows(files / "text.pth"), atol=1e-6)


def test_the_checkpoint_that_is_read_is_not_overwritten(files):
    before = (files / "base.pth").read_bytes()
    with pytest.raises(UserError, match="is the file that is read; name another one"):
        head_surgery(files / "base.pth", files / "base.pth", classes=("ant", "gnu"), overwrite=True)
    assert (files / "base.pth").read_bytes() == before


def test_names_of_a_checkpoint_that_does_not_carry_them(files):
    write(files / "nameless.pth", BASE, meta={})
    (files / "names.txt").write_text("ant\nbee\ncat\n")
    with pytest.raises(UserError, match=r"nameless\.pth: does not carry.*--names"):
        head_surgery(files / "nameless.pth", files / "x.pth", classes=("ant",), method="remove")
    done = head_surgery(files / "nameless.pth", files / "x.pth", classes=("cat",), method="remove",
                        names=str(files / "names.txt"))
    assert done.removed == ("ant", "bee")


@pytest.mark.parametrize(("options", "says"), [
    ({"classes": ("ant", "bees"), "method": "remove"}, "no class 'bees'; did you mean bee"),
    ({"split": "other.json"}, r"has no row for 2 base classes of split .*other\.json, the first is 'antelope'"),
    ({"split": "split.json", "part": "all", "method": "combine"}, "--method combine needs --novel-checkpoint FILE"),
    ({"classes": ("ant",), "class_head": "head.safetensors"}, "--class-head: belongs to --method text"),
    ({"classes": ("gnu", "Gnu")}, "class 'gnu' is named twice, the second time as 'Gnu'"),
    ({"classes": ("Ant",)}, "the checkpoint has the class 'ant', another spelling of 'Ant'; write it as there"),
    ({"classes": ("ant",), "part": "novel"}, "--part: belongs to --split"),
    ({"classes": ("ant",), "out": "x.safetensors"}, r"name a \.pth file"),
    ({"classes": ("ant",), "checkpoint": "absent.pth"}, r"absent\.pth: no such file"),
])
def test_mistakes_are_one_clear_line(files, options, says):
    Split("other", "custom", base=("antelope", "bee", "deer")).save(files / "other.json")
    options = {"checkpoint": "base.pth", "out": "x.pth", **options}
    for key in ("checkpoint", "out", "class_head", "split"):
        if key in options:
            options[key] = str(files / options[key]) if key == "split" else files / options[key]
    with pytest.raises(UserError, match=says):
        head_surgery(**options)
    assert not (files / "x.pth").exists()
