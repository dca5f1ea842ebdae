"""Embed the proposals of every image with CLIP: crops at 1x and 1.5x, raw sum, unit length, into a region store.

For OADP also its blocks and the image as a whole (--what), each into a store of its own.

The config says what to embed and with what (see configs/_base_/datasets):

    data_root, train_ann, train_prefix, proposal_store_train, region_store           (and the same with val)
    regions = dict(pretrained="ViT-B/32", recipe=dict(kind="clip", scales=(1.0, 1.5)), top_k=300, images_per_shard=512)
    block_store, global_store                                       (the same for the two others)

An interrupted run goes on where it was, and gives the same bytes as an uninterrupted one.
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovd.errors import UserError
from pipelines import region_engines
from pipelines.region_settings import PRECISIONS, ROWS, Settings, store_of, variable

if TYPE_CHECKING:
    from ovd.clip.image_files import ImageFiles
    from ovd.clip.levels import Level
    from ovd.clip.shard_job import RegionJob
    from ovd.clip.towers import ClipModel
    from ovd.stores.manifest import Manifest
    from ovd.stores.shards import RegionStore, StoreWriter
    from pipelines.region_engines.bar import CropsBar

STAGE = "embed-regions"
MAX_PROCESSES = 8  # by default; each has a CLIP of its own in memory
MAX_READERS = 16
COMPILE_FROM = 10_000_000  # crops: compiling takes about a minute


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``tools/region_embeddings.py``."""
    parser.add_argument("config", help="the config file")
    parser.add_argument("--data-root", help="use the dataset in this folder instead of the config's data_root")
    parser.add_argument("--subset", choices=("train", "val"), default="train", help="images to embed (default: train)")
    parser.add_argument("--what", choices=("objects", "blocks", "globals"), default="objects",
                        help="the proposals, the windows of an image pyramid, or the whole image (default: objects)")
    parser.add_argument("--proposals", metavar="DIR", help="embed the boxes of this proposal store (default: the "
                        "config's proposal_store_train or proposal_store_val)")
    parser.add_argument("--out", help="the region store to write (default: the config's region_store, block_store "
                        "or global_store)")
    parser.add_argument("--pretrained", help="CLIP: shapes, ViT-B/32, RN50, an open_clip NAME:TAG, a weights file, or "
                        "untrained:NAME (default: the config's regions.pretrained)")
    parser.add_argument("--model", help="architecture of a weights file that does not say it, such as ViT-B-32")
    parser.add_argument("--precision", choices=PRECISIONS, help="of the image tower (default: the config's "
                        "regions.precision, else auto: fp16 on a GPU, fp32 on a processor)")
    parser.add_argument("--rows", choices=ROWS, help="how embeddings are stored: int8 takes half the space (default: "
                        "the config's regions.rows, else float16)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto",
                        help="where to encode (default: a GPU where there is one)")
    parser.add_argument("--batch-size", type=int, metavar="N", help="crops in a forward pass (default: 1024 on a GPU, "
                        "32 on a processor)")
    parser.add_argument("--compile", choices=("auto", "on", "off"), default="auto", help="run the image tower through "
                        "torch.compile (default: auto: on a GPU, for ten million crops and more)")
    parser.add_argument("--processes", type=int, metavar="N", help="processes that each embed shards of their own "
                        "(default: 1 on a GPU, one a core on a processor, at most "
                        f"{MAX_PROCESSES} and one a shard; with --engine ray all that there is room for)")
    region_engines.add_arguments(parser)
    parser.add_argument("--workers", type=int, metavar="N", help="threads of each that decode images ahead (default: "
                        f"the cores on a GPU, at most {MAX_READERS}; 0 on a processor: decode where it encodes)")
    parser.add_argument("--on-error", choices=("stop", "skip"), default="stop", help="an image that cannot be read: "
                        "stop, or store it without regions and say so in the manifest (default: stop)")
    parser.add_argument("--allow-untrained", action="store_true", help="permit random weights; the store is marked")
    parser.add_argument("--overwrite", action="store_true", help="build again what is there")
    parser.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE",
                        help="change values of the config, such as regions.top_k=50")


def run(args: argparse.Namespace) -> int:
    """Entry point of ``tools/region_embeddings.py`` and ``ovd embed-regions``."""
    options = {key: value for key, value in vars(args).items() if key not in ("config", "cfg_options")}
    embed_regions(args.config, options=args.cfg_options, **options)
    return 0


