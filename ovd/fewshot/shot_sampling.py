"""Which annotated objects of a class are its shots: an order of all that could serve, of which any k first are taken.

The order of a class depends on the seed, the class's name and each object's own file name and annotation id alone. So
the shots for k are the first of those for k + 1, other classes change nothing, and an image that goes from the
annotation file, or comes to it, moves no other one.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import PurePosixPath

from ovd.data.annotations import Annotation, Annotations, Image, image_path
from ovd.errors import UserError, nearest
from ovd.vocabulary.classes import canonical

Box = tuple[float, float, float, float]


@dataclass(slots=True)
class Candidate:
    """An object that could be a shot: its record, its image, that image's file, and its box within the image (xyxy)."""

    record: Annotation
    image: Image
    file: str
    box: Box


@dataclass
class Candidates:
    """The objects of one class that could be shots, and how many could not, by reason."""

    usable: list[Candidate] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    def require(self, name: str, k: int, replacement: bool) -> None:
        """UserError, with the numbers, where there are fewer than ``k`` (without any, replacement does not help)."""
        number = len(self.usable)
        if number >= k or (number and replacement):
            return
        why = ", ".join(f"{count} {reason}" for reason, count in sorted(self.left_out.items()))
        remedy = (f"ask for at most {number}, or repeat boxes with --with-replacement" if number else
                  "leave the class out, or annotate it")
        raise UserError(f"class {name!r}: {k} shots were asked for, but there are {number} boxes"
                        f"{f' (left out: {why})' if why else ''}; {remedy}")


def candidates(annotations: Annotations, names: Sequence[str], min_size: float) -> dict[str, Candidates]:
    """The objects of each class of ``names`` that could be shots, in the file's order.

    No shots are crowds, boxes with a side below ``min_size`` pixels within their image, and boxes that the class has
    twice in one image.

    Raises:
        UserError: a class that the file has not, or that is asked for twice.
    """
    wanted = _wanted(annotations, names)
    images = {image.id: (image, file_of(image)) for image in annotations.images}
    found = {name: Candidates() for name in names}
    seen: set[tuple[str, int, Box]] = set()
    for record in annotations.annotations:
        if (name := wanted.get(record.category_id)) is None:
            continue
        (image, file), here = images[record.image_id], found[name]
        box = clipped(record.bbox, image)
        if record.iscrowd:
            here.left_out["crowds"] += 1
        elif min(box[2] - box[0], box[3] - box[1]) < max(min_size, 1e-6):
            here.left_out[f"with a side below {min_size:g} pixels"] += 1
        elif (name, image.id, box) in seen:
            here.left_out["doubled"] += 1
        else:
            seen.add((name, image.id, box))
            here.usable.append(Candidate(record, image, file, box))
    return found


def _wanted(annotations: Annotations, names: Sequence[str]) -> dict[int, str]:
    """Class names by the ids of the file's categories."""
    ids = {canonical(category.name): category.id for category in annotations.categories}
    wanted: dict[int, str] = {}
    for name in names:
        if canonical(name) not in ids:
            hint = nearest(name, (category.name for category in annotations.categories))
            raise UserError(f"the annotations have no class {name!r}{hint}")
        if other := wanted.get(ids[canonical(name)]):
            raise UserError(f"class {name!r} is asked for twice (as {other!r}); name every class once")
        wanted[ids[canonical(name)]] = name
    return wanted


def clipped(bbox: Sequence[float], image: Image) -> Box:
    """A box x, y, width, height as x1, y1, x2, y2, cut at the image's borders."""
    x, y, width, height = bbox
    return (float(max(x, 0.0)), float(max(y, 0.0)), float(min(x + width, image.width)),
            float(min(y + height, image.height)))


def file_of(image: Image) -> str:
    """The image file relative to the image root, with ``/``."""
    return PurePosixPath(image_path(image, "")).as_posix()


def drawing_order(found: Iterable[Candidate], name: str, seed: int) -> list[Candidate]:
    """The candidates in the order in which they are drawn for the class ``name``.

    Different images first: objects are put into a random order, and then the first object of every image comes before
    the second one of any. So k shots are of k images where the class is in so many, and else of all of them, evenly.

    Random is the order of SHA-256 over seed, class, file and annotation id: the same everywhere, without a generator
    whose state would tie one class to another.
    """
    prefix = f"{seed}\0{canonical(name)}\0"
    found = sorted(found, key=lambda one: sha256(f"{prefix}{one.file}\0{one.record.id}".encode()).digest())
    before: defaultdict[int, int] = defaultdict(int)
    rounds = []
    for one in found:
        rounds.append(before[one.image.id])
        before[one.image.id] += 1
    return [one for _, one in sorted(zip(rounds, found), key=lambda pair: pair[0])]


def take(order: Sequence[Candidate], k: int) -> list[Candidate]:
    """The ``k`` first; where there are fewer, they are gone through again, so that none comes twice more often."""
    return [order[number % len(order)] for number in range(k)]
