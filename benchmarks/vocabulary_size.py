"""A test image with 1,203 classes against the same image with 80: what a large vocabulary costs a detector.

ViLD on Mask R-CNN R50-FPN, 1,000 proposals, at most 300 detections with masks, suppression class by class. Timed are
all of `predict` (network, detections and masks in original pixels), its RoI stage on ready feature maps, and the part
that depends on the number of classes: classifier, softmax, threshold, suppression.

Both detectors have the same weights and take turns in one process; medians. The weights are random, so proposals and
embeddings are put where a trained detector has them (see full_size.py): a tenth of the proposals are of an object, and
--share of the classes of each other one stay above the score threshold of 1e-4. (In ViLD trained on the embedded
benchmark, 0.0185 of all pairs of proposal and class do.)

    python benchmarks/vocabulary_size.py [--device cuda] [--size 800 1333] [--share 0.02]
"""

import argparse
from collections.abc import Callable
from functools import partial

import torch
from full_size import (
    build_detector,
    devices,
    interleaved,
    report,
    scene,
    settle_embeddings,
    settle_proposals,
    with_classes,
)
from mmdet.structures.bbox import bbox2roi
from mmengine.structures import InstanceData

LARGE, SMALL = 1203, 80


class Parts:
    """What is timed, of one detector on one image.

    Args:
        sample, boxes: See :func:`full_size.scene`.
    """

    def __init__(self, detector, images, sample, boxes, share: float) -> None:
        settle_proposals(detector, [boxes])
        settle_embeddings(detector, len(boxes), share)
        self.detector, self.images, self.sample = detector, images, sample
        self.proposals = [InstanceData(bboxes=boxes)]
        self.levels = detector.extract_feat(images)
        self.rois = bbox2roi([boxes])
        head = detector.roi_head
        self.trunk = head.bbox_head.trunk(head.bbox_roi_extractor(self.levels[:4], self.rois))
        self.deltas = head.bbox_head.fc_reg(self.trunk)

    def image(self) -> InstanceData:
        """The detections of the image."""
        return self.detector.predict(self.images, [self.sample.clone()])[0].pred_instances

    def roi_stage(self) -> None:
        """All that follows the proposals."""
        self.detector.roi_head.predict(self.levels, self.proposals, [self.sample], rescale=True)

    def scores(self) -> torch.Tensor:
        """Probabilities of classes, ``[N, C]``."""
        head = self.detector.roi_head.bbox_head
        return head.classifier.probabilities(head.classifier(head.embed(self.trunk)))

    def classes(self) -> None:
        """From the head's features to detections in input pixels."""
        self.detector.roi_head._detect(self.rois, self.scores(), self.deltas, self.sample.metainfo)


@torch.inference_mode()
def measure(device: torch.device, size: tuple[int, int], rounds: int, share: float, proposals: int) -> None:
    """Print a json line for each part."""
    detector = build_detector("both", SMALL, device).eval()
    padded = tuple(-(-side // 32) * 32 for side in size)
    images = torch.randn(1, 3, *padded, generator=torch.Generator().manual_seed(0)).to(device)
    sample, boxes = scene(size, seed=0, proposals=proposals)
    sample.set_metainfo({"batch_input_shape": padded, "pad_shape": padded})
    large, small = (Parts(with_classes(detector, count), images, sample.to(device), boxes.to(device), share)
                    for count in (LARGE, SMALL))
    told = []
    for parts in (large, small):
        found, pairs = parts.image(), int((parts.scores() > 1e-4).sum())
        told.append(f"{pairs} candidates, {len(found)} detections of {len(found.bboxes.unique(dim=0))} boxes")
    print(f"# {device.type}, {size[0]} x {size[1]}: {LARGE} classes: {told[0]}; {SMALL}: {told[1]}", flush=True)
    whats: dict[str, Callable[[Parts], object]] = {
        "test image": Parts.image, "RoI stage of a test image": Parts.roi_stage,
        "classifier and suppression of a test image": Parts.classes}
    for what, part in whats.items():
        seconds = interleaved({"large": partial(part, large), "small": partial(part, small)}, rounds, device)
        report(f"{what}, {LARGE} classes, {size[0]} x {size[1]}, {device.type}", 1e3 * seconds["large"], "ms",
               f"{SMALL} classes", 1e3 * seconds["small"], device)


def main() -> None:
    """Print a json line a figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="(%(default)s: all)")
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1333), metavar=("H", "W"), help="(800 1333)")
    parser.add_argument("--rounds", type=int, default=7, help="(%(default)s)")
    parser.add_argument("--share", type=float, default=0.02, help="classes above the threshold (%(default)s)")
    parser.add_argument("--proposals", type=int, default=1000, help="(%(default)s)")
    args = parser.parse_args()
    for device in devices(args.device):
        measure(device, tuple(args.size), args.rounds, args.share, args.proposals)


if __name__ == "__main__":
    main()
