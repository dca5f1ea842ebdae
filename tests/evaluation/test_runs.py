"""Reading work directories: finished, half finished, resumed, moved, broken; and nothing in them is run."""

import json

import pytest

from ovd.errors import UserError
from ovd.evaluation.runs import read_run, runs_below
from ovd.evaluation.saved_config import read_saved_config
from ovd.stores.manifest import Manifest, publish

CONFIG = """
data_root = '{data}'
split = 'annotations/split.json'
val_ann = 'annotations/val.json'
val_prefix = 'val'
proposal_store_val = 'proposals/val'
region_store = 'regions/train'
train_ann = 'annotations/train.json'
model = dict(type='ovd.models.ViLD', mode='both', backbone=dict(type='ovd.models.ClipResNet'), roi_head=dict(),
    rpn_head=dict(anchors=[8, 16], std=(1.0, -2.0)))
optim_wrapper = dict(optimizer=dict(type='torch.optim.AdamW', lr=0.001))
randomness = dict(seed=7)
train_cfg = {train}
train_dataloader = {loader}
test_evaluator = {evaluator}
"""


def write_start(folder, name, data, test=False, rows=()):
    """What one start of training or testing leaves."""
    inside = folder / name / "vis_data"
    inside.mkdir(parents=True)
    evaluator = f"dict(ann_file='annotations/val.json', split='annotations/split.json', data_root='{data}', "
    train, loader, evaluator = (("None", "None", evaluator + "protocol='lvis')") if test else
                                ("dict(max_iters=100)", "dict(batch_size=4)", "None"))
    (inside / "config.py").write_text(CONFIG.format(data=data, train=train, loader=loader, evaluator=evaluator))
    if rows:
        (inside / "scalars.json").write_text("".join(json.dumps(row) + "\n" for row in rows))


def losses(*steps, loss=1.0):
    return [{"loss": loss, "loss_cls": loss / 2, "acc": 90.0, "time": 0.25, "memory": 900, "iter": step, "step": step}
            for step in steps]


@pytest.fixture
def half(tmp_path, monkeypatch):
    """A run that was interrupted at iteration 30 of 100."""
    monkeypatch.chdir(tmp_path)
    for name in ("annotations/val.json", "annotations/split.json", "annotations/train.json", "val/1.png"):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    folder = tmp_path / "work_dirs" / "vild"
    write_start(folder, "20300101_000000", "data", rows=losses(10, 20, 30))
    return folder


def test_a_half_finished_run_has_its_losses_and_names_what_is_missing(half):
    run = read_run(half)
    assert run.status == "not finished: iteration 30 of 100, not tested"
    assert list(run.log.losses) == ["loss", "loss_cls"]  # acc is no loss
    assert run.log.median("time") == 0.25 and run.log.peak("memory") == 900
    assert (run.checkpoint, run.metrics, run.detections, run.proposals) == (None, None, None, None)
    assert run.annotations.name == "val.json" and run.images.name == "val"
    assert run.split == "data/annotations/split.json"
    settings = dict(run.settings)
    assert settings["model"] == "ViLD, both" and settings["schedule"] == "100 iterations, 4 images a batch"
    assert settings["seed"] == "7" and settings["GPU memory"] == "900 MB"
    commands = [missing.command.split()[1] for missing in run.missing()]
    assert commands == ["train", "test", "proposals"]
    assert f"--work-dir {half} --resume" in run.missing()[0].command
    assert f"--out {half / 'detections.json'}" in run.missing()[1].command


def test_a_run_that_has_only_begun_says_so(half):
    (half / "20300101_000000" / "vis_data" / "scalars.json").unlink()
    run = read_run(half)
    assert run.status == "begun, nothing was logged so far, not tested" and run.log is None
    assert "losses: none was logged so far" in [missing.what for missing in run.missing()]


def test_a_finished_run_has_its_figures_and_fingerprints(half):
    write_start(half, "20300101_000001", "data", test=True)
    (half / "metrics.json").write_text(json.dumps({"novel/ap50": 31.5, "base/ap50": None, "untrained": True}))
    (half / "detections.json").write_text("[]")
    (half / "results.jsonl").write_text('{"kind": "val", "iteration": 20, "boxAP": 3.0, "novel": {"bAP50": 2.0}}\n{"ki')
    manifest = Manifest("checkpoint", "train", config={"model": {}}, inputs={"ann_file": "sha256:1"},
                        flags={"untrained": True})
    with publish(half / "final.pth", manifest) as (temporary, _):
        temporary.write_bytes(b"weights")
    run = read_run(half)
    assert run.status == "trained to iteration 30, tested" and run.protocol == "lvis"
    assert run.metrics == {"novel/ap50": 31.5, "base/ap50": None} and run.flags == {"untrained": True}
    assert run.fingerprints["ann_file"] == "sha256:1" and run.fingerprints["final.pth"].startswith("sha256:")
    assert run.decisive == {"model": {}} and run.detections == half / "detections.json"
    assert run.validations()["novel/ap50"].values.tolist() == [2.0]
    assert [missing.what.split(" (")[0] for missing in run.missing()] == ["the proposals of the test set"]


