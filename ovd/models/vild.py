"""The detector: Mask R-CNN whose classes are given by a class head."""

from mmdet.models.detectors import MaskRCNN
from mmdet.registry import MODELS

from ovd.models.vild_roi_head import MODES, ViLDRoIHead
from ovd.stores.class_heads import ClassHead

__all__ = ["MODES", "ViLD"]


@MODELS.register_module()
class ViLD(MaskRCNN):
    """Open-vocabulary Mask R-CNN (Gu et al., "Open-vocabulary Object Detection via Vision and Language Knowledge
    Distillation", ICLR 2022).

    Layers with ``SyncBN`` need no other config on one device or on CPUs: mmengine's runner turns them into plain batch
    normalisation when the run is not distributed, and :mod:`ovd.engine.runner` for several CPU processes, as PyTorch's
    SyncBatchNorm works on accelerators only.

    Args:
        mode: ``"text"``, ``"image"`` or ``"both"``: what the box head learns from (see
            :class:`~ovd.models.vild_roi_head.ViLDRoIHead`).
        kwargs: As for mmdet's ``MaskRCNN``.
    """

    def __init__(self, *, mode: str = "both", roi_head: dict, **kwargs) -> None:
        roi_head = dict(roi_head, mode=mode)
        if mode == "image":
            bbox_head = dict(roi_head["bbox_head"])
            bbox_head["classifier"] = dict(bbox_head["classifier"], background=False)
            roi_head["bbox_head"] = bbox_head
        super().__init__(roi_head=roi_head, **kwargs)

    roi_head: ViLDRoIHead

    @property
    def class_names(self) -> tuple[str, ...]:
        """The current vocabulary; a detection's label is an index into it."""
        return self.roi_head.bbox_head.classifier.names

    def set_class_head(self, head: ClassHead) -> None:
        """Detect the classes of ``head`` from now on, whatever the detector was trained with.

        Raises:
            UserError: The head's embeddings have another width than the detector's.
        """
        self.roi_head.bbox_head.set_class_head(head)
