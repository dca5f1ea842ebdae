"""TFA: detectors of which only the last layers learn from few shots, with a classifier that compares by cosine."""

from ovd.models.tfa.cosine_linear import CosineLinear
from ovd.models.tfa.detectors import FineTunedFasterRCNN
from ovd.models.tfa.fcos_head import FineTunedFCOSHead

__all__ = ["CosineLinear", "FineTunedFCOSHead", "FineTunedFasterRCNN"]
