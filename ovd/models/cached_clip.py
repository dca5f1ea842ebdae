"""CLIP's opinion on the regions that a detector scores, from cached embeddings of their crops.

Shapes: N RoIs of all images of a batch, R cached regions of an image, C classes.
"""

import torch
from mmdet.structures import DetDataSample, SampleList
from mmdet.utils import InstanceList
from mmengine.structures import InstanceData
from torch import Tensor
from torchvision.ops import box_iou

from ovd.errors import UserError
from ovd.stores.class_heads import ClassHead
from ovd.stores.scoring import independent_probabilities


class CachedClipScore:
    """Class probabilities from the embeddings in the data samples' ``regions`` (ViLD's "ViLD-text + CLIP"; DetPro's
    inference with CLIP's embeddings in place of the image head).

    The regions also are the detector's proposals. A RoI has the opinion of the cached region that overlaps it most: a
    proposal has its own; a cascade's refined boxes and the ground-truth boxes of the diagnostics have a neighbour's. A
    RoI that no region touches has a flat one.

    How much it counts is in ``test_cfg.rcnn`` (``rescore_alpha``, ``rescore_beta``; see
    :class:`~ovd.models.region_detection.RegionDetection`).
    """

    def proposals(self, samples: SampleList) -> InstanceList:
        """The cached boxes of each image.

        Raises:
            UserError: A sample without regions.
        """
        return [InstanceData(bboxes=_regions_of(sample).bboxes) for sample in samples]

    def probabilities(self, samples: SampleList, rois_N5: Tensor, head: ClassHead,
                      is_reference_C: Tensor | None = None) -> Tensor:
        """CLIP's probabilities of the classes of ``head``, float32 ``[N, C]``.

        Args:
            samples: Of the batch, with ``regions``: ``bboxes`` in input pixels and unit ``embeddings``.
            rois_N5: ``(image index, x1, y1, x2, y2)``.
            head: Made with the CLIP of the regions.
            is_reference_C: See :meth:`ClassHead.probabilities`.
        """
        nothing_C = is_reference_C if is_reference_C is not None else torch.ones(len(head), dtype=torch.bool)
        flat_1C = independent_probabilities(torch.zeros(1, len(head)), nothing_C.cpu())
        opinions_NC = flat_1C.to(rois_N5.device).repeat(len(rois_N5), 1)
        for index, sample in enumerate(samples):
            rows, regions = (rois_N5[:, 0] == index).nonzero()[:, 0], _regions_of(sample)
            if not len(rows) or not len(regions.bboxes):
                continue
            overlaps, nearest = box_iou(rois_N5[rows, 1:], regions.bboxes.to(rois_N5)).max(dim=1)
            probabilities_RC = head.probabilities(regions.embeddings.float(), is_reference_C)
            touched = overlaps > 0
            opinions_NC[rows[touched]] = probabilities_RC[nearest[touched]]
        return opinions_NC


def _regions_of(sample: DetDataSample) -> InstanceData:
    if "regions" not in sample:
        raise UserError("cached CLIP scores need cached regions, the data has none: put LoadRegions and PackRegions "
                        "into the test pipeline")
    return sample.regions
