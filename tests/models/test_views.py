"""Views of an image: what is found in them goes back to where it is in the original."""

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import nn

from ovd.models.views import TestTimeViews, merged, mirrored, view_of

NMS_IOU = 0.5


class BrightSpot(nn.Module):
    """Finds the bright rectangle of each image; the larger and the less mirrored the image, the surer it is."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple] = []

    def test_step(self, data: dict) -> list[DetDataSample]:
        for image, sample in zip(data["inputs"], data["data_samples"]):
            assert "gt_instances" not in sample and sample.img_shape == tuple(image.shape[-2:])
            bright = image[0] > 128
            rows, columns = torch.where(bright.any(1))[0], torch.where(bright.any(0))[0]
            x_factor, y_factor = sample.scale_factor
            box = torch.tensor([columns[0] / x_factor, rows[0] / y_factor, (columns[-1] + 1) / x_factor,
                                (rows[-1] + 1) / y_factor])
            height, width = sample.ori_shape
            mask = torch.zeros(height, width, dtype=torch.bool)
            x1, y1, x2, y2 = (round(v) for v in box.tolist())
            mask[y1:y2, x1:x2] = True
            score = 0.5 + image.shape[-1] / 1000 - 0.1 * sample.flip
            self.seen.append((*image.shape[-2:], sample.flip))
            sample.pred_instances = InstanceData(bboxes=box[None], scores=torch.tensor([score]),
                                                 labels=torch.tensor([0]), masks=mask[None])
        return data["data_samples"]


def sample_with_spot(x1: int, y1: int, x2: int, y2: int) -> tuple[torch.Tensor, DetDataSample]:
    """An image of 60 x 40 pixels, shown at twice its size."""
    image = torch.zeros(3, 80, 120, dtype=torch.uint8)
    image[:, 2 * y1:2 * y2, 2 * x1:2 * x2] = 255
    sample = DetDataSample(metainfo={"ori_shape": (40, 60), "img_shape": (80, 120), "scale_factor": (2.0, 2.0),
                                     "img_id": x1})
    sample.gt_instances = InstanceData(labels=torch.tensor([7]))
    return image, sample


def test_an_object_is_found_where_it_is_in_every_view():
    pairs = [sample_with_spot(6, 10, 26, 34), sample_with_spot(30, 2, 54, 12)]
    detector = BrightSpot()
    model = TestTimeViews(detector, (1.0, 1.5), True, NMS_IOU, 10)
    found = model.test_step({"inputs": [image for image, _ in pairs], "data_samples": [s for _, s in pairs]})
    assert detector.seen[::2] == [(80, 120, False), (80, 120, True), (120, 180, False), (120, 180, True)]
    for sample, truth in zip(found, ([6, 10, 26, 34], [30, 2, 54, 12])):
        assert len(sample.pred_instances) == 1  # four views of one object
        torch.testing.assert_close(sample.pred_instances.bboxes[0], torch.tensor(truth).float(), atol=0.7, rtol=0)
        assert sample.pred_instances.scores.item() == pytest.approx(0.68)  # the largest, not mirrored
        x1, y1, x2, y2 = truth
        assert sample.pred_instances.masks[0, y1 + 1:y2 - 1, x1 + 1:x2 - 1].all()
        assert sample.gt_instances.labels.tolist() == [7] and sample.img_id == x1


def test_mirrored_views_go_back_exactly():
    rng = np.random.default_rng(0)
    mask = torch.from_numpy(rng.random((2, 5, 9)) > 0.5)
    boxes = torch.tensor([[1.0, 2, 4, 5], [0, 0, 9, 1]])
    there = mirrored(InstanceData(bboxes=boxes.clone(), masks=mask.clone()), 9)
    assert there.bboxes.tolist() == [[5, 2, 8, 5], [0, 0, 9, 1]]
    assert torch.equal(there.masks, mask.flip(-1))
    back = mirrored(there, 9)
    assert torch.equal(back.bboxes, boxes) and torch.equal(back.masks, mask)


def test_merging_is_suppression_per_class_over_all_views():
    generator = torch.Generator().manual_seed(1)
    views = []
    for _ in range(3):
        corners = torch.rand(12, 2, generator=generator) * 20
        views.append(InstanceData(bboxes=torch.cat([corners, corners + 12], dim=1),
                                  scores=torch.rand(12, generator=generator),
                                  labels=torch.randint(0, 3, (12,), generator=generator)))
    result = merged(views, NMS_IOU, 9)
    candidates = sorted(((float(v.scores[i]), int(v.labels[i]), v.bboxes[i].tolist()) for v in views
                         for i in range(12)), reverse=True)
    kept: list[tuple] = []
    for score, label, box in candidates:
        if all(label != other or overlap(box, place) <= 0.5 for _, other, place in kept):
            kept.append((score, label, box))
    expected = kept[:9]
    assert 9 == len(result) < len(kept) < 36
    torch.testing.assert_close(result.scores, torch.tensor([score for score, _, _ in expected]))
    assert result.labels.tolist() == [label for _, label, _ in expected]
    torch.testing.assert_close(result.bboxes, torch.tensor([box for _, _, box in expected]))
    nothing = InstanceData(bboxes=torch.zeros(0, 4), scores=torch.zeros(0), labels=torch.zeros(0, dtype=torch.long))
    assert len(merged([nothing, nothing], NMS_IOU, 9)) == 0


def test_added_classes_have_detections_of_their_own_in_merged_views():
    generator = torch.Generator().manual_seed(2)
    corners = torch.rand(40, 2, generator=generator) * 200
    view = InstanceData(bboxes=torch.cat([corners, corners + 12], dim=1), scores=torch.rand(40, generator=generator),
                        labels=torch.randint(0, 2, (40,), generator=generator))
    is_base = torch.tensor([True, True, False, False])
    alone = merged([view, view], NMS_IOU, 9, is_base)
    expected = merged([view, view], NMS_IOU, 9)
    assert all(torch.equal(alone[key], expected[key]) for key in ("bboxes", "scores", "labels"))
    added = InstanceData(bboxes=view.bboxes, scores=view.scores.sqrt(), labels=view.labels + 2)
    found = merged([view, InstanceData.cat([view, added])], NMS_IOU, 9, is_base)
    assert len(found) == 18 and found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
    base = found[found.labels < 2]
    assert all(torch.equal(base[key], alone[key]) for key in ("bboxes", "scores", "labels"))


def test_classes_far_apart_in_a_large_image_are_merged_exactly():
    """In single precision, the offset of the last class of LVIS rounds coordinates to an eighth of a pixel."""
    boxes = torch.tensor([[1000.0, 1000, 1010, 1010.01], [1000, 1000, 1010, 1005]])
    views = [InstanceData(bboxes=box[None], scores=torch.tensor([score]), labels=torch.tensor([1202]))
             for box, score in zip(boxes, (0.9, 0.8))]
    assert len(merged(views, 0.4998, 300)) == 2
    assert len(merged(views, 0.4990, 300)) == 1


def overlap(one: list[float], other: list[float]) -> float:
    width = max(0, min(one[2], other[2]) - max(one[0], other[0]))
    height = max(0, min(one[3], other[3]) - max(one[1], other[1]))
    return width * height / (2 * 144 - width * height)


def test_the_image_as_it_comes_is_left_as_it_is():
    image, sample = sample_with_spot(6, 10, 26, 34)
    view, described = view_of(image, sample, 1.0, False)
    assert view is image and described.scale_factor == (2.0, 2.0) and described.img_id == 6
