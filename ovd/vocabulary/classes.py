"""The class lists of COCO, LVIS v1, PASCAL VOC and Objects365, with the spellings and ids of the official files."""

import re
import unicodedata
from functools import lru_cache
from importlib.resources import files

import msgspec

COCO_NAMES: tuple[str, ...] = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant",
    "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard",
    "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli",
    "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet",
    "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink",
    "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip

# Category ids run from 1 to 90; these ten were never released.
_COCO_GAPS = frozenset({12, 26, 29, 30, 45, 66, 68, 69, 71, 83})
COCO_IDS: tuple[int, ...] = tuple(i for i in range(1, 91) if i not in _COCO_GAPS)

VOC_NAMES: tuple[str, ...] = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


class LvisCategory(msgspec.Struct, frozen=True, array_like=True):
    """A category of LVIS v1; ``frequency`` is ``r`` (1 to 10 training images), ``c`` (11 to 100) or ``f`` (more)."""

    id: int
    name: str
    synset: str
    synonyms: tuple[str, ...]
    frequency: str


LVIS_V1: tuple[LvisCategory, ...] = msgspec.json.decode(
    files(__package__).joinpath("lvis_v1.json").read_bytes(), type=tuple[LvisCategory, ...]
)
LVIS_NAMES: tuple[str, ...] = tuple(category.name for category in LVIS_V1)

_OBJECTS365: dict[str, tuple[str, ...]] = msgspec.json.decode(
    files(__package__).joinpath("objects365.json").read_bytes(), type=dict[str, tuple[str, ...]]
)
OBJECTS365_V1_NAMES, OBJECTS365_V2_NAMES = _OBJECTS365["v1"], _OBJECTS365["v2"]

# The official LVIS v1 file lacks an "e" here; mmdet and files made with it have corrected the spelling.
_SPELLINGS = {"speaker_(stereo_equipment)": "speaker_(stero_equipment)"}


def canonical(name: str) -> str:
    """The spelling by which ``name`` is looked up: that of the official file, where several are in use.

    Blanks around a name do not count: Objects365's files have some ("tissue ").

    >>> canonical("speaker_(stereo_equipment)")
    'speaker_(stero_equipment)'
    """
    name = name.strip()
    return _SPELLINGS.get(name, name)


@lru_cache(maxsize=1 << 16)
def spelling(name: str) -> str:
    """What all spellings of a class name have in common: case, blanks or underscores, forms of a letter do not count.

    >>> spelling("Traffic_Light") == spelling("traffic light")
    True
    """
    return re.sub(r"[\s_]+", " ", unicodedata.normalize("NFKC", canonical(name)).casefold()).strip()
