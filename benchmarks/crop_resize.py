"""Crops of boxes for CLIP, normalised: ours against crop, resize, centre crop and to-tensor, box by box, with Pillow.

The peer is open_clip's own preprocessing of every crop. The input is generated photos of 640 x 480 pixels with boxes
whose sizes are spread as those of LVIS objects, at two scales. The pixels are compared first, then the embeddings of a
CLIP, over boxes that include tiny, huge, thin and border-crossing ones. The rounds alternate; the median counts.

    python benchmarks/crop_resize.py [--device cuda] [--boxes 300] [--side 224] [--threads 1]
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from figures import print_figure
from open_clip.transform import image_transform
from PIL import Image, ImageFilter
from torch import Tensor

from ovd.clip.crops import CropRecipe, PillowCropper, crop_windows
from ovd.clip.device_crops import DeviceCropper
from ovd.clip.regions import RegionEncoder, normalize_pixels
from ovd.clip.towers import load_clip

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
WIDTH, HEIGHT = 640, 480
PEER = "crop and open_clip's preprocessing, box by box"


def make_photo(seed: int) -> Image.Image:
    """Shades, edges and a little noise, as in photos."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (16, 20, 3), dtype=np.uint8)).resize((WIDTH, HEIGHT), Image.BICUBIC)
    edges = coarse.quantize(16).convert("RGB").filter(ImageFilter.GaussianBlur(0.7))
    pixels = np.asarray(edges) * 0.5 + np.asarray(coarse) * 0.5 + rng.normal(0, 4, (HEIGHT, WIDTH, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def common_boxes(count: int, seed: int) -> np.ndarray:
    """Boxes inside the photo, half of them smaller than 60 x 60 pixels, with varied aspect ratios."""
    rng = np.random.default_rng(seed)
    side = np.exp(rng.normal(np.log(60), 1.0, count))
    stretch = np.exp(rng.normal(0, 0.4, count))
    sizes = np.stack([(side * stretch).clip(2, WIDTH), (side / stretch).clip(2, HEIGHT)], 1)
    corner = rng.uniform(0, 1, (count, 2)) * (np.array([WIDTH, HEIGHT]) - sizes)
    return np.concatenate([corner, corner + sizes], 1).astype(np.float32)


def uncommon_boxes(count: int, seed: int) -> np.ndarray:
    """Of one pixel, larger than the photo, thin, ordinary; many reach beyond the border."""
    rng = np.random.default_rng(seed)
    sizes = np.exp(rng.uniform(0, np.log([1.5 * WIDTH, 1.5 * HEIGHT]), (count, 2)))
    sizes[0::5] = 1.0
    sizes[1::5, 0] = rng.uniform(0.5, 3, len(sizes[1::5]))
    sizes[2::5, 1] = rng.uniform(0.5, 3, len(sizes[2::5]))
    centre = rng.uniform(0, [WIDTH, HEIGHT], (count, 2))
    return np.concatenate([centre - sizes / 2, centre + sizes / 2], 1).astype(np.float32)


def box_by_box(image: Image.Image, boxes_N4: np.ndarray, recipe: CropRecipe, side: int) -> list[Tensor]:
    """The peer: normalised pixels, crop after crop."""
    transform = image_transform(side, is_train=False)
    windows = crop_windows(boxes_N4, *image.size, recipe).reshape(-1, 4)
    return [transform(image.crop(window)) for window in windows.tolist()]


def all_at_once(cropper: DeviceCropper, image: Image.Image, boxes_N4: np.ndarray, batch: int) -> list[Tensor]:
    """Ours: normalised pixels on the cropper's device, in batches as an encoder takes them."""
    batches = [normalize_pixels(part, MEAN, STD) for part in cropper(image, boxes_N4).flatten(0, 1).split(batch)]
    if cropper.device.type == "cuda":
        torch.cuda.synchronize()
    return batches


def print_accuracy(way: str, cropper: DeviceCropper, count: int, clip_name: str) -> None:
    """How near the reference pixels and embeddings are, over uncommon boxes."""
    image, boxes = make_photo(0), uncommon_boxes(count, 0)
    expected = PillowCropper(cropper.recipe, cropper.side)(image, boxes)
    off = (cropper(image, boxes).cpu().short() - expected.short()).abs().gt(1).double().mean().item()
    print_figure(f"{way}: pixels off by more than a grey level, {count} uncommon boxes x 2 (or one, if none)",
                 max(off, 1 / expected.numel()), "share", "allowed", 0.001)
    clip = load_clip(clip_name, device=cropper.device, allow_untrained=True)
    small = DeviceCropper(cropper.recipe, clip.image_size, cropper.device, cropper.dtype, dense=cropper.dense)
    encoder = RegionEncoder(clip, cropper.recipe)
    tower = encoder.tower
    found, reference = (
        torch.cat([tower(part.to(cropper.device)) for part in crops(image, boxes).flatten(0, 1).split(64)]).double()
        for crops in (small, PillowCropper(cropper.recipe, clip.image_size))
    )
    print_figure(f"{way}: 1 - cosine of {clip_name} embeddings of a crop, the worst of {count} uncommon boxes x 2",
                 max(1 - F.cosine_similarity(found, reference).min().item(), 1e-12), "1 - cosine", "allowed", 1e-4)


def seconds(work: Callable[[], object]) -> float:
    """Of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    """Print a JSON line a figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu",
                        help="where we make crops (%(default)s)")
    parser.add_argument("--boxes", type=int, default=300, help="boxes an image (%(default)s)")
    parser.add_argument("--side", type=int, default=224, help="of a crop, in pixels (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds, of one image each (%(default)s)")
    parser.add_argument("--clip", default="shapes", help="whose embeddings are compared (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of the processor (%(default)s)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    recipe = CropRecipe("clip", (1.0, 1.5))
    if args.device == "cpu":
        kinds = {"cpu": {}, "cpu, dense products": {"dense": True}}
    else:
        kinds = {f"{args.device}, float32": {}, f"{args.device}, float16": {"dtype": torch.float16}}
    croppers = {way: DeviceCropper(recipe, args.side, args.device, **kwargs) for way, kwargs in kinds.items()}
    with torch.inference_mode():
        for way, cropper in croppers.items():
            print_accuracy(way, cropper, min(args.boxes, 60), args.clip)
        times: dict[str, list[float]] = {way: [] for way in (PEER, *croppers)}
        for round_ in range(args.rounds + 1):  # the first warms up
            image, boxes = make_photo(round_), common_boxes(args.boxes, round_)
            found = {PEER: seconds(lambda: box_by_box(image, boxes, recipe, args.side))}  # noqa: B023
            for way, cropper in croppers.items():
                found[way] = seconds(lambda: all_at_once(cropper, image, boxes, 64))  # noqa: B023
            for way, duration in found.items():
                times[way].append(duration)
    crops, size = args.boxes * len(recipe.scales), f"{args.boxes} boxes x {len(recipe.scales)}, side {args.side}"
    rates = {way: crops / statistics.median(found[1:]) for way, found in times.items()}
    for way in croppers:
        print_figure(f"{way}: crops for CLIP, normalised, {size}", rates[way], "crops/s", PEER, rates[PEER],
                     higher_is_better=True)


if __name__ == "__main__":
    main()
