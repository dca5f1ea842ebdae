"""What is loaded: configs, recipes, models in one file; and what is refused."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from tiny_world import write_caches, write_detector, write_world

import ovd
from ovd.apis.exporting import model_file
from ovd.apis.model_file import ModelFile, plain_config
from ovd.engine.config import load_config, resolve_types
from ovd.errors import UserError
from ovd.fewshot.detection.detector import ShotDetector
from ovd.fewshot.shots import Shot, ShotSet
from ovd.stores.class_heads import ClassHead

CONFIG = Path(__file__).parents[1] / "tiny_vild.py"
BASE, NOVEL = ["red box", "green box", "blue box", "yellow box"], ["red disc", "green disc"]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """Small pictures, classes, and a detector whose weights are random."""
    root = write_world(tmp_path_factory.mktemp("loading") / "data", BASE, NOVEL)
    write_caches(root)
    write_detector(root, CONFIG)
    return root


def test_the_package_is_light_until_a_detector_is_asked_for():
    code = ("import sys, ovd; heavy = {'torch', 'mmdet', 'mmcv', 'PIL'} & set(sys.modules); assert not heavy, heavy\n"
            "assert {'load', 'Detector', 'init_detector'} <= set(dir(ovd))\n"
            "try: ovd.lode\nexcept AttributeError as error: print(error)")
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout == "module 'ovd' has no attribute 'lode'\n"


def test_a_config_and_its_checkpoint(world):
    detector = ovd.load(CONFIG, world / "detector.pth", device="cpu", data_root=world)
    assert detector.names == (*BASE, *NOVEL)
    image = sorted((world / "val").iterdir())[0]
    found = detector.detect(image, threshold=0, max_per_image=5)
    assert len(found) == 5 and found.masks().shape[1:] == (64, 64)
    detector.set_vocabulary(["green disc"])
    assert set(detector.detect(image, threshold=0).names) == {"green disc"}
    with pytest.raises(UserError, match="knows no CLIP, so it has no class 'zebra'"):
        detector.set_vocabulary(["zebra"])


def test_mmdets_functions_give_mmdets_types(world):
    cfg = load_config(CONFIG, (), world)
    images = sorted(map(str, (world / "val").iterdir()))[:2]
    model = ovd.init_detector(cfg, world / "detector.pth", device="cpu")
    assert model.dataset_meta["classes"] == (*BASE, *NOVEL) and isinstance(model.cfg, Config)
    results = ovd.inference_detector(model, images)
    assert len(results) == 2 and all(isinstance(one, DetDataSample) for one in results)
    detector = ovd.load(CONFIG, world / "detector.pth", device="cpu", data_root=world)
    ours = detector.detect(images[0], threshold=1e-4, masks=False)
    theirs = results[0].pred_instances
    theirs = theirs[theirs.scores >= 1e-4]
    np.testing.assert_allclose(ours.scores[:20], theirs.scores.numpy()[:20], atol=1e-6)
    one = ovd.inference_detector(model, np.zeros((64, 64, 3), np.uint8))
    assert isinstance(one, DetDataSample) and {"bboxes", "scores", "labels", "masks"} <= set(one.pred_instances.keys())
    from_path = ovd.init_detector(CONFIG, world / "detector.pth", device="cpu", cfg_options={"data_root": str(world)})
    assert torch.equal(ovd.inference_detector(from_path, images[0]).pred_instances.scores,
                       results[0].pred_instances.scores)


def test_one_file_is_the_same_detector(world, tmp_path):
    cfg = load_config(CONFIG, {"+regions.pretrained": "shapes"}, world)
    resolve_types(cfg)
    file = model_file(cfg, world / "detector.pth")
    for name in ("a", "b"):
        file.save(tmp_path / f"{name}.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    detector = ovd.load(tmp_path / "a.safetensors", device="cpu")
    peer = ovd.load(CONFIG, world / "detector.pth", device="cpu", data_root=world)
    with torch.no_grad():  # matrices are kept in half precision
        for parameter in peer._parts.model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(parameter.half().float())
    assert detector.names == peer.names
    for image in sorted((world / "val").iterdir())[:3]:
        ours, theirs = (one.detect(image, threshold=1e-3) for one in (detector, peer))
        assert len(ours) > 0 and ours.names == theirs.names and ours.rles == theirs.rles
        assert np.array_equal(ours.boxes, theirs.boxes) and np.array_equal(ours.scores, theirs.scores)
    with pytest.raises(UserError, match=r"is the CLIP sha256:.*the detector was trained with sha256:tiny"):
        detector.set_vocabulary(["zebra"])


def test_a_hypernetworks_codes_are_those_of_the_boxes(world, tmp_path):
    config = CONFIG.with_name("tiny_hyper.py")
    cfg = load_config(config, (), world)
    resolve_types(cfg)
    torch.manual_seed(2)
    model = MODELS.build(cfg.model)
    model.init_weights()
    torch.save({"state_dict": model.state_dict(), "meta": {}}, tmp_path / "hyper.pth")
    detector = ovd.load(config, tmp_path / "hyper.pth", device="cpu", data_root=world)
    image = sorted((world / "val").iterdir())[0]
    boxes = [(image, (2, 3, 30, 40)), (image, (20, 10, 60, 50))]
    with pytest.warns(UserWarning, match="nothing was learned of how codes"):
        detector.add_class("thing", text=False, boxes=boxes, method="codes")
    shots = ShotSet({"thing": tuple(Shot(image.name, 1, box) for _, box in boxes)})
    peer = ShotDetector(load_config(config, (), world), tmp_path / "hyper.pth", image.parent)
    expected = peer.features(shots).head(2)
    found = detector._vocabulary.added.select(["thing"])
    np.testing.assert_allclose(found.weights, expected.weights, atol=1e-5)
    plain = ovd.load(CONFIG, world / "detector.pth", device="cpu", data_root=world)
    with pytest.raises(UserError, match="ViLD makes no class of boxes by 'codes': give a ViLD"):
        plain.add_class("thing", text=False, boxes=boxes, method="codes")


def test_vectors_of_boxes_are_those_of_the_few_shot_stages(world):
    detector = ovd.load(CONFIG, world / "detector.pth", device="cpu", data_root=world)
    images = sorted((world / "val").iterdir())[:2]
    boxes = [(images[0], (2, 3, 30, 40)), (images[1], (20, 10, 60, 50)), (images[0], (5, 5, 25, 25))]
    with pytest.warns(UserWarning):
        detector.add_class("thing", text=False, boxes=boxes, method="tip")
    shots = ShotSet({"thing": tuple(Shot(image.name, images.index(image), box) for image, box in boxes)})
    peer = ShotDetector(load_config(CONFIG, (), world), world / "detector.pth", images[0].parent)
    np.testing.assert_allclose(detector._vocabulary.added.select(["thing"]).weights[0], peer.vectors(shots).of("thing"),
                               atol=1e-5)


def test_a_recipe_gives_the_detector_that_it_trained(world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = Path("two.py")
    recipe.write_text(f"name = 'two'\nstages = [dict(name='data', command='shapes'),\n"
                      f"  dict(name='rpn', command='train {CONFIG.parents[1]}/configs/shapes/rpn.py'),\n"
                      f"  dict(name='vild', command='train {CONFIG} --seed {{seed}} --data-root {world} --work-dir "
                      "{work_dir}/vild'.split())]\n")
    with pytest.raises(UserError, match=r"work_dirs/two/vild/final.pth: is not there yet: ovd run two.py"):
        ovd.load(recipe, device="cpu")
    Path("work_dirs/two/vild").mkdir(parents=True)
    Path("work_dirs/two/vild/final.pth").write_bytes((world / "detector.pth").read_bytes())
    assert ovd.load(recipe, device="cpu", vocabulary=["red box"]).names == ("red box",)
    recipe.write_text("stages = [dict(command='train a.py --work-dir {nothing}')]")
    with pytest.raises(UserError, match=r"two\.py: cannot be read as a recipe: KeyError"):
        ovd.load(recipe)


@pytest.mark.parametrize("kind", ["os.system", "subprocess.Popen", "ovd.engine.launch.run_processes", "exit",
                                  "mmengine.runner.Runner", "torch.hub.load", 7])
@pytest.mark.parametrize("part", ["model", "pipeline"])
def test_a_file_cannot_name_what_is_no_part_of_a_detector(kind, part, tmp_path):
    file = ModelFile({"type": "ovd.models.ViLD"}, [], {"w": torch.ones(2, 2)}, ClassHead(("a",), torch.ones(1, 1, 2)),
                     ("a",))
    evil = replace(file, model={"type": kind}) if part == "model" else replace(file, pipeline=[{"type": kind}])
    evil.save(tmp_path / "evil.safetensors")
    read = ModelFile.load(tmp_path / "evil.safetensors")
    with pytest.raises(UserError, match="is no part of a detector that this version knows"):
        read.build("evil") if part == "model" else read.steps("evil")


@pytest.mark.parametrize("model", [
    {"type": "ovd.models.proposers.NetworkProposer", "config": "{file}", "checkpoint": "none.pth"},
    {"type": "mmdet.models.KnowledgeDistillationSingleStageDetector", "backbone": {}, "neck": {}, "bbox_head": {},
     "teacher_config": "{file}"}])
def test_a_file_runs_no_config_that_lies_beside_it(model, tmp_path):
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'was_run')!r}, 'w').close()")
    model = {key: str(tmp_path / "evil.py") if value == "{file}" else value for key, value in model.items()}
    file = ModelFile(model, [], {}, ClassHead(("a",), torch.ones(1, 1, 2)), ("a",))
    with pytest.raises(UserError, match="is built from no other file"):
        file.build("evil")
    assert not (tmp_path / "was_run").exists()


def test_lists_and_tuples_of_a_config_stay_what_they_are(tmp_path):
    file = ModelFile({}, [{"type": "mmdet.datasets.transforms.Resize", "scale": (4, 5), "ratios": [1, (2, 3)]}],
                     {}, ClassHead(("a",), torch.ones(1, 1, 2)), ("a",))
    replace(file, pipeline=plain_config(file.pipeline)).save(tmp_path / "a.safetensors")
    step, = ModelFile.load(tmp_path / "a.safetensors").steps("a")
    assert step["scale"] == (4, 5) and step["ratios"] == [1, (2, 3)] and step["type"].__name__ == "Resize"


def test_what_cannot_be_loaded_is_said_in_one_line(world, tmp_path):
    (tmp_path / "cut.safetensors").write_bytes(b"\x08\x00\x00\x00")
    safetensors.torch.save_file({"w": torch.ones(1)}, tmp_path / "other.safetensors")
    newer = {"ovd_model": json.dumps({"schema": 99})}
    safetensors.torch.save_file({"w": torch.ones(1)}, tmp_path / "newer.safetensors", newer)
    wrong = [
        ("no such model file", ("nothing.safetensors",), {}), ("is not a model in one file", ("cut.safetensors",), {}),
        ("is not a model in one file", ("other.safetensors",), {}), ("later version", ("newer.safetensors",), {}),
        ("takes no checkpoint", ("other.safetensors", "a.pth"), {}), ("no such config", ("nothing.py",), {}),
        ("a config needs its checkpoint", (CONFIG,), {}), ("device 'tpu9'", ("demo",), {"device": "tpu9"}),
        ("no such checkpoint", (CONFIG, "nothing.pth"), {"data_root": world}),
    ]
    if not torch.cuda.is_available():
        wrong.append(("no CUDA device", ("demo",), {"device": "cuda"}))
        wrong.append(("there are 0 CUDA devices", ("demo",), {"device": "cuda:1"}))
    for said, (model, *checkpoint), options in wrong:
        path = tmp_path / model if str(model).endswith(".safetensors") else model
        with pytest.raises(UserError) as error:
            ovd.load(path, *checkpoint, **options)
        assert said in str(error.value) and "\n" not in str(error.value), (said, str(error.value))