def test_of_iterations_that_were_done_twice_the_later_time_counts(half):
    write_start(half, "20300101_000001", "data", rows=losses(30, 40, loss=2.0))
    (half / "20300101_000001" / "vis_data" / "scalars.json").open("a").write('{"loss": 3.0, "st')  # cut off
    curve = read_run(half).log.curves["loss"]
    assert curve.steps.tolist() == [10, 20, 30, 40] and curve.values.tolist() == [1.0, 1.0, 2.0, 2.0]


def test_paths_are_found_from_another_folder(half, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert read_run(half).annotations == tmp_path / "data/annotations/val.json"


def test_a_config_is_read_and_not_run(tmp_path):
    path = tmp_path / "config.py"
    path.write_text(f"a = dict(b=[1, -2.5], c=(None, True), d={{'x/y': 'z'}})\n"
                    f"boom = __import__('pathlib').Path({str(tmp_path / 'ran')!r}).touch()\nimport os\nf = 1 + 1\n")
    config = read_saved_config(path)
    assert config["a"] == {"b": [1, -2.5], "c": (None, True), "d": {"x/y": "z"}}
    assert config["boom"].startswith("__import__") and config["f"] == "1 + 1"
    assert not (tmp_path / "ran").exists()
    path.write_text("a = (")
    with pytest.raises(UserError, match=r"config\.py: not a config"):
        read_saved_config(path)


def journal(folder, **stages):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps({
        "recipe": "demo", "seed": 0, "machine": {"cores": 2}, "code_version": "0.1", "report": {}, "stages": {
            name: {"key": "k", "status": status, "intervals": [[10.0, 14.0], [12.0, 20.0]], "peak_memory_mb": 9.0,
                   "outputs": dict.fromkeys(outputs, ""), "command": command}
            for name, (status, outputs, command) in stages.items()}}))


def test_a_recipe_has_its_stages_and_a_run_in_it_those_that_concern_it(half):
    recipe = half.parent
    journal(recipe, vild=("done", ["work_dirs/vild/final.pth"], ["train", "c.py"]),
            dense=("running", [], ["test", "c.py", "work_dirs/vild/final.pth", "--work-dir", "work_dirs/vild_dense"]),
            test=("failed", [], ["test", "c.py", "--work-dir", "work_dirs/vild"]))
    run = read_run(recipe)
    assert run.recipe.recipe == "demo" and run.status == "1 stage done, 1 stage running, 1 stage failed"
    missing, = run.missing()
    assert "2 of 3 stages: dense, test" in missing.what and missing.command.endswith(f"--work-dir {recipe} --seed 0")
    assert list(read_run(half).stages) == ["vild", "test"]
    assert read_run(half).stages["vild"].seconds == 10.0
    for name in ("10shots", "2shots"):
        (recipe / "tfa" / name).mkdir(parents=True)
        (recipe / "tfa" / name / "metrics.json").write_text("{}")
    assert [path.name for path in runs_below(recipe)] == ["2shots", "10shots"]


def test_few_shot_results_go_with_the_checkpoint_that_they_were_made_with(half):
    for folder, content in ((half, b"ours"), (half.parent / "other", b"theirs")):
        folder.mkdir(exist_ok=True)
        with publish(folder / "final.pth", Manifest("checkpoint", "train")) as (temporary, _):
            temporary.write_bytes(content)
    made = Manifest.read(half / "final.pth").content
    with publish(half.parent / "eval" / "fewshot.json", Manifest("fewshot", "fewshot-eval", inputs={"c": made})) as (
            temporary, _):
        temporary.write_text(json.dumps({"rows": [{"name": "codes", "shots": 1, "novel_ap50": 30.0}]}))
    assert read_run(half).fewshot[0]["novel_ap50"] == 30.0
    assert "evaluated with added classes" in read_run(half).status
    write_start(half.parent / "other", "20300101_000000", "data", rows=losses(10))
    assert read_run(half.parent / "other").fewshot == []


@pytest.mark.parametrize(("make", "message"), [
    (lambda folder: None, "no such folder"),
    (lambda folder: folder.mkdir(), "no run and no recipe left anything here"),
    (lambda folder: (folder.mkdir(), (folder / "metrics.json").write_text("{")), r"metrics\.json: not a json file"),
    (lambda folder: (folder.mkdir(), (folder / "metrics.json").write_text('{"all/ap": "1"}')),
     r"metrics\.json: all/ap is '1', not a number"),
    (lambda folder: (folder.mkdir(), (folder / "run.json").write_text('{"stages"')), r"run\.json: not the journal"),
])
def test_what_is_no_run_is_named(tmp_path, make, message):
    make(tmp_path / "w")
    with pytest.raises(UserError, match=message):
        read_run(tmp_path / "w")
