"""mmdet's detectors with parts that are not trained."""

from mmdet.models import FasterRCNN
from mmdet.registry import MODELS
from mmdet.structures import SampleList
from torch import Tensor

from ovd.engine.freezing import FreezesParts


@MODELS.register_module()
class FineTunedFasterRCNN(FreezesParts, FasterRCNN):
    """Faster R-CNN for TFA's second stage: all but the last layers of the box head is frozen (TFA, sec. 3.1).

    Args:
        frozen, trainable: See :class:`~ovd.engine.freezing.FreezesParts`.
        kwargs: As for mmdet's ``FasterRCNN``.
    """

    def loss(self, batch_inputs: Tensor, batch_data_samples: SampleList) -> dict[str, Tensor]:
        """Losses of the parts that are trained: a proposal network that is frozen only proposes."""
        if any(parameter.requires_grad for parameter in self.rpn_head.parameters()):
            return super().loss(batch_inputs, batch_data_samples)
        x = self.extract_feat(batch_inputs)
        proposals = self.rpn_head.predict_by_feat(
            *self.rpn_head(x), batch_img_metas=[sample.metainfo for sample in batch_data_samples],
            cfg=self.train_cfg.get("rpn_proposal", self.test_cfg.rpn))
        return self.roi_head.loss(x, proposals, batch_data_samples)
