"""Torchvision's part with random weights: its own forward is the reference; sizes from one pixel to many."""

import copy
from contextlib import contextmanager

import pytest
import torch
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_V2_Weights
from torchvision.models.detection.transform import resize_boxes
from torchvision.ops import box_iou

from ovd.engine.public_weights import photos_downloads
from ovd.errors import UserError
from ovd.models.crop_clip import pasted
from ovd.models.torchvision_proposer import TorchvisionProposer

SIDE = 96


@pytest.fixture(scope="module")
def proposer():
    torch.manual_seed(0)
    made = TorchvisionProposer(None, min_size=SIDE, max_size=2 * SIDE, proposals=30, score_thr=0.0)
    predictor = made.network.roi_heads.box_predictor
    predictor.register_forward_hook(lambda module, inputs, outputs: tuple(
        factor * apart / (apart.std() + 1e-6) for factor, apart in zip((4.0, 1.5), (o - o.mean(0) for o in outputs))))
    return made  # random layers give numbers of any size; so boxes differ by category, and categories by box


def picture(height, width, seed=0):
    return torch.randint(0, 255, (3, height, width), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


@contextmanager
def giving_all(heads, number, with_masks=True):
    """Torchvision's heads, with ``number`` of all pairs of proposal and category."""
    keep = heads.score_thresh, heads.nms_thresh, heads.detections_per_img, heads.mask_roi_pool
    heads.score_thresh, heads.nms_thresh, heads.detections_per_img = -1.0, 1.0, number
    heads.mask_roi_pool = keep[3] if with_masks else None
    yield
    heads.score_thresh, heads.nms_thresh, heads.detections_per_img, heads.mask_roi_pool = keep


@torch.inference_mode()
def test_boxes_before_merging_are_those_of_torchvisions_own_forward(proposer):
    image = picture(120, 150)
    found = proposer.candidates(image)
    with giving_all(proposer.network.roi_heads, 30 * 90, with_masks=False):
        theirs, = proposer.network([image / 255])
    boxes = resize_boxes(found.boxes_n4, found.size, image.shape[-2:])
    assert len(boxes) == 30 and len(set(found.labels_n.tolist())) > 5 and len(boxes.round().unique(dim=0)) > 20
    for box, label in zip(boxes, found.labels_n):
        of_label = theirs["boxes"][theirs["labels"] == label]
        assert (box[2:] - box[:2]).min() < 0.1 or (of_label - box).abs().amax(dim=1).min() < 1e-3


@torch.inference_mode()
def test_masks_are_those_of_torchvisions_own_forward(proposer):
    image = picture(110, 140, 3)
    found = proposer.candidates(image)
    with giving_all(proposer.network.roi_heads, 20):
        theirs, = proposer.network([image / 255])
    boxes = resize_boxes(found.boxes_n4, found.size, image.shape[-2:])
    masks = pasted(proposer._masks(found, torch.arange(30)), boxes, torch.arange(30), (110, 140))
    compared = 0
    for box, label, mask in zip(theirs["boxes"], theirs["labels"], theirs["masks"][:, 0] > 0.5):
        mine = ((found.labels_n == label) & ((boxes - box).abs().amax(dim=1) < 1e-3)).nonzero()[:, 0]
        if len(mine):
            compared += 1
            assert (masks[mine[0]] != mask).float().mean() < 1e-3
    assert compared > 5


@torch.inference_mode()
def test_background_and_proposal_scores_are_the_networks(proposer):
    image = picture(100, 100, 1)
    found = proposer.candidates(image)
    scores = []
    logits = []
    network = copy.deepcopy(proposer.network)
    keep = network.rpn.filter_proposals
    network.rpn.filter_proposals = lambda *args: scores.append(keep(*args)) or scores[-1]
    network.roi_heads.box_predictor.register_forward_hook(lambda *args: logits.append(args[2][0]))
    network([image / 255])
    torch.testing.assert_close(found.rpn_n, scores[0][1][0])
    torch.testing.assert_close(found.background_n, logits[0].softmax(dim=1)[:, 0])


@torch.inference_mode()
@pytest.mark.parametrize("objectness", ["mean", "background", "rpn"])
def test_boxes_are_by_falling_objectness_and_do_not_repeat(proposer, objectness):
    proposer.objectness = objectness
    image = picture(130, 90, 2)
    found, = proposer([image], masks=True)
    raw = proposer.candidates(image)
    expected = {"mean": (1 - raw.background_n + raw.rpn_n) / 2, "background": 1 - raw.background_n, "rpn": raw.rpn_n}
    assert found.objectness_n[0] == expected[objectness].max()
    assert (found.objectness_n.diff() <= 0).all() and found.masks_nhw.shape == (len(found.boxes_n4), 28, 28)
    overlaps = box_iou(found.boxes_n4, found.boxes_n4).fill_diagonal_(0)
    assert overlaps.max() <= proposer.nms_iou
    assert found.masks_nhw.min() >= 0 and found.masks_nhw.max() <= 1


@torch.inference_mode()
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (4000, 3), (2, 5), (1200, 1600)])
def test_images_of_any_size(proposer, size):
    found, other = proposer([picture(*size), picture(60, 60)], masks=True)
    assert len(found.boxes_n4) == len(found.objectness_n) == len(found.masks_nhw)
    assert (found.boxes_n4[:, 2:] > found.boxes_n4[:, :2]).all() and (found.boxes_n4 >= 0).all()
    assert (found.boxes_n4 <= torch.tensor([size[1], size[0]] * 2)).all()
    alone, = proposer([picture(60, 60)])
    assert torch.equal(alone.boxes_n4, other.boxes_n4) and alone.masks_nhw is None


