"""The second stage with OADP's pyramid: objects, blocks and whole images are distilled from the same features."""

import torch
from mmdet.registry import MODELS
from mmdet.structures import SampleList
from mmdet.structures.bbox import bbox2roi
from mmdet.utils import InstanceList
from torch import Tensor, nn

from ovd.errors import UserError
from ovd.models.oadp.heads import BlockHead, GlobalHead
from ovd.models.oadp.multi_label import labels_of_blocks
from ovd.models.region_detection import full_precision
from ovd.models.vild_roi_head import ViLDRoIHead


@MODELS.register_module()
class OADPRoIHead(ViLDRoIHead):
    """ViLD's RoI head with a block head and a global head, which help in training (OADP, Wang et al., CVPR 2023).

    The object level is ViLD's image head (``mode="ensemble"``), with OADP's embeddings as its teacher: adaptive crops
    under masked attention. At test nothing differs from ViLD.

    Args:
        block_head: Config of a :class:`~ovd.models.oadp.heads.BlockHead`; None for none.
        global_head: Config of a :class:`~ovd.models.oadp.heads.GlobalHead`; None for none. Classifiers of both take
            what they do not say themselves (class head, split, width) from that of ``bbox_head``.
        kwargs: As for :class:`~ovd.models.vild_roi_head.ViLDRoIHead`.
    """

    def __init__(self, bbox_head: dict, block_head: dict | None = None, global_head: dict | None = None,
                 **kwargs) -> None:
        super().__init__(bbox_head=bbox_head, **kwargs)
        self.block_head = _build(block_head, BlockHead, bbox_head)
        self.global_head = _build(global_head, GlobalHead, bbox_head)

    def loss(self, x: tuple[Tensor], rpn_results_list: InstanceList, batch_data_samples: SampleList) -> dict:
        """ViLD's losses, ``loss_block_*`` and ``loss_global_*``.

        Args:
            batch_data_samples: As for ViLD; besides, per image, ``blocks``: ``bboxes [r, 4]`` in input pixels and unit
                ``embeddings [r, D]`` (r may be 0), and ``image_embedding [D]``, for the heads that there are.
        """
        losses = super().loss(x, rpn_results_list, batch_data_samples)
        x = full_precision(x)
        if self.block_head is not None:
            losses.update(self._block_loss(x, batch_data_samples))
        if self.global_head is not None:
            losses.update(self._global_loss(x[-1], batch_data_samples))
        return losses

    def _global_loss(self, level: Tensor, samples: SampleList) -> dict[str, Tensor]:
        teacher_ND = torch.stack([_part(sample, "image_embedding", "global_store").float() for sample in samples])
        labels_NC = torch.zeros(len(samples), self.global_head.classifier.num_classes, dtype=torch.bool,
                                device=level.device)
        for row, sample in zip(labels_NC, samples):
            row[sample.gt_instances.labels] = True
        return self.global_head.loss(level, teacher_ND, labels_NC)

    def _block_loss(self, x: tuple[Tensor], samples: SampleList) -> dict[str, Tensor]:
        blocks = [_part(sample, "blocks", "block_store") for sample in samples]
        rois = bbox2roi([image.bboxes.to(x[0]) for image in blocks])
        features = self.bbox_roi_extractor(x[:self.bbox_roi_extractor.num_inputs], rois)
        teacher_RD = torch.cat([image.embeddings.float() for image in blocks])
        labels_RC = torch.cat([
            labels_of_blocks(image.bboxes, sample.gt_instances.bboxes, sample.gt_instances.labels,
                             self.block_head.classifier.num_classes) for image, sample in zip(blocks, samples)])
        return self.block_head.loss(features, teacher_RD, labels_RC)


def _build(config: dict | None, kind: type, bbox_head: dict) -> nn.Module | None:
    if config is None:
        return None
    shared = {key: bbox_head["classifier"].get(key) for key in ("class_head", "split", "data_root", "embed_dim")}
    shared = {key: value for key, value in shared.items() if value is not None}
    return MODELS.build({"type": kind, **config, "classifier": {**shared, **config.get("classifier", {})}})


def _part(sample, key: str, store: str):
    if key not in sample:
        raise UserError(f"OADP needs {key.replace('_', ' ')} data, and there are none: set the dataset's {store} to "
                        "what ovd embed-regions wrote, or leave that head out of roi_head")
    return sample.get(key)
