"""``ovd store import``: a region store of .pth files, one an image."""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from ovd.errors import UserError
from ovd.stores.layout import UNIT_TOLERANCE
from ovd.stores.manifest import current_or_remove, fingerprint, fingerprint_json, require
from ovd.stores.per_image import checksum, file_name, load_image
from ovd.stores.proposals_pkl import TOLERANCE, load_proposals
from ovd.stores.shards import Regions, RegionStore

if TYPE_CHECKING:
    from ovd.data.annotations import Image

STAGE = "store import"
THREADS = 4  # that wait for the disk


@dataclass
class _Seen:
    """What a run met in the files; of an image, and summed up of many."""

    rows: int = 0
    scaled: int = 0
    shortest: float = np.inf
    longest: float = 0.0
    without_area: int = 0

    def add(self, other: "_Seen") -> None:
        self.rows += other.rows
        self.scaled += other.scaled
        self.without_area += other.without_area
        self.shortest, self.longest = min(self.shortest, other.shortest), max(self.longest, other.longest)


def import_files(folder: str | Path, layout: str, annotations: str | Path, out: str | Path,
                 proposals: str | Path | None = None, order: str | None = None, images_per_shard: int = 512,
                 rows: str = "float16", overwrite: bool = False) -> Path:
    """Make a region store of the files in ``folder``, one for each image of an annotation file.

    Rows that are not of unit length are brought to it; rows that are stay as they are, to the bit. Boxes without area
    (float16 makes some) are left out. Memory is that of one shard, and of the proposals where they are an mmdet file.

    Args:
        layout: See :mod:`ovd.stores.per_image`.
        annotations: The annotation file; every image of it needs a file.
        proposals: For detpro: the boxes, a proposal store or an mmdet file, row by row those of the embeddings.
        order: Of the entries of an mmdet file; see :mod:`ovd.stores.proposals_pkl`.
        images_per_shard, rows: Of the store; see :meth:`ovd.stores.shards.RegionStore.create`.

    Returns:
        The store.

    Raises:
        UserError: That names the file, for one that is missing, cut, of another width or number of rows, not finite,
            or with boxes outside its image.
    """
    from ovd.data.annotations import load_annotations

    start = time.perf_counter()
    folder, out = Path(folder), Path(out)
    if images_per_shard < 1:
        raise UserError(f"--images-per-shard {images_per_shard}: needs 1 or more")
    _check_proposals(layout, proposals, order)
    images = {image.id: image for image in load_annotations(annotations).images}
    if not images:
        raise UserError(f"{annotations}: has no images")
    others = _require_files(folder, images, Path(annotations))
    config: dict[str, Any] = {"layout": layout, "images_per_shard": images_per_shard}
    if rows != "float16":
        config["rows"] = rows
    inputs = {"annotations": fingerprint(annotations), "files": _fingerprint_files(folder, images)}
    if proposals is not None:
        inputs["proposals"] = fingerprint(proposals)
        if order:
            config["order"] = order
    if current_or_remove(out, STAGE, config, inputs, overwrite=overwrite):
        print(f"{out} is up to date")
        return out
    boxes_of = _boxes(proposals, order, images) if proposals is not None else None
    dim = _width(folder, layout, images)
    writer = RegionStore.create(out, "regions", images, images_per_shard, dim, rows=rows, overwrite=overwrite,
                                config={"config": config, "inputs": inputs})
    seen = _Seen()

    def load(image_id: int, proposed: Regions | None) -> tuple[int, Regions, _Seen]:
        return image_id, *_load(folder / file_name(image_id), layout, images[image_id], dim, proposed)

    with writer.exclusive():
        missing = writer.missing()
        count = sum(len(writer.image_ids(shard)) for shard in missing)
        with ThreadPoolExecutor(THREADS) as pool, tqdm(total=count, desc="importing", unit=" images") as bar:
            for shard in missing:
                ids, regions = writer.image_ids(shard), {}
                proposed = [boxes_of(image_id) if boxes_of else None for image_id in ids]
                for image_id, found, met in pool.map(load, ids, proposed):
                    regions[image_id] = found
                    seen.add(met)
                    bar.update()
                writer.write(shard, regions)
        seconds = time.perf_counter() - start
        manifest = writer.finish(STAGE, config, inputs, wall_seconds=round(seconds, 1))
    size = sum(entry["size"] for entry in manifest.files.values())
    print(f"{out}: {manifest.counts['regions']:,} regions of {manifest.counts['images']:,} images, width {dim}, "
          f"{size / 1e6:,.1f} MB in {writer.total_shards} shards, {seconds:.0f} s")
    _report(seen, others)
    return out


def _check_proposals(layout: str, proposals: str | Path | None, order: str | None) -> None:
    if layout == "oadp":
        if proposals is not None or order is not None:
            raise UserError("--layout oadp: its files have boxes of their own; leave out --proposals and --order")
        return
    if proposals is None:
        raise UserError("--layout detpro: its files have no boxes; give the --proposals that were embedded, a store or "
                        "an mmdet file")
    if Path(proposals).is_dir():
        if order is not None:
            raise UserError("--order belongs to an mmdet file; stores are keyed by image id")
    elif order is None:
        raise UserError(f"--proposals {proposals}: say which image an entry belongs to: --order json (images as in the "
                        "annotation file) or --order sorted (by ascending id, as DetPro has them)")


