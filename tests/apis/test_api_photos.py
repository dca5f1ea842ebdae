"""CLIP on crops as a detector: on shapes with the demo's proposals it is what the offline stage is; and without
weights and a network it says what it needs."""

import subprocess
import sys
import urllib.error

import numpy as np
import open_clip
import pytest
import torch
from mmdet.registry import MODELS
from PIL import Image

import ovd
from ovd.apis.loading import DEMO_FILE
from ovd.apis.model_file import ModelFile
from ovd.clip.crops import CropRecipe
from ovd.clip.regions import RegionEncoder
from ovd.clip.towers import load_clip, save_described
from ovd.engine.config import load_config
from ovd.errors import UserError
from ovd.models.crop_detector import CropDetector
from ovd.models.proposers import NetworkProposer, Proposed, Proposer
from ovd.stores.class_heads import ClassHead
from ovd.stores.shards import Regions
from pipelines.cli import run_stage

SHAPES = ovd.__path__[0] + "/../configs/clip_on_crops/shapes.py"
TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
}


@MODELS.register_module()
class FixedProposer(Proposer):
    """The same boxes in every image; an object fills the left half of each."""

    makes_masks = True

    def __init__(self, boxes):
        super().__init__()
        self.boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
        self.asked = 0

    def forward(self, images, masks=False):
        self.asked += 1
        left = torch.zeros(len(self.boxes), 28, 28)
        left[:, :, :14] = 1
        return [Proposed(self.boxes, torch.linspace(0.9, 0.5, len(self.boxes)), left if masks else None)
                for _ in images]


@pytest.fixture(scope="module")
def demo_parts(tmp_path_factory):
    """The demo detector as a checkpoint, and its classes, in the CLIP's space, as a file."""
    folder = tmp_path_factory.mktemp("demo")
    file = ModelFile.load(DEMO_FILE)
    torch.save({"state_dict": dict(file.weights), "meta": {}}, folder / "demo.pth")
    file.head.save(folder / "head.safetensors")
    return folder


def shapes_options(folder, root):
    return {"model.proposer.config": str(root / "configs" / "shapes" / "vild.py"),
            "model.proposer.checkpoint": str(folder / "demo.pth"), "model.proposer.max_per_image": 40,
            "class_head": "head.safetensors"}


@pytest.fixture(scope="module")
def crops(demo_parts, root):
    return ovd.load(SHAPES, device="cpu", data_root=demo_parts, options=shapes_options(demo_parts, root))


@pytest.fixture
def session(crops):
    other = crops.session()
    other.reset_vocabulary()
    return other


def fixed(demo_parts, boxes, **changes):
    """The shapes' CLIP on given boxes."""
    cfg_options = {"model.proposer": {"type": "FixedProposer", "boxes": boxes},
                   "class_head": "head.safetensors", **changes}
    return ovd.load(SHAPES, device="cpu", data_root=demo_parts, options=cfg_options)


def overlap(a, b):
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    inter = (high - low).clip(0).prod()
    return inter / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - inter)


