"""Classes that support vectors define by distance alone, without a fit.

Shapes: C classes, M vectors a class, D embedding width.
"""

from ovd.errors import UserError, nearest
from ovd.fewshot.sources.supports import Supports
from ovd.stores.class_heads import ClassHead


def prototype(supports: Supports, *, norm: str = "cosine") -> ClassHead:
    """The mean of a class's unit vectors.

    Args:
        norm: ``"cosine"``: ``scale * cos(x, mean)`` (Meta-Baseline, Chen et al. 2021, eq. 3). ``"euclid"``:
            ``-scale * |x - mean|`` (ProtoNet, Snell et al. 2017, eq. 2, with the distance itself, not its square).
    """
    if norm not in ("cosine", "euclid"):
        raise UserError(f"prototype: unknown norm {norm!r}{nearest(norm, ('cosine', 'euclid'))}")
    return supports.head("prototype", supports.means()[:, None], {"norm": norm}, norm=norm)