def _require_files(folder: Path, images: Mapping[int, "Image"], annotations: Path) -> int:
    """UserError unless every image has a file; the number of .pth files that belong to none."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    there = {file.name for file in folder.iterdir() if file.suffix == ".pth"}
    wanted = {file_name(image_id) for image_id in images}
    if absent := sorted(wanted - there):
        more = f" (and {len(absent) - 1} more)" if absent[1:] else ""
        raise UserError(f"{folder / absent[0]}: missing{more}; give the annotation file of the images that were "
                        f"embedded ({annotations} has {len(images)}, the folder {len(there)} files)")
    return len(there - wanted)


def _fingerprint_files(folder: Path, images: Mapping[int, "Image"]) -> str:
    """That of the files' contents, by their own checksums; finds cut ones before work is spent."""
    names = [file_name(image_id) for image_id in sorted(images)]
    with ThreadPoolExecutor(THREADS) as pool:
        found = pool.map(lambda name: checksum(folder / name), names)
        return fingerprint_json([[name, said] for name, said in
                                 zip(names, tqdm(found, total=len(names), desc="checking files", leave=False))])


def _width(folder: Path, layout: str, images: Mapping[int, "Image"]) -> int:
    return load_image(folder / file_name(min(images)), layout)[0].shape[1]


def _boxes(proposals: str | Path, order: str | None, images: Mapping[int, "Image"]) -> Callable[[int], Regions]:
    """A function of an image id that gives its boxes and scores, in their order."""
    if not Path(proposals).is_dir():
        return load_proposals(proposals, list(images.values()), order, as_they_are=True).__getitem__
    require(proposals)
    stored = RegionStore(proposals)
    stored.require_images(images)
    stored.verify(stored.shards_of(images))  # the new store gets a checksum of its own
    return stored.view


def _load(path: Path, layout: str, image: "Image", dim: int,
          proposed: Regions | None) -> tuple[Regions, _Seen]:
    embeddings, boxes, scores = load_image(path, layout)
    if embeddings.shape[1] != dim:
        raise UserError(f"{path}: embeddings of width {embeddings.shape[1]}, but {dim} in the first file; all must be "
                        "of one CLIP")
    if proposed is not None:
        boxes, scores = proposed.boxes, proposed.scores
        if len(boxes) != len(embeddings):
            raise UserError(f"{path}: has {len(embeddings)} embeddings, but the proposals have {len(boxes)} boxes of "
                            f"image {image.id}; give the proposals that were embedded")
    _check_boxes(path, boxes, scores, image)
    keep = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    lengths = np.linalg.norm(embeddings.astype(np.float32), axis=1)
    bad = ~np.isfinite(lengths) | (lengths == 0)
    if (bad & keep).any():
        row = int((bad & keep).argmax())
        raise UserError(f"{path}: embedding {row} is not finite or is zero (its length is {lengths[row]:g})")
    embeddings, lengths = embeddings[keep], lengths[keep]
    off = np.abs(lengths - 1) > UNIT_TOLERANCE / 2
    if off.any():
        embeddings = embeddings.astype(np.float32)
        embeddings[off] /= lengths[off, None]
    seen = _Seen(len(lengths), int(off.sum()), float(lengths.min(initial=np.inf)), float(lengths.max(initial=0)),
                 int((~keep).sum()))
    return Regions(boxes[keep], scores[keep], embeddings), seen


def _check_boxes(path: Path, boxes: np.ndarray, scores: np.ndarray, image: "Image") -> None:
    finite = np.isfinite(boxes).all(1) & np.isfinite(scores)
    limit = np.array([image.width, image.height], np.float32)
    limit = limit + np.maximum(TOLERANCE, limit / 1024)  # float16 rounds as much
    for bad, problem in ((~finite, "is not finite"),
                         ((boxes[:, 2:] < boxes[:, :2]).any(1), "is inverted (x1 y1 x2 y2)"),
                         ((boxes[:, :2] < -TOLERANCE).any(1) | (boxes[:, 2:] > limit).any(1),
                          f"is outside image {image.id} ({image.width} x {image.height})")):
        if bad.any():
            row = int(bad.argmax())
            raise UserError(f"{path}: box {row} {boxes[row].tolist()}, score {scores[row]:g}, {problem}")


def _report(seen: _Seen, others: int) -> None:
    if seen.scaled:
        print(f"rows were of length {seen.shortest:.4g} to {seen.longest:.4g}: {seen.scaled:,} of {seen.rows:,} were "
              "brought to unit length")
    elif seen.rows:
        print("rows were of unit length and are stored as they were")
    if seen.without_area:
        print(f"{seen.without_area:,} boxes without area were left out, with their embeddings")
    if others:
        print(f"note: {others:,} other .pth files belong to no image of the annotation file")
