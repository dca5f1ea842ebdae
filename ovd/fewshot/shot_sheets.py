"""Contact sheets of shots: one a class, each box with its surroundings."""

from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from ovd.evaluation.audit_pictures import Pictures
from ovd.evaluation.contact_sheet import Tile, contact_sheet, file_stem
from ovd.fewshot.shots import ShotSet
from ovd.stores.atomic import atomic_write


def draw_shots(shots: ShotSet, root: Path, folder: Path, subtitle: str) -> list[Path]:
    """Write ``<class>.png`` into the folder for each class; returns the files.

    Args:
        root: the folder that the shots' images are relative to.
        subtitle: the line below each class's name.

    Raises:
        UserError: an image that is missing, damaged, or of another size than the shots say.
    """
    pictures = Pictures.of(shots.to_annotations(root).images, root)

    def tiles(name: str) -> Iterator[Tile]:
        for number, shot in enumerate(shots[name], 1):
            yield Tile(pictures.image(shot.image_id), shot.box, f"shot {number}", shot.image)

    written: list[Path] = []
    for name in tqdm(shots.names, desc="contact sheets", unit="class", disable=None):
        stem = file_stem(name, "class")
        while folder / f"{stem}.png" in written:
            stem += "-"
        with atomic_write(folder / f"{stem}.png") as temporary:
            contact_sheet(name, subtitle, tiles(name)).save(temporary, "PNG")
        written.append(folder / f"{stem}.png")
    return written
