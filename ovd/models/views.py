"""Test-time augmentation: a detector sees each image in several sizes and mirrored, and its detections are merged.

The views are made from the images as the test pipeline resized them, so every detector here takes them, with any
dataset: sizes are factors on the pipeline's. Boxes of all views go back to the original image and through one
suppression per class; a detection keeps its own view's score and mask.
"""

from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel, is_model_wrapper
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ovd.errors import UserError
from ovd.models.postprocess import suppress


class TestTimeViews(BaseModel):
    """A detector whose predictions are merged over views of each image.

    Args:
        detector: predicts boxes, and masks if it has them, in pixels of the original image.
        factors: on the image's size; 1 is the image as it comes.
        flip: each size mirrored as well.
        nms_iou: detections of a class that overlap a better one more than this are suppressed.
        max_per_img: detections kept.
        is_base_C: bool; where added classes have detections of their own
            (:class:`~ovd.models.region_detection.RegionDetection`), the classes that are not added.
    """

    __test__ = False  # no test, whatever pytest thinks of the name

    def __init__(self, detector: nn.Module, factors: Sequence[float], flip: bool, nms_iou: float,
                 max_per_img: int, is_base_C: Tensor | None = None) -> None:
        super().__init__()
        self.detector = detector
        self.views = list(product(factors, (False, True) if flip else (False,)))
        self.nms_iou = nms_iou
        self.max_per_img = max_per_img
        self.is_base_C = is_base_C

    def test_step(self, data: dict) -> list:
        """The samples of a batch with ``pred_instances`` merged over the views.

        Args:
            data: ``inputs``, a list of images ``[3, H, W]``, and ``data_samples``, whose ``scale_factor`` leads from
                original pixels to the image's.
        """
        found: list[list[InstanceData]] = [[] for _ in data["data_samples"]]
        for factor, flipped in self.views:
            pairs = [view_of(image, sample, factor, flipped)
                     for image, sample in zip(data["inputs"], data["data_samples"])]
            predicted = self.detector.test_step({"inputs": [image for image, _ in pairs],
                                                 "data_samples": [sample for _, sample in pairs]})
            for place, sample in zip(found, predicted):
                place.append(mirrored(sample.pred_instances, sample.metainfo["ori_shape"][1]) if flipped
                             else sample.pred_instances)
        samples = []
        for sample, instances in zip(data["data_samples"], found):
            sample = sample.clone()
            sample.pred_instances = merged(instances, self.nms_iou, self.max_per_img, self.is_base_C)
            samples.append(sample)
        return samples

    def forward(self, *args, **kwargs) -> Any:
        """Nothing calls it; a detector with views is only tested."""
        raise NotImplementedError


def view_of(image: Tensor, sample: Any, factor: float, flipped: bool) -> tuple[Tensor, Any]:
    """An image ``[3, H, W]`` in another size, mirrored or not, and a sample without annotations that says so."""
    height, width = image.shape[-2:]
    if factor != 1:
        size = (max(1, round(height * factor)), max(1, round(width * factor)))
        image = interpolate(image[None].float(), size, mode="bilinear", antialias=True)[0]
    if flipped:
        image = image.flip(-1)
    new_height, new_width = image.shape[-2:]
    x_factor, y_factor = sample.metainfo["scale_factor"][:2]
    meta = {**sample.metainfo, "img_shape": (new_height, new_width), "flip": flipped,
            "scale_factor": (x_factor * new_width / width, y_factor * new_height / height)}
    return image, type(sample)(metainfo=meta)


def mirrored(found: InstanceData, width: int) -> InstanceData:
    """Detections ``bboxes [N, 4]`` xyxy and ``masks [N, H, W]`` of a mirrored image, in the image ``width`` wide."""
    boxes_N4 = found.bboxes
    found.bboxes = torch.stack([width - boxes_N4[:, 2], boxes_N4[:, 1], width - boxes_N4[:, 0], boxes_N4[:, 3]], dim=1)
    if "masks" in found:
        found.masks = found.masks.flip(-1)
    return found


def merged(views: list[InstanceData], nms_iou: float, max_per_img: int,
           is_base_C: Tensor | None = None) -> InstanceData:
    """Detections of all views of an image after suppression per class, the best ``max_per_img``, best first.

    With ``is_base_C``, so many of these classes and so many of the others.
    """
    together = InstanceData.cat(views)
    if is_base_C is None:
        return together[suppress(together.bboxes, together.scores, together.labels, nms_iou)[:max_per_img]]
    base_N = is_base_C[together.labels]
    both = [merged([together[chosen_N]], nms_iou, max_per_img) for chosen_N in (base_N, ~base_N)]
    found = InstanceData.cat(both)
    return found[found.scores.argsort(descending=True, stable=True)]


def check_views(factors: Sequence[float]) -> None:
    """UserError unless all sizes are factors that make sense."""
    if not all(0.1 <= factor <= 10 for factor in factors):
        raise UserError(f"--tta: sizes are factors on the test pipeline's, 0.1 to 10, not {list(factors)}")


class ViewsHook(Hook):
    """Puts :class:`TestTimeViews` around the runner's model for a test.

    Args:
        factors: on the size of the test pipeline's images; none for their own.
        flip: each size mirrored as well.
    """

    def __init__(self, factors: Sequence[float] = (), flip: bool = True) -> None:
        check_views(factors)
        self.factors = tuple(factors) or (1.0,)
        self.flip = flip

    def before_test(self, runner: Any) -> None:
        """Wrap the model."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        rcnn = model.roi_head.test_cfg
        runner.model = TestTimeViews(model, self.factors, self.flip, rcnn["nms"]["iou_threshold"], rcnn["max_per_img"],
                                     getattr(model.roi_head, "reference_C", None))