def test_it_scores_and_detects_what_the_offline_stage_does(crops, files, demo_parts, root):
    """The pieces of ``ovd embed-regions`` and ``ovd clip-on-crops --objectness``, put together by hand."""
    model, own = crops._parts.model, crops._parts.own
    encoder = RegionEncoder(load_clip("shapes"), CropRecipe("clip", (1.0, 1.5)))
    offline = CropDetector(own, objectness=True, score_thr=0.05)
    proposer = NetworkProposer(root / "configs" / "shapes" / "vild.py", demo_parts / "demo.pth", 40)
    for path in files[:3]:
        pixels = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)
        proposed, = proposer([pixels])
        boxes, objectness = proposed.boxes_n4.numpy(), proposed.objectness_n.numpy()
        regions = Regions(boxes, objectness, encoder(Image.open(path).convert("RGB"), boxes))
        expected = offline.detect(regions)["pred_instances"]
        evidence = crops.look(path).passes[0].seen
        assert np.allclose(evidence.boxes_N4, boxes, atol=1e-3)
        assert np.allclose(evidence.rows_ND, regions.embeddings.astype(np.float32), atol=2e-3)
        scores = model.roi_head.scores(evidence.rows_ND, evidence.objectness_N)
        assert np.allclose(scores, offline.scores(regions), atol=5e-3)
        prepared, _ = crops._looker.prepare(path)
        model.roi_head.test_cfg.update(score_thr=0.05, max_per_img=100)
        found = model.predict(*crops._looker.collate([prepared]))[0].pred_instances
        assert abs(len(found) - len(expected)) <= 2 and len(found) > 5
        clear = expected.scores > 0.5
        assert found.labels[found.scores > 0.5].tolist() == expected.labels[clear].tolist()
        assert np.allclose(found.bboxes[:int(clear.sum())], expected.bboxes[clear], atol=1e-3)


def test_an_image_that_is_too_narrow_for_the_proposer_is_refused(session):
    with pytest.raises(UserError, match="500 x 1 pixels is too narrow"):
        session.detect(np.zeros((1, 500, 3), np.uint8))


def test_it_finds_what_is_there_in_the_words_for_it(session, scenes):
    wanted = sorted({one.category.name for _, objects in scenes[:6] for one in objects})
    session.set_vocabulary(wanted)
    found = session.detect([pixels for pixels, _ in scenes[:6]], threshold=0.5)
    hits = [any(one.name == truth.category.name and overlap(one.box, np.array(truth.box)) > 0.5 for one in each)
            for each, (_, objects) in zip(found, scenes[:6]) for truth in objects]
    assert np.mean(hits) > 0.9 and len(hits) > 20


def test_thresholds_and_words_change_without_another_look(demo_parts, scenes):
    detector = fixed(demo_parts, [[10, 10, 60, 60], [50, 40, 120, 130]])
    proposer = detector._parts.model.proposer
    seen = detector.look(scenes[0][0])
    many = detector.name(seen, threshold=0.0)
    detector.set_vocabulary(["dotted red star", "plain blue circle"], rivals=None)
    few = detector.name(seen, threshold=0.0)
    other = detector.session()
    other.set_vocabulary(["striped green crown"], rivals=None)
    assert proposer.asked == 1 and other._parts.model.proposer is proposer and other._model.eyes is detector._model.eyes
    assert set(few.names) == {"dotted red star", "plain blue circle"} and len(many) > len(few)
    assert set(other.name(seen, threshold=0.0).names) == {"striped green crown"}
    assert set(detector.name(seen, threshold=0.0).names) == set(few.names)


def test_sessions_share_weights_and_the_text_tower(crops):
    other = crops.session()
    assert other._model.clip is crops._model.clip is crops._parts.model.clip
    assert other._model.proposer is crops._model.proposer
    assert other._model.roi_head.classifier is not crops._model.roi_head.classifier


def test_a_class_from_boxes_is_found_and_changes_no_other_to_the_bit(session, scenes):
    name = "striped blue triangle"
    from ovd.data.shapes.dataset import scene

    places = [(pixels, one.box) for pixels, objects in (scene(7, 0, index, 192, False) for index in range(100, 160))
              for one in objects if one.category.name == name]
    session.set_vocabulary(["dotted red star", "plain blue circle"])
    image, box = places[-1]
    before = session.detect(image, threshold=0.05)
    session.add_class("thing", text=False, boxes=places[:3])
    after = session.detect(image, threshold=0.05)
    thing = [one for one in after if one.name == "thing"]
    assert overlap(thing[0].box, np.array(box)) > 0.5 and thing[0].score > 0.5
    rest = after[np.array(after.names) != "thing"]
    assert len(before) > 0 and np.array_equal(rest.scores, before.scores) and np.array_equal(rest.boxes, before.boxes)
    session.add_class(name, boxes=places[:3])  # by both
    assert name in session.detect(image, threshold=0.5).names


