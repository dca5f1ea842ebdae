"""Pages of pictures in a folder."""

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from ovd.errors import UserError
from ovd.evaluation.picture_sheet import Colour, Panel, picture_sheet
from ovd.stores.atomic import atomic_write
from pipelines.show.findings import Findings

PER_PAGE = 12
SIDE = 420  # pixels of a picture's longer side


def panels_of(images: Iterable[int], draw: Callable[[int], Panel], findings: Findings) -> list[Panel]:
    """The panel of each image; for one that cannot be read, an empty one that says so."""
    panels, broken = [], []
    for image_id in tqdm(list(images), desc="pictures", unit="image", disable=None):
        try:
            panels.append(draw(image_id))
        except UserError as error:
            broken.append(str(error))
            panels.append(Panel(np.full((SIDE * 2 // 3, SIDE, 3), 225, np.uint8), f"image {image_id}: {error}",
                                wrong=True))
    if broken:
        more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
        findings.wrong.append(f"an image cannot be shown: {broken[0]}{more}")
    return panels


def write_sheets(folder: str | Path, stem: str, title: str, subtitle: str, panels: Sequence[Panel], *,
                 legend: Sequence[tuple[Colour, str]] = (), warnings: Sequence[str] = (), columns: int = 3,
                 per_page: int = PER_PAGE) -> list[Path]:
    """Write ``<stem>.png``, or ``<stem>_1.png`` and so on; those of an earlier call are removed. Prints where."""
    folder = Path(folder)
    pages = [panels[first:first + per_page] for first in range(0, len(panels), per_page)] or [[]]
    names = [f"{stem}.png"] if len(pages) == 1 else [f"{stem}_{number}.png" for number in range(1, len(pages) + 1)]
    for file in folder.glob(f"{stem}*.png") if folder.is_dir() else ():
        if re.fullmatch(rf"{re.escape(stem)}(_\d+)?\.png", file.name) and file.name not in names:
            file.unlink()
    for number, (name, page) in enumerate(zip(names, pages), 1):
        which = f"{title}, page {number} of {len(pages)}" if len(pages) > 1 else title
        sheet: Image.Image = picture_sheet(which, subtitle, page, columns, legend, warnings)
        with atomic_write(folder / name) as temporary:
            sheet.save(temporary, "PNG")
    shown = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
    print(f"pictures: {folder / shown}")
    return [folder / name for name in names]
