"""The region stage, JPEG files on disk to shards on disk, against the bare encoder and against the usual loop.

The bare encoder is CLIP's image tower on one batch that lies on the device already, as large, as precise and as
compiled as the stage's. The usual loop opens an image, cuts each box out with Pillow at both scales, applies the
preprocessing of open_clip to each crop, encodes the crops of the image and writes them with one ``torch.save``. The
rounds alternate; the median counts. The embeddings of the two ways are compared first. Photos are generated (noise at
640 x 480), boxes have LVIS-like sizes.

    python benchmarks/region_stage.py [--images 8] [--boxes 20] [--precision bf16]
    python benchmarks/region_stage.py --device cuda --images 512 --boxes 300 --precision fp16 --compile
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import open_clip
import torch
from figures import print_figure
from PIL import Image, ImageFilter

from ovd.clip.crops import CropRecipe, crop_windows
from ovd.clip.levels import Objects
from ovd.clip.regions import combine_scales, default_batch_size, normalize_pixels
from ovd.clip.shard_job import ImageFile, RegionJob
from ovd.clip.towers import ClipModel, load_clip
from ovd.engine.launch import choose_device
from ovd.engine.workers import available_cores
from ovd.stores.shards import Regions, RegionStore
from pipelines.region_engines.bar import CropsBar
from pipelines.region_engines.local import embed_shards

WIDTH, HEIGHT = 640, 480
RECIPE = CropRecipe("clip", (1.0, 1.5))


def write_photos(folder: Path, count: int, seed: int = 0) -> dict[int, ImageFile]:
    """JPEG files of coloured noise of many scales, some 100 kB each."""
    rng, files = np.random.default_rng(seed), {}
    for image_id in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (HEIGHT // 16, WIDTH // 16, 3), dtype=np.uint8))
        fine = Image.fromarray(rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)).filter(ImageFilter.BoxBlur(1))
        path = folder / f"{image_id:06d}.jpg"
        Image.blend(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), fine, 0.3).save(path, quality=90)
        files[image_id] = ImageFile(path, WIDTH, HEIGHT)
    return files


def write_proposals(path: Path, images: dict[int, ImageFile], boxes: int, seed: int = 1) -> RegionStore:
    """A proposal store; sides are log-normal about 66 pixels, as LVIS's are."""
    rng = np.random.default_rng(seed)
    writer = RegionStore.create(path, "proposals", images)
    limit = np.array([WIDTH, HEIGHT])
    for shard in writer.missing():
        regions = {}
        for image_id in writer.image_ids(shard):
            size = np.exp(rng.normal(4.2, 0.9, (boxes, 2))).clip(4, 0.95 * limit)
            corner = rng.uniform(size=(boxes, 2)) * (limit - size)
            scores = np.sort(rng.uniform(size=boxes).astype(np.float32))[::-1]
            regions[image_id] = Regions(np.hstack([corner, corner + size]).astype(np.float32), scores)
        writer.write(shard, regions)
    writer.finish("proposals", {}, {})
    return RegionStore(path)