def test_a_batch_gives_what_each_image_gives_alone(session, scenes):
    images = [pixels for pixels, _ in scenes[:2]] + [np.ascontiguousarray(scenes[2][0][:100, :150])]
    for one, image in zip(session.detect(images, threshold=0.3, batch_size=3), images):
        alone = session.detect(image, threshold=0.3)
        assert one.names == alone.names and np.array_equal(one.boxes, alone.boxes)
        assert np.array_equal(one.scores, alone.scores)


def test_masks_are_where_the_proposers_say(demo_parts, scenes):
    box = [20, 30, 80, 110]
    detector = fixed(demo_parts, [box])
    found = detector.detect(scenes[0][0], threshold=0.0, masks=True)
    assert detector.has_masks and len(found) > 1 and np.array_equal(found.boxes[0], np.float32(box))
    mask = found.masks()[0]
    assert mask[35:105, 22:48].all() and not mask[:, 53:].any() and not mask[:28].any()
    assert detector.detect(scenes[0][0], threshold=0.0, masks=False).rles is None


def test_an_image_without_regions_has_no_detections(demo_parts, scenes):
    detector = fixed(demo_parts, [])
    for masks in (True, False):
        assert len(detector.detect(scenes[0][0], threshold=0.0, masks=masks)) == 0


def test_a_clip_of_sigmoids_judges_as_the_offline_stage_does(demo_parts, scenes):
    model = fixed(demo_parts, [[10, 10, 60, 60], [50, 40, 120, 130]])._parts.model
    own = model.roi_head.classifier.head
    head = ClassHead(own.names, own.weights, torch.full((len(own),), -8.0), own.scale,
                     stats={**own.stats, "scores": "sigmoid", "clip_bias": -8.0})
    model.set_class_head(head)
    image = torch.from_numpy(scenes[0][0].copy()).permute(2, 0, 1)
    evidence = model.evidence([image], [])
    regions = Regions(evidence.boxes_N4.numpy(), evidence.objectness_N.numpy(), evidence.rows_ND.half().numpy())
    expected = CropDetector(head, objectness=True).scores(regions)
    torch.testing.assert_close(model.roi_head.scores(evidence.rows_ND, evidence.objectness_N), expected, rtol=1e-4,
                               atol=1e-6)


def test_classes_of_another_clip_are_refused(session):
    own = session._parts.own
    with pytest.raises(UserError, match="CLIP"):
        session.set_vocabulary(ClassHead(("zebra",), own.weights[:1], stats={"clip": "sha256:other"}), rivals=None)
    assert len(session.names) == len(own)


@pytest.fixture
def tiny_clip(tmp_path):
    torch.manual_seed(0)
    save_described(tmp_path / "clip.safetensors", open_clip.CLIP(**TINY), TINY, None, {})
    return {"model.proposer.weights": None, "model.proposer.min_size": 64, "model.proposer.max_size": 96,
            "model.proposer.proposals": 20, "model.proposer.max_per_image": 5,
            "model.clip.pretrained": str(tmp_path / "clip.safetensors"), "classes": "voc"}