def embed_regions(config: str | Path, *, options: Sequence[str] | Mapping[str, Any] = (),
                  data_root: str | Path | None = None, subset: str = "train", what: str = "objects",
                  proposals: str | Path | None = None, out: str | Path | None = None, pretrained: str | None = None,
                  model: str | None = None, precision: str | None = None, rows: str | None = None,
                  device: str = "auto", batch_size: int | None = None, compile: str = "auto",
                  processes: int | None = None, engine: str = "local", address: str | None = None,
                  part: str | None = None, launcher: str = "none", workers: int | None = None, on_error: str = "stop",
                  allow_untrained: bool = False, overwrite: bool = False) -> Path:
    """Embed the images of a subset, as the config says.

    Args:
        options: Changes of the config, ``["regions.top_k=50"]`` or a mapping.
        Others: As the options of the command line; None takes the config's value or the default.

    Returns:
        The region store.

    Raises:
        UserError: Wrong or missing input, an existing store of another configuration.
    """
    from ovd.clip.shard_job import RegionJob
    from ovd.clip.towers import load_clip
    from ovd.engine.config import load_config
    from ovd.engine.launch import is_main, on_main
    from ovd.engine.workers import available_cores
    from ovd.stores.manifest import current_or_remove

    start = time.perf_counter()
    cfg = load_config(config, options, data_root)
    settings = Settings.read(cfg.get("regions", {}), str(config), pretrained=pretrained, model=model,
                             precision=precision, rows=rows)
    for name, value, least in (("--batch-size", batch_size, 1), ("--processes", processes, 1),
                               ("--workers", workers, 0)):
        if value is not None and value < least:
            raise UserError(f"{name} {value}: needs {least} or more")
    if compile == "on" and (what == "globals" or (what == "objects" and settings.masked_attention)):
        raise UserError(f"--compile on: neither whole images nor masked attention are compiled (--what {what}); leave "
                        "it out")
    spread = region_engines.Spread.read(engine, address, launcher, part, processes, overwrite)
    store = Path(out) if out else store_of(cfg, subset, what)
    images, stored, inputs = _read_inputs(cfg, subset, what, proposals)

    with spread.started(device) as torch_device:
        on_gpu, precision = torch_device.type == "cuda", settings.precision_on(torch_device)
        clip_source = {"pretrained": settings.pretrained, "model": settings.model, "device": torch_device,
                       "precision": precision, "allow_untrained": allow_untrained}
        clip = load_clip(**{**clip_source, "device": spread.device_here(torch_device)})
        level = _level(what, settings, stored, clip)
        level.encoder(clip, batch_size)  # so that what it refuses is refused before there is a store
        stored_as = {} if settings.rows == "float16" else {"rows": settings.rows}
        record = {
            "config": {**level.config(), "precision": precision, "images_per_shard": settings.images_per_shard,
                       **stored_as},
            "inputs": {"clip": clip.fingerprint, **inputs},
        }
        if on_main(lambda: current_or_remove(store, STAGE, **record, overwrite=overwrite)):
            if is_main():
                print(f"{store} is up to date")
            return store
        writer = _begin(overwrite, path=store, image_ids=images, images_per_shard=settings.images_per_shard,
                        dim=clip.embed_dim, config=record, **stored_as)
        cores = available_cores()
        many = on_gpu and len(images) * (settings.top_k or 300) * level.crops_per_region >= COMPILE_FROM
        job = RegionJob(writer, images, level, clip_source, batch_size, skip_bad_images=on_error == "skip",
                        readers=workers if workers is not None else min(cores, MAX_READERS) if on_gpu else 0,
                        compiled=compile == "on" or (compile == "auto" and many))
        # not by the shards that are missing: threads, and with them the last bits, must be those of the first run
        processes = processes or (1 if on_gpu or launcher != "none" else min(cores, MAX_PROCESSES, writer.total_shards))
        with spread.exclusive(writer):
            todo, bar = _embed_missing(spread, job, clip, processes, workers)
            if is_main():
                _finish(job, record, spread, clip.untrained, len(todo), bar, start)
        return store


def _read_inputs(cfg: Any, subset: str, what: str, proposals: str | Path | None,
                 ) -> "tuple[ImageFiles, RegionStore | None, dict[str, str]]":
    """The images of a subset, their proposals where these are what is embedded, and fingerprints of both."""
    from ovd.stores.manifest import fingerprint, require
    from ovd.stores.shards import RegionStore

    root = Path(cfg.get("data_root") or "")
    ann_file = root / variable(cfg, f"{subset}_ann")
    images = _images(ann_file, root / variable(cfg, f"{subset}_prefix"))
    inputs = {"annotations": fingerprint(ann_file)}
    if what != "objects":
        if proposals:
            raise UserError(f"--proposals {proposals}: {what} are not made from proposals; leave it out, or embed "
                            "--what objects")
        return images, None, inputs
    path = Path(proposals) if proposals else root / variable(cfg, f"proposal_store_{subset}")
    require(path, kind="proposals")
    stored = RegionStore(path)
    stored.require_images(images)
    return images, stored, {**inputs, "proposals": fingerprint(path)}


def _level(what: str, settings: Settings, stored: "RegionStore | None", clip: "ClipModel") -> "Level":
    """Which boxes are embedded, and how."""
    from ovd.clip.levels import Blocks, Globals, Objects
    from ovd.clip.masked_attention import WholeImageTower
    from ovd.engine.launch import is_main

    if what != "objects":
        return Blocks(clip.image_size) if what == "blocks" else Globals(WholeImageTower(clip).least)
    kind = settings.recipe.kind
    if is_main() and kind in ("clip", "warp") and kind != clip.own_crop:
        print(f"note: {clip.name} was trained on images that were resized as in regions.recipe.kind="
              f"'{clip.own_crop}'; crops are made as in '{kind}'")
    return Objects(stored, settings.recipe, settings.top_k, settings.masked_attention, settings.upsample)


