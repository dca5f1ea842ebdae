"""A trained detector as the few-shot stages use it: its base classes, and what it makes of shots."""

import copy
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine.config import Config

from ovd.engine.config import walk
from ovd.engine.inference import load_detector
from ovd.engine.preflight import check_class_heads
from ovd.errors import UserError
from ovd.fewshot.detection.maker import SupportFeatures
from ovd.fewshot.detector_vectors import SupportReader, class_of, detector_vectors, own_head
from ovd.fewshot.shots import ShotSet
from ovd.fewshot.support_vectors import SupportVectors, support_of
from ovd.models.region_detection import SCORES
from ovd.stores.class_heads import ClassHead


class ShotDetector:
    """A detector to which classes are added.

    What it made of shots is kept, so that sets that share shots cost little more than one.

    Args:
        cfg: Its config; changed here.
        checkpoint: Its weights.
        image_root: The folder that the shots' images lie in.
        class_head: File of the classes that it knows by name, in place of the config's.
        scores: See :class:`~ovd.models.region_detection.RegionDetection`; a detector whose scores are independent
            anyway (FCOS) has no such setting.

    Raises:
        UserError: A checkpoint or class head that does not fit; unknown scores.
    """

    def __init__(self, cfg: Config, checkpoint: str | os.PathLike, image_root: str | os.PathLike,
                 device: torch.device | str = "cpu", class_head: str | os.PathLike | None = None,
                 scores: str = "independent") -> None:
        if scores not in SCORES:
            raise UserError(f"scores {scores!r}: not one of {', '.join(SCORES)}")
        if class_head is not None:
            for _, part in walk(cfg.model):
                if "class_head" in part:
                    part["class_head"] = str(Path(class_head).absolute())
            check_class_heads(cfg.model)
        rcnn = (cfg.model.get("test_cfg") or {}).get("rcnn")
        if rcnn is not None:
            rcnn.update(scores=scores, diagnostics=False)
        self.cfg = cfg
        self.model = load_detector(cfg, checkpoint, device)
        self._look_in(image_root)

    def _look_in(self, image_root: str | os.PathLike) -> None:
        def reader(method: str, needed: str) -> SupportReader | None:
            if not hasattr(self.model, needed):
                return None
            return SupportReader(self.model, getattr(self.model, method), self.cfg, image_root)

        self.image_root = image_root
        self.vector_reader = reader("embed_boxes", "embed_boxes")
        self.feature_reader = reader("support_features", "code_head")

    def at(self, image_root: str | os.PathLike) -> "ShotDetector":
        """The same detector for shots of images in another folder."""
        other = copy.copy(self)
        other._look_in(image_root)
        return other

    @property
    def known(self) -> ClassHead | None:
        """The classes that it knows by name; None for a detector without a text embedding space."""
        return own_head(self.model) if self.vector_reader is not None else None

    def base_head(self, names: Sequence[str], shots: ShotSet | None = None) -> ClassHead:
        """The base classes as training left them: rows of text, or of the trained classifier.

        Args:
            shots: Boxes of theirs, to make codes of instead.
        """
        if shots is not None:
            return self.features(shots.select(names)).head(shots.k)
        head = self.model.base_head() if hasattr(self.model, "base_head") else self.known
        if head is None and self.vector_reader is None:
            raise UserError(f"{self.cfg.filename}: {type(self.model).__name__} takes no added classes: give a ViLD or "
                            "FCOS detector of this project; one that was fine-tuned on shots is evaluated by ovd test")
        if head is None:
            raise UserError(f"{self.cfg.filename}: the detector has no classes yet: set class_head in the config, or "
                            "pass --class-head")
        return head.select(names)

    def vectors(self, shots: ShotSet) -> SupportVectors:
        """The detector's own embeddings of shots."""
        return detector_vectors(self.model, self.cfg, shots, self.image_root, reader=self.vector_reader)

    def features(self, shots: ShotSet) -> SupportFeatures:
        """What its hypernetwork makes codes of.

        Raises:
            UserError: A detector without a hypernetwork.
        """
        if self.feature_reader is None:
            raise UserError(f"{self.cfg.filename}: {type(self.model).__name__} has no hypernetwork: leave the method "
                            "codes out, or take a detector that was meta-trained (configs/hyper_roi, configs/sylph)")
        shots.check(self.image_root)
        provenance = tuple(support_of(shots, name) for name in shots.names)
        return SupportFeatures(shots.names, self.feature_reader(shots.shots()), class_of(shots), provenance,
                               self.model.code_head)
