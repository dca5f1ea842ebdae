"""A training step of ViLD against one of the same Mask R-CNN without distillation: what learning from the cache costs.

Forward, backward and optimiser step of two images, 512 sampled RoIs each, as configured; ViLD with 300 cached regions
an image, and with a random 200 of them, as the configs do (``PackRegions(max_regions=200)``); ViLD-ensemble with both
too. The peer is ViLD-text: the same detector, mode "text". All take turns in one process; medians.

A step's share of distillation falls with the size of the image: RoIs cost the same in a small one. Where a full-size
image takes too long (a CPU), time a small one and count the operations of a full-size one with --flops: they are those
of convolutions and matrix products, forward and backward, of one image.

    python benchmarks/vild_step.py [--device cuda] [--size 800 1333] [--images 2]
    python benchmarks/vild_step.py --device cpu --size 256 426 --images 1 --flops 800 1333
"""

import argparse
from collections.abc import Callable

import torch
from figures import print_figure
from full_size import build_detector, devices, interleaved, scene, settle_proposals
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

CLASSES = 866  # base classes of LVIS


def variants(regions: list[int]) -> dict[str, tuple[str, int]]:
    """Mode and cached regions an image of what is timed."""
    return {"peer": ("text", 0), **{f"{name}, {count} regions": (mode, count) for name, mode in (
        ("ViLD", "both"), ("ViLD-ensemble", "ensemble")) for count in regions}}


def loss_of(mode: str, regions: int, size: tuple[int, int], images: int, device: torch.device, rois: int,
            ) -> tuple[nn.Module, Callable[[], torch.Tensor]]:
    """A detector, and what computes its loss on one batch, with the same sampling of RoIs each time."""
    detector = build_detector(mode, CLASSES, device, rois).train()
    padded = tuple(-(-side // 32) * 32 for side in size)
    inputs = torch.randn(images, 3, *padded, generator=torch.Generator().manual_seed(0)).to(device)
    samples, proposals = zip(*(scene(size, seed, regions=regions) for seed in range(images)))
    for sample in samples:
        sample.set_metainfo({"batch_input_shape": padded, "pad_shape": padded})
    samples, proposals = [sample.to(device) for sample in samples], [boxes.to(device) for boxes in proposals]
    settle_proposals(detector, proposals)

    def loss() -> torch.Tensor:
        torch.manual_seed(0)
        losses = detector.loss(inputs, [sample.clone() for sample in samples])
        return sum(sum(value) if isinstance(value, list) else value for name, value in losses.items() if "loss" in name)

    return detector, loss


def steps(kinds: dict[str, tuple[str, int]], size: tuple[int, int], images: int, device: torch.device, rois: int,
          ) -> dict[str, Callable[[], None]]:
    """A training step of each variant."""
    found = {}
    for name, (mode, regions) in kinds.items():
        detector, loss = loss_of(mode, regions, size, images, device, rois)
        trained = [parameter for parameter in detector.parameters() if parameter.requires_grad]
        optimizer = torch.optim.SGD(trained, lr=1e-6, momentum=0.9, weight_decay=2.5e-5)

        def step(loss=loss, optimizer=optimizer) -> None:
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()

        found[name] = step
    return found


def count_flops(kinds: dict[str, tuple[str, int]], size: tuple[int, int], rois: int) -> dict[str, float]:
    """Giga-operations (a multiplication and an addition are two) of one image's forward and backward pass."""
    found = {}
    for name, (mode, regions) in kinds.items():
        _, loss = loss_of(mode, regions, size, 1, torch.device("cpu"), rois)
        with FlopCounterMode(display=False) as counter:
            loss().backward()
        found[name] = counter.get_total_flops() / 1e9
    return found


def main() -> None:
    """Print a json line a figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="(%(default)s: all)")
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1333), metavar=("H", "W"), help="(800 1333)")
    parser.add_argument("--images", type=int, default=2, help="in a batch (%(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="(%(default)s)")
    parser.add_argument("--flops", type=int, nargs=2, metavar=("H", "W"), help="also count the operations of this size")
    parser.add_argument("--rois", type=int, default=512, help="that are sampled of an image (%(default)s)")
    parser.add_argument("--regions", type=int, nargs="+", default=[300, 200], help="cached, of an image (300 and 200)")
    args = parser.parse_args()
    kinds = variants(args.regions)
    for device in devices(args.device):
        size = tuple(args.size)
        seconds = interleaved(steps(kinds, size, args.images, device, args.rois), args.rounds, device)
        peer = seconds.pop("peer")
        for name, value in seconds.items():
            print_figure(f"training step, {name}, {args.images} x {size[0]} x {size[1]}, {device.type}", 1e3 * value,
                         "ms", "without distillation", 1e3 * peer)
    if args.flops:
        flops = count_flops(kinds, tuple(args.flops), args.rois)
        peer = flops.pop("peer")
        for name, value in flops.items():
            print_figure(f"operations of a training step, {name}, {args.flops[0]} x {args.flops[1]}", value, "GFLOP",
                         "without distillation", peer)


if __name__ == "__main__":
    main()
