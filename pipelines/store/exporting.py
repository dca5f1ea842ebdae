"""``ovd store export``: a region store as a .pth file per image."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from ovd.errors import UserError
from ovd.stores.atomic import TEMPORARY, sweep, write_bytes
from ovd.stores.manifest import canonical_json
from ovd.stores.per_image import file_name, is_whole, save_image
from ovd.stores.proposals_pkl import save_proposals
from ovd.stores.shards import RegionStore

MARK = "export.json"  # what the files of a folder come from; written first
PROPOSALS = "proposals.pkl"
THREADS = 8  # that wait for the disk
LOSSES = {
    "detpro": f"these files have no boxes: row i belongs to row i of the image's entry in {PROPOSALS}, whose entries "
              "are in ascending order of image id",
    "oadp": "these files keep boxes as float16: coordinates from 512 to 1024 are rounded to half a pixel, from 1024 to "
            "2048 to a whole one; the store keeps them as they are"}


@dataclass(frozen=True)
class _Image:
    """What :func:`save_proposals` asks of an image."""

    id: int


def export(store: str | Path, layout: str, out: str | Path, overwrite: bool = False) -> int:
    """Write the images of ``store`` as files in the folder ``out``, and for detpro their boxes.

    Whole files of an earlier run are kept; each is there whole or not at all. Shards are verified on the way.

    Args:
        overwrite: Write files again that are there, and replace the export of another store.

    Returns:
        The number of files written.

    Raises:
        UserError: Not a region store, a damaged shard, or a folder with other things in it, such as the export of
            another store.
    """
    opened, out = RegionStore(store), Path(out)
    if opened.kind != "regions":
        raise UserError(f"{store}: a store of {opened.kind} has no embeddings; for boxes alone see ovd proposals "
                        "--export-pkl")
    _claim(out, {"layout": layout, "store": opened.manifest.content}, overwrite)
    ids = opened.image_ids.tolist()
    todo = ids if overwrite else [image_id for image_id in ids if not is_whole(out / file_name(image_id))]

    def save(image: tuple) -> None:
        save_image(out / file_name(image[0]), image[1], layout)

    with ThreadPoolExecutor(THREADS) as pool, tqdm(total=len(todo), desc="exporting", unit=" images") as bar:
        verified = set()
        for start in range(0, len(todo), 8 * THREADS):
            some = todo[start:start + 8 * THREADS]
            shards = set(opened.shards_of(some)) - verified
            opened.verify(sorted(shards))
            verified |= shards
            for _ in pool.map(save, [(image_id, opened[image_id]) for image_id in some]):
                bar.update()
    if layout == "detpro":
        save_proposals(out / PROPOSALS, opened, [_Image(image_id) for image_id in ids], "sorted", by_score=False)
    kept = f", {len(ids) - len(todo):,} were there before" if len(todo) < len(ids) else ""
    print(f"{out}: {len(ids):,} files{kept}, {opened.manifest.counts['regions']:,} regions, layout {layout}")
    print(f"note: {LOSSES[layout]}")
    return len(todo)


def _claim(out: Path, mark: dict[str, str], overwrite: bool) -> None:
    """Make the folder that of this export; UserError when there is something else in it."""
    file = out / MARK
    try:
        found = json.loads(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        if out.exists() and (not out.is_dir() or any(not f.name.startswith(TEMPORARY) for f in out.iterdir())):
            raise UserError(f"{out}: exists and is not an export; choose another folder") from None
        found = mark
    except (OSError, ValueError):
        found = None
    if found != mark and not overwrite:
        raise UserError(f"{out}: holds files of another store or layout; choose another folder, or pass --overwrite")
    if found != mark:
        for old in [*out.glob("*.pth"), out / PROPOSALS]:
            old.unlink(missing_ok=True)
    write_bytes(file, (canonical_json(mark) + "\n").encode())
    sweep(out)