def _begin(overwrite: bool, **plan: Any) -> "StoreWriter":
    """Begin the store, in the first process of a run; all go on with it."""
    from ovd.engine.launch import on_main
    from ovd.stores.shards import RegionStore

    on_main(lambda: RegionStore.create(kind="regions", **plan, overwrite=overwrite) is None)
    return RegionStore.create(kind="regions", **plan)


def _embed_missing(spread: region_engines.Spread, job: "RegionJob", clip: "ClipModel", processes: int,
                   workers: int | None) -> "tuple[list[int], CropsBar]":
    """Make the shards that the run is to make; returns which these were, and the bar that counted."""
    from ovd.engine.launch import is_main
    from pipelines.region_engines.bar import CropsBar

    todo = spread.missing(job.writer)
    own = spread.own(todo)
    crops = _check_images(job, own, quiet=not is_main())
    with CropsBar(total=crops, encoders=min(processes, max(1, len(own))), disable=not is_main()) as bar:
        spread.embed(job, clip, own, processes, bar, workers)
    return todo, bar


def _finish(job: "RegionJob", record: dict, spread: region_engines.Spread, untrained: bool, made: int,
            bar: "CropsBar", start: float) -> None:
    """Write the manifest and say what came of the run, unless shards of other parts are missing."""
    writer, seconds = job.writer, time.perf_counter() - start
    if spread.part and (others := writer.missing()):
        print(f"{writer.path}: part {spread.part[0]}/{spread.part[1]} is there; {len(others)} of "
              f"{writer.total_shards} shards are left to other parts")
        return
    manifest = writer.finish(STAGE, **record, flags={"untrained": True} if untrained else {}, skipped=_skipped(job),
                             wall_seconds=round(seconds, 1), counts={"crops_per_region": job.level.crops_per_region})
    _report(manifest, writer, made, bar)


def _images(ann_file: Path, folder: Path) -> "ImageFiles":
    from ovd.clip.image_files import ImageFiles
    from ovd.data.annotations import image_path, load_images

    return ImageFiles(folder, ((record.id, str(image_path(record, "")), record.width, record.height)
                               for record in load_images(ann_file)))


def _check_images(job: "RegionJob", shards: list[int], quiet: bool) -> int:
    """Look at all that ``shards`` are made from before work is spent on the first; returns the number of crops."""
    from tqdm import tqdm

    from ovd.data.images import check_image_file

    image_ids = [image_id for shard in shards for image_id in job.writer.image_ids(shard)]
    job.level.verify(image_ids)
    problems, regions = [], 0
    for image_id in tqdm(image_ids, desc="checking images", unit=" images", leave=False, disable=quiet):
        file = job.images[image_id]
        regions += len(job.level.choose(image_id, file)[0])
        try:
            check_image_file(file.path)
        except UserError as error:
            problems.append(str(error))
    if problems and not job.skip_bad_images:
        raise UserError(problems[0] + (f" (so are {len(problems) - 1} more images)" if problems[1:] else ""))
    return regions * job.level.crops_per_region


def _skipped(job: "RegionJob") -> list[dict]:
    """The images that are stored without the regions they should have, and why; also those of an earlier run."""
    import numpy as np

    from ovd.data.rgb import load_rgb
    from ovd.stores.layout import Shard, shard_name

    total, skipped = job.writer.total_shards, []
    shards = (Shard(job.writer.path / shard_name(shard, total)) for shard in range(total))
    for image_id in (int(i) for shard in shards for i in shard.image_id[np.diff(shard.offset) == 0]):
        file, reason = job.images[image_id], "could not be read when its shard was made"
        if not len(job.level.choose(image_id, file)[0]):
            continue
        try:
            load_rgb(file.path, file.width, file.height)
        except UserError as error:
            reason = str(error)
        skipped.append({"image_id": image_id, "file": file.path.name, "reason": reason})
    return skipped


def _report(manifest: "Manifest", writer: "StoreWriter", made: int, bar: "CropsBar") -> None:
    store = writer.path
    size = sum(entry["size"] for entry in manifest.files.values())
    print(f"{store}: {manifest.counts['regions']:,} regions of {manifest.counts['images']:,} images, "
          f"{size / 1e6:.1f} MB in {writer.total_shards} shards")
    before = f", {writer.total_shards - made} shards were there before" if made < writer.total_shards else ""
    seconds = bar.format_dict["elapsed"]
    print(f"embedded {bar.work.crops:,} crops in {seconds:.0f} s: {bar.work.crops / max(seconds, 1e-3):,.0f} a second, "
          f"{bar.share:.0%} of the bare encoder's throughput{before}")
    if manifest.flags.get("untrained"):
        print("these embeddings mean nothing: the CLIP is untrained (the store is marked)")
    for entry in manifest.skipped[:5]:
        print(f"left out image {entry['image_id']}: {entry['reason']}")
    if manifest.skipped:
        print(f"{len(manifest.skipped)} images are stored without regions; see skipped in {store / 'manifest.json'}")