@torch.inference_mode()
def test_a_narrow_first_image_spoils_no_later_one(proposer):
    """Torchvision's pools infer the pyramid's scales from the first image that they see."""
    fresh = TorchvisionProposer(None, min_size=SIDE, max_size=2 * SIDE, proposals=5)
    fresh([picture(3, 4000)])
    assert fresh.network.roi_heads.box_roi_pool.scales == [1 / 4, 1 / 8, 1 / 16, 1 / 32]
    network = copy.deepcopy(proposer.network)
    pools = network.roi_heads.box_roi_pool, network.roi_heads.mask_roi_pool
    for pool in pools:
        pool.scales = pool.map_levels = None
    network([picture(SIDE, SIDE) / 255])
    for own, theirs in zip((fresh.network.roi_heads.box_roi_pool, fresh.network.roi_heads.mask_roi_pool), pools):
        assert own.scales == theirs.scales and vars(own.map_levels) == vars(theirs.map_levels)


@torch.inference_mode()
def test_an_image_without_objects_has_no_boxes(proposer):
    proposer.score_thr = 1.1
    found, = proposer([picture(50, 50)], masks=True)
    proposer.score_thr = 0.0
    assert found.boxes_n4.shape == (0, 4) and found.masks_nhw.shape == (0, 28, 28)


def test_what_is_said_of_the_download_is_torchvisions():
    said, weights = photos_downloads()[0], MaskRCNN_ResNet50_FPN_V2_Weights.COCO_V1
    assert said.address == weights.url and said.megabytes == round(weights.meta["_file_size"])
    assert said.folder.parts[-2:] == ("hub", "checkpoints") and said.patterns == (weights.url.rsplit("/", 1)[1],)
    assert str(said.folder.parent) == torch.hub.get_dir()


@pytest.mark.parametrize(("settings", "message"), [
    ({"weights": "COCO_V9"}, "no weights 'COCO_V9'; did you mean COCO_V1"),
    ({"weights": "nowhere.pth"}, "nowhere.pth: cannot be read"),
    ({"weights": None, "objectness": "score"}, "no objectness 'score'"),
    ({"weights": None, "max_per_image": 0}, "whole numbers from 1 on"),
])
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        TorchvisionProposer(**settings)


def test_a_file_that_is_no_weights_is_refused_and_nothing_of_it_runs(tmp_path):
    import pickle

    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "ran"), "w")

    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Evil()))
    torch.save({"conv.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"evil.pth: no weights"):
        TorchvisionProposer(str(tmp_path / "evil.pth"))
    with pytest.raises(UserError, match="no weights of torchvision's"):
        TorchvisionProposer(str(tmp_path / "other.pth"))
    assert not (tmp_path / "ran").exists()
