"""The classes that a command line asks for: a dataset's, a split's, or a user's own list."""

from dataclasses import dataclass
from pathlib import Path

from ovd.errors import UserError
from ovd.vocabulary.prompts import check_names
from ovd.vocabulary.splits import Split


@dataclass(frozen=True)
class Vocabulary:
    """Class names, the dataset that they are of, and the data folder (None where nothing says)."""

    names: tuple[str, ...] | None
    dataset: str | None
    root: Path | None


def find_vocabulary(dataset: str | None, names_file: str | Path | None = None, data_root: str | Path | None = None, *,
                    for_matrix: bool = False) -> Vocabulary:
    """The classes that the command line asks for.

    Args:
        dataset: ``coco``, ``lvis_v1``, ``voc``, a split's name or file; None for COCO, unless names are given.
        names_file: Names that replace the dataset's.
        data_root: Where relative files and the class head belong.
        for_matrix: Names for the rows of a matrix: the whole dataset in its own order, not a split in label order; and
            None, not COCO, where nothing is said, as the file may have names.

    Raises:
        UserError: Unknown dataset (with the nearest names), unreadable file, repeated or empty names.
    """
    from ovd.stores.class_heads import read_names
    from ovd.vocabulary.classes import COCO_NAMES, LVIS_NAMES, VOC_NAMES
    from ovd.vocabulary.splits import get_split

    official = {"coco": COCO_NAMES, "lvis_v1": LVIS_NAMES, "voc": VOC_NAMES}
    if dataset is None and not names_file and not for_matrix:
        dataset = "coco"
    split = None
    if dataset:
        split = get_split(dataset, data_root or ".")
    if names_file:
        names = tuple(read_names(names_file))
    elif split:
        names = official.get(split.dataset, split.classes) if for_matrix else split.classes
    else:
        names = None
    if names is not None:
        try:
            check_names(names)
        except UserError as error:
            raise UserError(f"{names_file or dataset}: {error}") from None
    root = Path(data_root) if data_root else _default_root(split, dataset)
    return Vocabulary(names, split.dataset if split else None, root)


def _default_root(split: Split | None, dataset: str | None) -> Path | None:
    if split is None:
        return None
    if split.dataset != "custom":
        return Path("data", split.dataset)
    path = Path(dataset)
    return path.parent.parent if path.is_file() and path.parent.name == "annotations" else None
