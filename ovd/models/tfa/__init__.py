"""TFA: detectors of which only the last layers learn from few shots, with a classifier that compares by cosine."""

from ovd.models.tfa.cosine_linear import CosineLinear
from ovd.models.tfa.detectors import FineTunedFasterRCNN

__all__ = ["CosineLinear", "FineTunedFasterRCNN"]