def test_names_are_embedded_once_and_kept_by_their_clip(tiny_clip, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first = ovd.load("photos", device="cpu", options=tiny_clip)
    kept, = (tmp_path / "cache" / "ovd" / "class_heads").glob("voc_vild_*.safetensors")
    assert len(first.own_names) == 20
    monkeypatch.setattr("ovd.apis.photos.class_embeddings", None)
    again = ovd.load("photos", device="cpu", options=tiny_clip)
    assert torch.equal(again._parts.own.weights, first._parts.own.weights)
    kept.write_bytes(b"damaged")
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert ovd.load("photos", device="cpu", options=tiny_clip).own_names == first.own_names


def test_the_whole_of_it_runs_on_photos(tiny_clip, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    detector = ovd.load("photos", device="cpu", options=tiny_clip, vocabulary=["zebra", "traffic cone"])
    rng = np.random.default_rng(0)
    found = detector.detect([rng.integers(0, 255, (h, w, 3), dtype=np.uint8) for h, w in ((60, 90), (1, 1), (90, 60))],
                            threshold=0.0)
    assert [one.image_size for one in found] == [(60, 90), (1, 1), (90, 60)] and len(found[0]) > 0
    for one in found:
        assert set(one.names) <= {"zebra", "traffic cone"} and one.masks().shape == (len(one), *one.image_size)


def no_network(*args, **kwargs):
    raise urllib.error.URLError("Name or service not known")


def test_without_network_and_weights_one_line_says_what_goes_where(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("torch.hub.download_url_to_file", no_network)
    (tmp_path / "photo.png").write_bytes(b"")
    status = run_stage("detect", [str(tmp_path / "photo.png"), "--model", "photos", "--words", "zebra", "--out",
                                  str(tmp_path / "out"), "--device", "cpu"])
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert status == 2 and line.startswith("error: could not download ")
    for part in ("maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth (177 MB) into", str(tmp_path / "torch" / "hub"),
                 "huggingface.co/timm/vit_base_patch32_clip_224.openai (605 MB) into", str(tmp_path / "hub"),
                 "Name or service not known", "run this once where there is a network"):
        assert part in line


def test_only_what_is_not_here_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("ovd.clip.towers.open_clip.create_model", no_network)
    with pytest.raises(UserError) as error:
        ovd.load("photos", device="cpu", options={"model.proposer.weights": None, "model.clip.pretrained": "ViT-L/14"})
    assert "vit_large_patch14_clip_224.openai into" in str(error.value) and "maskrcnn" not in str(error.value)


def test_what_open_clip_fetches_is_where_the_project_says(tmp_path, monkeypatch):
    from ovd.apis.photos import needed_downloads
    from ovd.engine.public_weights import HUB_FILES, photos_downloads

    cfg = load_config(str(ovd.apis.photos.PHOTOS_CONFIG))
    assert needed_downloads(cfg) == list(photos_downloads())
    assert HUB_FILES == (open_clip.constants.HF_SAFE_WEIGHTS_NAME, open_clip.constants.HF_WEIGHTS_NAME)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    clip = photos_downloads()[1]
    file = tmp_path / "hub" / "models--timm--vit_base_patch32_clip_224.openai" / "snapshots" / "abc" / HUB_FILES[0]
    assert not clip.is_here
    file.parent.mkdir(parents=True)
    file.write_bytes(b"")
    assert clip.is_here


def test_a_checkpoint_beside_public_weights_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"leave out .*final.pth"):
        ovd.load("photos", tmp_path / "final.pth", device="cpu")


@pytest.mark.parametrize(("options", "message"), [
    ({"classes": "imagenet"}, "classes 'imagenet'; known: coco"),
    ({"boxes.tie": 1.5}, "tie 1.5"),
    ({"model.clip.precision": "int4"}, "clip.precision 'int4'"),
])
def test_settings_that_make_no_sense_are_refused(tiny_clip, tmp_path, monkeypatch, options, message):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(UserError, match=message):
        ovd.load("photos", device="cpu", options={**tiny_clip, **options})


def test_the_command_detects_with_it(files, demo_parts, root, tmp_path):
    words = [f"{key}={value}" for key, value in shapes_options(demo_parts, root).items()]
    done = subprocess.run([sys.executable, "-m", "pipelines.cli", "detect", *map(str, files[:2]), "--model", SHAPES,
                           "--words", "dotted red star, plain blue circle", "--out", tmp_path / "out", "--data-root",
                           demo_parts, "--device", "cpu", "--cfg-options", *words],
                          capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "out" / "detections.jsonl").read_text().splitlines()) >= 2
