"""Open-vocabulary detection with cached CLIP embeddings.

    detector = ovd.load("demo")
    detector.set_vocabulary(["dotted red star", "plain blue circle"])
    found = detector.detect("scene.png")

Importing this package makes mmcv usable without its compiled operators (see :mod:`ovd.ops`). It stays light: neither
PyTorch nor mmcv is imported until something asks for them, such as the names of :mod:`ovd.apis`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ovd.ops.extension import install as _install_operators
from ovd.ops.optional import install as _install_stand_ins

if TYPE_CHECKING:
    from ovd.apis import Detection, Detections, Detector, inference_detector, init_detector, load

__version__ = "0.1.0"
__all__ = ["Detection", "Detections", "Detector", "__version__", "inference_detector", "init_detector", "load"]

_install_operators()
_install_stand_ins()


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("ovd.apis"), name)
    raise AttributeError(f"module 'ovd' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
