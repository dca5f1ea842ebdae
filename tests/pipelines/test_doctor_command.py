"""``ovd doctor``: quick, never a traceback, status 1 for what was asked for and is not there."""

import json
import subprocess
import sys

import pytest

from ovd.engine.doctor.machine import Probe
from pipelines import doctor
from pipelines.cli import main

MACHINE = {"torch": "2.11.0", "cuda_build": None, "threads": 1, "driver": None, "devices": [], "operators_from": "ovd",
           "operators": {"cpu": {"nms": ""}}, "faiss": {"version": "1.9", "gpus": 0, "works": True}}


@pytest.fixture
def quick(monkeypatch):
    """Without the processes that load torch."""
    answers = {"machine": dict(MACHINE), "clips": {}}
    monkeypatch.setattr(Probe, "__init__", lambda self, weights: None)
    monkeypatch.setattr(Probe, "result", lambda self: answers)
    return answers


def test_the_whole_of_it_from_the_command_line(root, tmp_path):
    (tmp_path / "mine" / "annotations").mkdir(parents=True)
    (tmp_path / "mine" / "annotations" / "train.json").write_text('{"images": [')
    done = subprocess.run([sys.executable, "-m", "pipelines.cli", "doctor", "--json", "--data-root", tmp_path],
                          cwd=root, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["ok"] and set(report["sections"]) >= {"packages", "devices", "operators", "pretrained weights"}
    assert {one["state"] for one in report["sections"]["operators"]} == {"ok"}
    clips = [one for one in report["sections"]["pretrained weights"] if one["facts"].get("side") == 64]
    assert len(clips) == 1 and clips[0]["facts"]["fingerprint"].startswith("sha256:")
    broken = report["sections"][f"data in {tmp_path / 'mine'}"]
    assert [one["state"] for one in broken] == ["broken"]  # and still status 0: nobody asked for it


def test_what_was_asked_for_and_is_missing_ends_with_status_1(quick, root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(root)
    assert main(["doctor", "configs/shapes/vild.py", "--data-root", str(tmp_path / "new")]) == 1
    told = capsys.readouterr().out
    assert "MISSING" in told and f"\n  ovd shapes --data-root {tmp_path / 'new'}\n" in told
    assert main(["doctor", "configs/shapes/vild.py", "--json", "--data-root", str(tmp_path / "new")]) == 1
    assert json.loads(capsys.readouterr().out)["commands"][0].startswith("ovd shapes ")  # and nothing beside json
    assert main(["doctor", "configs/nothing.py"]) == 1
    assert "no such file" in capsys.readouterr().out
    assert main(["doctor", "--data-root", str(tmp_path / "new")]) == 0


def test_a_recipe_makes_its_own_inputs(quick, root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(root)
    assert main(["doctor", "configs/recipes/demo.py", "--work-dir", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "0 of 11 stages" in told and f"ovd run configs/recipes/demo.py --work-dir {tmp_path}" in told
    (tmp_path / "broken.py").write_text("stages = [dict(name='a', command='trian x.py')]\nname = 'a'\n")
    assert main(["doctor", str(tmp_path / "broken.py")]) == 1
    assert "did you mean train" in capsys.readouterr().out


def test_a_recipe_whose_inputs_nobody_makes_names_them(quick, root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(root)
    (tmp_path / "r.py").write_text(f"name = 'r'\nstages = [dict(name='vild', command='train configs/shapes/vild.py "
                                   f"--data-root {tmp_path}/data', outputs=['{tmp_path}/final.pth'])]\n")
    assert main(["doctor", str(tmp_path / "r.py")]) == 1
    assert f"ovd shapes --data-root {tmp_path}/data" in capsys.readouterr().out


def test_what_a_stage_says_on_its_command_line_counts(quick, root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(root)
    (tmp_path / "r.py").write_text(f"""
name = 'r'
stages = [dict(name='base', command='train configs/shapes/vild.py', outputs=['{tmp_path}/vild/final.pth', 'data/shapes',
                                                                            '{tmp_path}/data']),
          dict(name='hyper', command='train configs/hyper_roi/hyper_roi_shapes.py --data-root {tmp_path}/data '
               '--cfg-options load_from={tmp_path}/START --seed 0', outputs=['{tmp_path}/hyper/final.pth']),
          dict(name='study', command='study {tmp_path}/r.py', outputs=['{tmp_path}/study.json'])]
""")
    assert main(["doctor", str(tmp_path / "r.py")]) == 1
    told = " ".join(capsys.readouterr().out.split())
    assert f"MISSING start {tmp_path}/START: is not there" in told and told.count("MISSING") == 1
    (tmp_path / "r.py").write_text((tmp_path / "r.py").read_text().replace("START", "vild/final.pth"))
    assert main(["doctor", str(tmp_path / "r.py")]) == 0


def test_operators_that_fail_end_with_status_1(quick, tmp_path, capsys):
    quick["machine"]["operators"] = {"cpu": {"nms": "RuntimeError: undefined symbol"}}
    assert main(["doctor", "--data-root", str(tmp_path)]) == 1
    assert "undefined symbol" in capsys.readouterr().out
    quick["machine"] = {"error": "status -11: said nothing"}
    assert main(["doctor", "--data-root", str(tmp_path)]) == 1
    assert "status -11" in capsys.readouterr().out


def test_weights_and_what_was_made_with_them_are_matched(quick, tmp_path, monkeypatch, capsys):
    for name in ("good.safetensors", "cut.safetensors", "large.bin"):
        (tmp_path / name).write_bytes(b"x")
    monkeypatch.setattr(doctor, "PRETRAINED", tmp_path)
    quick["clips"] = {str(tmp_path / "good.safetensors"): {"fingerprint": "sha256:0123456789abcdef", "width": 512,
                                                           "side": 224},
                      str(tmp_path / "cut.safetensors"): {"error": f"UserError: {tmp_path}/cut.safetensors: not a "
                                                                   "readable safetensors file (cut)"}}
    assert main(["doctor", "--data-root", str(tmp_path)]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "CLIP 0123456789ab, 512 wide, 224 pixels" in told and "BROKEN cut.safetensors not a readable" in told
    assert "large.bin weights, 1 bytes (not loaded" in told
