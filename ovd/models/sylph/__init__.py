"""FCOS whose classes are rows that anything may give: training, a code generator, or both side by side."""

from ovd.models.sylph.detector import SylphFCOS
from ovd.models.sylph.evidence import Evidence
from ovd.models.sylph.head import CodeFCOSHead

__all__ = ["CodeFCOSHead", "Evidence", "SylphFCOS"]
