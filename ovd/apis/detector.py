"""A detector with a vocabulary: give it names, show it boxes, let it detect."""

import os
import threading
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import torch
from mmengine.structures import InstanceData

from ovd.apis.detections import Detections, encode_masks
from ovd.apis.evidence import Evidence, Looker, Pass
from ovd.apis.examples import Example, example_head
from ovd.apis.images import ImageInput, as_list, source_of
from ovd.apis.parts import Parts, twin
from ovd.apis.vocabulary import Vocabulary, of_names, read_vocabulary
from ovd.errors import UserError, nearest
from ovd.evaluation.pictures import class_colour
from ovd.models.classifier import CosineClassifier
from ovd.stores.class_heads import ClassHead

BATCH_SIZE = 8
MAX_PER_IMAGE = 100


class Detector:
    """Detects the classes of a vocabulary that can be changed at any time; :func:`ovd.apis.load` makes one.

    The classes of :meth:`set_vocabulary` compete with each other, with silent rivals and with the background, by
    softmax. Classes that :meth:`add_class` puts beside them compete with these, and not with each other: detections of
    the vocabulary stay what they were, to the bit on a CPU, whatever is added.

    Weights, encoders and caches are shared by all sessions of a detector (:meth:`session`); each has a vocabulary of
    its own, and can be used in a thread of its own. One session may be used from several threads; a call then sees the
    vocabulary before a change, or after it.

    >>> import ovd
    >>> from ovd.data.shapes.dataset import scene
    >>> image, objects = scene(seed=7, subset=0, index=10, size=192, weighted=False)  # RGB [192, 192, 3]
    >>> detector = ovd.load("demo", vocabulary=["striped green crown", "plain blue ring"])
    >>> detector.detect(image, threshold=0.5).names
    ['striped green crown', 'plain blue ring']
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._looker = Looker(parts.model, parts.pipeline)
        self._model = twin(parts.model)
        if (roi_head := getattr(self._model, "roi_head", None)) is not None:
            roi_head.test_cfg.update(scores="independent", diagnostics=False)
        self._lock = threading.RLock()
        self._slots: dict[str, int] = {}
        self._vocabulary = Vocabulary()
        self.reset_vocabulary()

    def __repr__(self) -> str:
        names = self.names
        shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
        return f"Detector({self._parts.name}: {len(names)} classes: {shown})"

    @property
    def names(self) -> tuple[str, ...]:
        """The current classes: the vocabulary, then those that were added. Labels are positions in it."""
        return self._vocabulary.names

    @property
    def added(self) -> tuple[str, ...]:
        """Those of them that :meth:`add_class` added."""
        return self._vocabulary.added_names

    @property
    def own_names(self) -> tuple[str, ...]:
        """The model's own classes, with which it starts."""
        return () if self._parts.own is None else self._parts.own.names

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._parts.device

    @property
    def palette(self) -> Mapping[str, tuple[int, int, int]]:
        """The RGB colour of each class; a class keeps its colour as long as the detector lives."""
        return MappingProxyType({name: class_colour(self._slots[name]) for name in self.names})

    def session(self) -> "Detector":
        """A detector of the same weights, encoders and caches with a vocabulary of its own: this one's as it is now.

        It costs milliseconds and next to no memory. Sessions are safe beside each other in threads.

        >>> import ovd
        >>> detector = ovd.load("demo", vocabulary=["plain blue ring"])
        >>> visitor = detector.session()
        >>> visitor.set_vocabulary(["dotted red star"])
        >>> detector.names
        ('plain blue ring',)
        """
        other = Detector(self._parts)
        with self._lock:
            other._slots = dict(self._slots)
            other._use(self._vocabulary)
        return other

    def set_vocabulary(self, classes: Sequence[str] | ClassHead | str | os.PathLike,
                       rivals: Sequence[str] | str | None = "own") -> None:
        """Detect these classes from now on, in place of all before; what was added goes too.

        Args:
            classes: Names; a class head; or the path of a class head file or of a registry's folder (``ovd classes``).
                Names that the model has a row of have that row, others are embedded by its CLIP's text tower. An empty
                list is for :meth:`add_class` to begin with.
            rivals: What else may be in the images, to compete with the classes without being reported: else a horse is
                the nearest thing to a zebra that there is. ``"own"``: the classes that the model was trained on. None,
                for words that mean the same as one of these. Or names. A class of boxes does not compete with the
                one that its boxes show, whatever it is called.

        Raises:
            UserError: Names that repeat or are empty; a head of another CLIP; no such file. The vocabulary stays.

        >>> import ovd
        >>> detector = ovd.load("demo")
        >>> detector.set_vocabulary(["a red star with dots", "plain blue ring"], rivals=["plain red star"])
        >>> detector.names
        ('a red star with dots', 'plain blue ring')
        """
        own, words = self._parts.own, self._parts.words
        chosen = read_vocabulary(classes, own, words)
        if isinstance(rivals, str) and rivals != "own":
            raise UserError(f"rivals {rivals!r}: give 'own', None, or a list of names")
        silent = self._parts.trained if rivals == "own" else read_vocabulary(list(rivals or ()), own, words)
        self._use(Vocabulary(chosen, None, silent))

    def reset_vocabulary(self) -> None:
        """Detect the model's own classes again."""
        self._use(Vocabulary(self._parts.own, None, self._parts.trained))

    def add_class(self, name: str, text: str | Sequence[str] | bool | None = None,
                  boxes: Sequence[Example] | None = None, rule: str = "trusted", method: str = "prototype") -> None:
        """Put a class beside the others: by its name, by example boxes, or by both. Nothing is trained.

        Detections of the other classes stay what they are.

        Args:
            name: What it is called.
            text: None: the name is put into the prompts. Other words, one or several, in its place. False: boxes alone,
                for a name that means nothing.
            boxes: Examples: (image, (x1, y1, x2, y2)) in pixels of the image, some 3 to 10.
            rule: How words and boxes become one: ``"trusted"`` (words that do not fit the boxes give way to them),
                ``"weights"``, ``"logits"``, ``"max"`` (:func:`ovd.fewshot.combination.combine`).
            method: How boxes become a class: ``"prototype"`` (:data:`ovd.fewshot.sources.METHODS` has others), or
                ``"codes"`` of a detector with a hypernetwork.

        Raises:
            UserError: A class of that name is there; neither words nor boxes; boxes or images that do not fit.

        >>> import ovd
        >>> from ovd.data.shapes.dataset import scene
        >>> boxes = []
        >>> for index in (8, 38, 41):
        ...     image, objects = scene(seed=7, subset=0, index=index, size=192, weighted=False)
        ...     boxes += [(image, one.box) for one in objects if one.category.name == "striped green crown"]
        >>> detector = ovd.load("demo", vocabulary=["plain blue ring"])
        >>> detector.add_class("gizmo", text=False, boxes=boxes)
        >>> image, objects = scene(seed=7, subset=0, index=10, size=192, weighted=False)
        >>> detector.detect(image, threshold=0.95).names
        ['gizmo', 'plain blue ring']
        """
        self._add(name, text, boxes, rule, method)

    def remove_class(self, name: str) -> None:
        """Take a class out of the vocabulary, or away again.

        Raises:
            UserError: There is no such class.
        """
        with self._lock:
            self._use(self._vocabulary.without(self._known(name)))

    def look(self, images: ImageInput | Sequence[ImageInput], masks: bool = True,
             batch_size: int = BATCH_SIZE) -> Evidence:
        """All that the detector sees in images, whatever the vocabulary: the slow part, once.

        Args:
            masks: Keep what masks are made of (the feature maps: some 90 MB an image at full size).

        Raises:
            UserError: An image that cannot be read.

        >>> import ovd
        >>> from ovd.data.shapes.dataset import scene
        >>> image, objects = scene(seed=7, subset=0, index=10, size=192, weighted=False)
        >>> detector = ovd.load("demo")
        >>> evidence = detector.look(image)
        >>> len(detector.name(evidence, threshold=0.9)) < len(detector.name(evidence, threshold=0.1))
        True
        """
        listed, single = as_list(images)
        return self._looker.look(listed, single, masks and self.has_masks, batch_size)

    @property
    def has_masks(self) -> bool:
        """Whether the detector makes masks."""
        return bool(getattr(getattr(self._model, "roi_head", None), "with_mask", False))

    def name(self, evidence: Evidence, threshold: float = 0.3, masks: bool = True,
             max_per_image: int = MAX_PER_IMAGE) -> Detections | list[Detections]:
        """Name what was seen, by the current vocabulary: the quick part, as often as you like.

        Args:
            evidence: Of :meth:`look`, by any session of this detector.
            Others: As of :meth:`detect`.
        """
        _check_threshold(threshold)
        if max_per_image < 0:
            raise UserError(f"at most {max_per_image} detections of an image: give 0 or more")
        with self._lock:
            found = self._name(evidence, threshold, masks and evidence.masks, max_per_image)
        return found[0] if evidence.single else found

    def detect(self, images: ImageInput | Sequence[ImageInput], threshold: float = 0.3, masks: bool = True,
               batch_size: int = BATCH_SIZE, max_per_image: int = MAX_PER_IMAGE) -> Detections | list[Detections]:
        """Find the classes of the vocabulary in one image, or in each of several.

        Args:
            images: A path, a PIL image, a uint8 array ``[H, W, 3]`` in RGB; or a list of these.
            threshold: Lowest score, 0 to 1.
            masks: Whether masks are wanted (there are none from a detector without a mask head).
            batch_size: Images that go through the network together. Images of different size never pad each other, so
                in a batch an image has the boxes and scores that it has alone, but for rounding.
            max_per_image: Most detections of the vocabulary, and as many of added classes.

        Returns:
            Detections by falling score; a list of them for a list of images.

        Raises:
            UserError: An image that cannot be read; a threshold outside 0 to 1.
        """
        _check_threshold(threshold)
        if batch_size < 1:
            raise UserError(f"a batch of {batch_size} images: give 1 or more")
        listed, single = as_list(images)
        found: list[Detections] = []
        for first in range(0, len(listed), batch_size):
            evidence = self.look(listed[first:first + batch_size], masks, batch_size)
            found += self.name(evidence, threshold, masks, max_per_image)
        return found[0] if single else found

    def _add(self, name: str, text: str | Sequence[str] | bool | None, boxes: Sequence[Example] | None, rule: str,
             method: str) -> None:
        if (known := self._vocabulary.known(name)) is not None:
            raise UserError(f"there is a class {known!r} already: remove_class({known!r}) first")
        parts, words, examples = self._parts, None, None
        if parts.words is None and boxes is not None and text is None:
            text = False  # nothing hears the name
        if text is not False:
            given = None if text in (None, True) else {name: _worded(name, [text] if isinstance(text, str) else text)}
            words = of_names([name], parts.own, parts.words, given)
        if boxes is not None:
            examples = example_head(self._looker, name, boxes, parts.own, method)
        if words is None and examples is not None and not self._classifiers():
            head = examples  # outside CLIP's space scores are each by itself, there is no level to find
        else:
            head = parts.lessons.head(words, examples, 0 if boxes is None else len(boxes), rule, method)
        with self._lock:
            silent, alike = self._vocabulary.silent, None
            if examples is not None and silent is not None:
                alike = parts.lessons.like(silent, examples, len(boxes), method)
            self._use(self._vocabulary.plus(head, alike))

    def _use(self, vocabulary: Vocabulary) -> None:
        """Detect the classes of a vocabulary from now on; it stays what it was where they do not fit."""
        head, rivals = vocabulary.head(), vocabulary.rivals
        with self._lock:
            if head is not None:
                self._model.set_class_head(head)
                for classifier in self._classifiers():
                    classifier.arrange(set(vocabulary.added_names), rivals, vocabulary.alike)
            for name in vocabulary.names:
                self._slots.setdefault(name, len(self._slots))
            self._vocabulary = vocabulary

    def _classifiers(self) -> list[CosineClassifier]:
        return [module for module in self._model.modules() if isinstance(module, CosineClassifier)]

    def _known(self, name: str) -> str:
        known = self._vocabulary.known(name)
        if known is None:
            raise UserError(f"there is no class {name!r}{nearest(name, self.names)}")
        return known

    def _name(self, evidence: Evidence, threshold: float, masks: bool, max_per_image: int) -> list[Detections]:
        if not self.names:
            return [_nothing(image, size, masks) for image, size in zip(evidence.images, evidence.sizes)]
        found: list[Detections | None] = [None] * len(evidence)
        colours = tuple(class_colour(self._slots[name]) for name in self.names)
        for one in evidence.passes:
            for place, result in zip(one.places, self._named(one, threshold, masks, max_per_image)):
                found[place] = Detections(
                    result.bboxes.cpu().numpy(), result.scores.cpu().numpy(), result.labels.cpu().numpy(), self.names,
                    evidence.sizes[place], encode_masks(result.masks.cpu().numpy()) if masks else None,
                    source_of(evidence.images[place]), colours, evidence.images[place])
        return found

    @torch.inference_mode()
    def _named(self, one: Pass, threshold: float, masks: bool, max_per_image: int) -> list[InstanceData]:
        lowest = np.float32(threshold)
        roi_head = getattr(self._model, "roi_head", None)
        if roi_head is None:  # FCOS, whose own threshold is of something else than the score
            self._model.test_cfg["max_per_img"] = max_per_image
            results = self._model.detect(one.seen, one.samples)
            return [result[result.scores >= float(lowest)] for result in results]
        roi_head.test_cfg.update(score_thr=float(np.nextafter(lowest, np.float32(-1))), max_per_img=max_per_image)
        return self._model.detect(one.seen, one.samples, masks=masks)


def _worded(name: str, words: Sequence[str]) -> list[str]:
    words = list(words)
    if not words or not all(isinstance(one, str) and one.strip() for one in words):
        raise UserError(f"the words for {name!r} are {words}: give one or several, none of them empty")
    return words


def _check_threshold(threshold: float) -> None:
    if not 0 <= threshold <= 1:
        raise UserError(f"a threshold of {threshold}: scores go from 0 to 1")


def _nothing(image: ImageInput, size: tuple[int, int], masks: bool) -> Detections:
    return Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0), (), size, () if masks else None, source_of(image),
                      (), image)
