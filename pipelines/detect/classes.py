"""What to look for: names from words, files and datasets, and classes from example boxes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovd.errors import UserError

if TYPE_CHECKING:
    from ovd.apis.detector import Detector
    from ovd.apis.examples import Example


@dataclass(frozen=True)
class Wanted:
    """The classes of a run.

    Attributes:
        names: Classes by their names; None for the model's own.
        head: A class head file or a registry in their place.
        examples: Classes by example boxes: (image, box) of each.
        fingerprints: Of the files that it came from.
    """

    names: tuple[str, ...] | None = None
    head: str | None = None
    examples: "Mapping[str, list[Example]]" = field(default_factory=dict)
    fingerprints: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, words: Sequence[str] | None = None, words_file: str | None = None, dataset: str | None = None,
           head: str | None = None, boxes: str | None = None, images: str | None = None) -> "Wanted":
        """From the command line's options.

        Raises:
            UserError: Several of the options that name classes; no names in them; boxes that do not fit.
        """
        from ovd.stores.class_registry import load_classes
        from ovd.stores.manifest import fingerprint

        given = {"--words": words, "--words-file": words_file, "--vocabulary": dataset, "--class-head": head}
        chosen = [option for option, value in given.items() if value is not None]
        if len(chosen) > 1:
            raise UserError(f"{' and '.join(chosen)}: give one of them")
        names: Sequence[str] | None = None
        if words is not None:
            names = _split(",".join(words).split(","), "--words")
        elif words_file is not None:
            names = _split(_read(words_file).splitlines(), words_file)
        elif dataset is not None:
            names = _dataset_names(dataset)
        if images is not None and boxes is None:
            raise UserError("--images is the folder of example boxes: give their file with --boxes, too")
        if head is not None:
            load_classes(head)  # says what is wrong with a registry
        prints = {key: fingerprint(path) for key, path in (("class-head", head), ("boxes", boxes)) if path is not None}
        return cls(None if names is None else tuple(names), head, {} if boxes is None else _examples(boxes, images),
                   prints)

    def settings(self) -> dict[str, Any]:
        """What decides results, for a comparison with those of another run."""
        return {"words": None if self.names is None else list(self.names), **self.fingerprints}

    def give_to(self, detector: "Detector", rivals: str | None = "own") -> None:
        """Make it a detector's vocabulary.

        Args:
            rivals: As of :meth:`ovd.apis.detector.Detector.set_vocabulary`.
        """
        from ovd.vocabulary.classes import spelling

        by_spelling = {spelling(name): name for name in self.names or ()}
        shown = {spelling(name) for name in self.examples}
        if self.head is not None:
            detector.set_vocabulary(self.head, rivals)
        elif self.names is not None or self.examples:
            detector.set_vocabulary([name for name in self.names or () if spelling(name) not in shown], rivals)
        for name, boxes in self.examples.items():
            named = by_spelling.get(spelling(name))
            detector.add_class(named or name, text=None if named else False, boxes=boxes)


def _split(parts: Sequence[str], where: str) -> list[str]:
    names = [part.strip() for part in parts if part.strip()]
    if not names:
        raise UserError(f"{where}: has no class names")
    return names


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not text in UTF-8") from None


def _dataset_names(dataset: str) -> Sequence[str]:
    from ovd.vocabulary import classes

    return {"coco": classes.COCO_NAMES, "lvis": classes.LVIS_NAMES, "voc": classes.VOC_NAMES,
            "objects365": classes.OBJECTS365_V2_NAMES}[dataset]


def _examples(boxes: str, images: str | None) -> "dict[str, list[Example]]":
    from ovd.fewshot.boxes_file import checked_images, read_boxes_file

    shots = read_boxes_file(boxes)
    root = checked_images(shots, boxes, images)
    return {name: [(root / shot.image, shot.box) for shot in chosen] for name, chosen in shots.classes.items()}
