"""A folder of folders: each is a class, and the images in it are its pictures."""

import os
import re
from pathlib import Path

from ovd.data.classification.pictures import SUFFIXES, Picture
from ovd.errors import UserError


def read_folder(root: str | os.PathLike) -> list[Picture]:
    """The pictures below ``root``, in order of class folder and file; images in deeper folders are of the class too.

    Hidden files and folders do not count, nor do files that are not images by their suffix.

    Raises:
        UserError: No class folders, a class folder without images, two folders with one class name.
    """
    root = Path(root)
    folders = sorted(folder for folder in root.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    if not folders:
        raise UserError(f"{root}: has no folders; images belong in a folder of their class: "
                        f"{root.name}/CLASS/IMAGE.jpg")
    found: list[Picture] = []
    names: dict[str, Path] = {}
    for folder in folders:
        name = class_name(folder.name)
        if name in names:
            raise UserError(f"{folder}: is the class {name!r}, and so is {names[name].name}; rename one of them")
        names[name] = folder
        files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file()
                       and not any(part.startswith(".") for part in file.relative_to(folder).parts))
        if not files:
            raise UserError(f"{folder}: has no images ({', '.join(SUFFIXES)}); put some in, or remove the folder")
        found += [Picture(str(file), name) for file in files]
    return found


def class_name(folder: str) -> str:
    """The class that a folder is named after: a number before it does not count, underscores are blanks.

    >>> class_name("001.Black_footed_Albatross")
    'Black footed Albatross'
    """
    return re.sub(r"^\d+\.", "", folder).replace("_", " ").strip() or folder
