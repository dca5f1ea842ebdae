"""Load a detector, give it a vocabulary, detect: what people call from Python.

    import ovd

    detector = ovd.load("demo")
    detector.set_vocabulary(["dotted red star", "plain blue circle"])
    detector.detect("scene.png", threshold=0.3).plot().show()

:mod:`~ovd.apis.detector` has the verbs, :mod:`~ovd.apis.detections` the result. See docs/api.md.
"""

from ovd.engine.launch import quiet

quiet()  # before mmdet is imported, which prints what it could use and is not there

# ruff: noqa: E402
from ovd.apis.detections import Detection, Detections
from ovd.apis.detector import Detector
from ovd.apis.loading import load
from ovd.apis.mmdet_style import inference_detector, init_detector

__all__ = ["Detection", "Detections", "Detector", "inference_detector", "init_detector", "load"]