class Stage:
    """The project's way, to a new store each time."""

    def __init__(self, folder: Path, images: dict[int, ImageFile], level: Objects, clip: ClipModel,
                 args: argparse.Namespace) -> None:
        self.folder, self.images, self.level, self.clip, self.args = folder, images, level, clip, args
        self.runs = 0

    def __call__(self) -> RegionStore:
        """Embed all images; the store."""
        self.runs += 1
        shard = max(1, len(self.images) // 4)
        writer = RegionStore.create(self.folder / str(self.runs), "regions", self.images, shard, self.clip.embed_dim)
        readers = min(16, available_cores()) if self.clip.device.type == "cuda" else 0
        job = RegionJob(writer, self.images, self.level, {}, self.args.batch_size, readers, self.args.compile)
        with CropsBar(disable=True) as bar:
            embed_shards(job, self.clip, writer.missing(), 1, bar)
        writer.finish("embed-regions", {}, {})
        return RegionStore(writer.path)


@torch.no_grad()
def usual_loop(folder: Path, images: dict[int, ImageFile], level: Objects, clip: ClipModel) -> None:
    """Box by box with Pillow, and a file per image."""
    transform = open_clip.image_transform(clip.image_size, is_train=False, mean=clip.mean, std=clip.std)
    folder.mkdir(exist_ok=True)
    for image_id, file in images.items():
        boxes, _ = level.choose(image_id, file)
        with Image.open(file.path) as opened:
            image = opened.convert("RGB")
        windows = crop_windows(boxes, image.width, image.height, RECIPE)
        crops = torch.stack([transform(image.crop(tuple(window))) for window in windows.reshape(-1, 4).tolist()])
        raw = clip.encode_image(crops.to(clip.device))
        rows = combine_scales(raw.unflatten(0, (-1, len(RECIPE.scales))))
        torch.save({"boxes": torch.from_numpy(boxes), "embeddings": rows.half().cpu()}, folder / f"{image_id}.pth")


class BareEncoder:
    """The image tower on a batch that is ready on the device."""

    def __init__(self, clip: ClipModel, batch_size: int, compiled: bool) -> None:
        self.clip, self.batch_size = clip, batch_size
        pixels = torch.randint(0, 256, (batch_size, 3, clip.image_size, clip.image_size), dtype=torch.uint8)
        pixels = normalize_pixels(pixels.to(clip.device), clip.mean, clip.std).to(clip.dtype)
        self.pixels = pixels.contiguous(memory_format=torch.channels_last)
        self.encode = torch.compile(clip.encode_image, dynamic=False) if compiled else clip.encode_image

    def seconds(self, crops: int) -> float:
        """For so many crops, in whole batches."""
        batches = -(-crops // self.batch_size)
        _wait(self.clip)
        start = time.perf_counter()
        for _ in range(batches):
            self.encode(self.pixels)
        _wait(self.clip)
        return (time.perf_counter() - start) * crops / (batches * self.batch_size)


def _wait(clip: ClipModel) -> None:
    if clip.device.type == "cuda":
        torch.cuda.synchronize(clip.device)


def _timed(function, *arguments) -> float:
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def _same(store: RegionStore, folder: Path) -> float:
    """The least cosine between the embeddings of the two ways."""
    least = 1.0
    for image_id in store.image_ids.tolist():
        theirs = torch.load(folder / f"{image_id}.pth", weights_only=True)["embeddings"].float()
        least = min(least, float((torch.from_numpy(store[image_id].embeddings).float() * theirs).sum(1).min()))
    return least


def main() -> None:
    """Print a json line a figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=8, help="JPEG files (%(default)s)")
    parser.add_argument("--boxes", type=int, default=20, help="boxes an image, of two crops each (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="alternating rounds (%(default)s)")
    parser.add_argument("--pretrained", default="untrained:ViT-B-32", help="CLIP (%(default)s)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--precision", choices=("fp32", "fp16", "bf16"), default="fp32")
    parser.add_argument("--batch-size", type=int, metavar="N", help="crops in a forward pass (the stage's default)")
    parser.add_argument("--compile", action="store_true", help="torch.compile, for stage and bare encoder")
    args = parser.parse_args()
    clip = load_clip(args.pretrained, device=choose_device(args.device), precision=args.precision,
                     allow_untrained=True)
    args.batch_size = args.batch_size or default_batch_size(clip)
    crops = args.images * args.boxes * len(RECIPE.scales)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = write_photos(folder, args.images)
        level = Objects(write_proposals(folder / "proposals", images, args.boxes), RECIPE, args.boxes)
        stage, bare = Stage(folder / "stores", images, level, clip, args), BareEncoder(clip, args.batch_size,
                                                                                       args.compile)
        store = stage()  # also warms up
        bare.seconds(args.batch_size)
        usual_loop(folder / "files", images, level, clip)
        if (least := _same(store, folder / "files")) < (0.999 if clip.dtype == torch.float32 else 0.99):
            raise SystemExit(f"the two ways differ: cosine {least:.5f}")
        times: dict[str, list[float]] = {"stage": [], "bare": [], "usual": []}
        for _ in range(args.rounds):
            times["bare"].append(bare.seconds(crops))
            times["stage"].append(_timed(stage))
            times["usual"].append(_timed(usual_loop, folder / "files", images, level, clip))
    rates = {key: crops / statistics.median(found) for key, found in times.items()}
    what = f"region stage, {args.pretrained}, {args.precision}, {args.images} images x {args.boxes} boxes x 2 crops"
    print_figure(what, rates["stage"], "crops/s", "the bare encoder", rates["bare"], higher_is_better=True)
    print_figure(what, rates["stage"], "crops/s", "Pillow box by box, torch.save per image", rates["usual"],
                 higher_is_better=True)
    print_figure(f"{what}: agreement", least, "least cosine", "Pillow box by box", 1.0, higher_is_better=True)


if __name__ == "__main__":
    main()
