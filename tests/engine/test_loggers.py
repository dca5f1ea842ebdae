"""What ``ovd train --log`` writes for TensorBoard and Weights & Biases, read back from their files."""

import json
import math
import struct

import pytest
from tiny_world import write_caches, write_world

from ovd.engine import loggers
from ovd.engine.config import load_config
from ovd.engine.loggers import logged_name
from ovd.evaluation.runs import read_run
from pipelines.cli import run_stage
from pipelines.train import train


@pytest.fixture(scope="module")
def run(root, tmp_path_factory):
    """The work directory of a run with both loggers and an evaluation at iterations 2 and 4."""
    folder = tmp_path_factory.mktemp("logged")
    data = write_world(folder / "data", ["red", "green", "blue"], ["yellow", "violet"])
    write_caches(data)
    config = root / "tests" / "tiny_vild.py"
    cfg = load_config(config, data_root=data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_SILENT", "true")
        train(config, data_root=data, work_dir=folder / "run", device="cpu", loggers=["tensorboard", "wandb"],
              options={"train_cfg.max_iters": 4, "train_cfg.val_interval": 2, "+val_cfg": {"type": "ValLoop"},
                       "+val_dataloader": cfg.test_dataloader, "+val_evaluator": cfg.test_evaluator})
    return folder / "run"


def lines(run) -> list[dict]:
    """What mmengine wrote by itself."""
    path, = run.glob("*/vis_data/scalars.json")
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_losses_and_metrics_are_in_the_event_file_over_iterations(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, = {path.parent for path in run.rglob("events.out.tfevents.*")}
    events = EventAccumulator(str(folder))
    events.Reload()
    written = [line for line in lines(run) if "loss" in line]
    for name in ("loss", "loss_cls", "loss_distill", "lr", "grad_norm"):
        found = events.Scalars(f"train/{name}")
        assert [event.step for event in found] == [1, 2, 3, 4]
        assert [event.value for event in found] == pytest.approx([line[name] for line in written], rel=1e-6)
    assert [event.step for event in events.Scalars("val/base/ap50")] == [2, 4]
    assert {name.split("/")[0] for name in events.Tags()["scalars"]} == {"train", "speed", "val"}
    assert "speed/time" in events.Tags()["scalars"] and "train/iter" not in events.Tags()["scalars"]


def leveldb_records(content: bytes) -> list[bytes]:
    """The records of a file in leveldb's log format: blocks of 32 KiB with parts of records (crc, length, kind)."""
    records, parts, place = [], b"", 7  # after the file's own header
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        length, kind = struct.unpack("<HB", content[place + 4:place + 7])
        parts += content[place + 7:place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            records.append(parts)
            parts = b""
    return records


def test_weights_and_biases_gets_the_same_under_the_same_names(run):
    from wandb.proto.wandb_internal_pb2 import Record

    path, = run.rglob("run-*.wandb")
    history: dict[str, dict[int, float]] = {}
    for data in leveldb_records(path.read_bytes()):
        record = Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            values = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            for name, value in values.items():
                history.setdefault(name, {})[int(values.get("_step", record.history.step.num))] = value
    written = {line["step"]: line["loss"] for line in lines(run) if "loss" in line}
    assert history["train/loss"] == pytest.approx(written)
    assert set(history["val/all/ap50"]) == {2, 4}


def test_the_run_itself_is_what_it_is_without_loggers(run):
    """The json lines keep their names, evaluations are at their iterations, and nothing of it decides the weights."""
    found = read_run(run)
    assert {"loss", "loss_cls", "lr"} <= set(found.log.curves)
    assert found.validations()["all/ap50"].steps.tolist() == [2, 4]
    assert "visualizer" not in found.decisive
    assert [line["step"] for line in lines(run) if "loss" not in line] == [2, 4]


def test_a_logger_that_is_missing_or_unknown_is_one_line(root, tmp_path, capsys, monkeypatch):
    command = [str(root / "tests" / "tiny_vild.py"), "--work-dir", str(tmp_path / "w"), "--device", "cpu", "--log"]
    monkeypatch.setattr(loggers, "_installed", lambda name: name != "wandb")
    assert run_stage("train", [*command, "tensorboard", "wandb"]) == 2
    assert capsys.readouterr().err.strip() == (
        'error: --log wandb: wandb is not installed; install it: pip install "ovd[logging]"')
    assert run_stage("train", [*command, "tensorbord"]) == 2
    assert "did you mean tensorboard?" in capsys.readouterr().err
    assert not (tmp_path / "w").exists()


def test_names_say_what_a_scalar_is():
    assert [logged_name(name) for name in ("loss", "s0.loss_cls", "memory", "novel_shape/ap50")] == [
        "train/loss", "train/s0.loss_cls", "speed/memory", "val/novel_shape/ap50"]
    assert loggers._finite({"a": math.nan, "b": 1, "iter": 3, "c": "x"}) == {"b": 1.0}
