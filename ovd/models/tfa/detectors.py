"""mmdet's detectors with parts that are not trained."""

from mmdet.models import FasterRCNN
from mmdet.registry import MODELS

from ovd.engine.freezing import FreezesParts


@MODELS.register_module()
class FineTunedFasterRCNN(FreezesParts, FasterRCNN):
    """Faster R-CNN for TFA's second stage: all but the last layers of the box head is frozen (TFA, sec. 3.1).

    The losses of a frozen proposal network are still computed and logged; they have no gradients.

    Args:
        frozen, trainable: See :class:`~ovd.engine.freezing.FreezesParts`.
        kwargs: As for mmdet's ``FasterRCNN``.
    """
