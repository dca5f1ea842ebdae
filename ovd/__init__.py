"""Open-vocabulary detection with cached CLIP embeddings.

Importing this package makes mmcv usable without its compiled operators (see :mod:`ovd.ops`). It stays light: neither
PyTorch nor mmcv is imported until something asks for them.
"""

from ovd.ops.extension import install as _install_operators
from ovd.ops.optional import install as _install_stand_ins

__version__ = "0.1.0"

_install_operators()
_install_stand_ins()
