"""A test image with 1,203 classes against the same image with 80 of them: what a large vocabulary costs a detector.

ViLD on Mask R-CNN R50-FPN, 1,000 proposals, 300 detections, suppression class by class. Timed are all of `predict`
with and without masks, its RoI stage without masks on ready feature maps, and the part that depends on the number of
classes: classifier, softmax, threshold, suppression. (What masks cost depends on how many different boxes are among the
detections, which is printed, more than on the vocabulary.)

Two copies of one detector take turns in one process; medians. The weights are random, so proposals and embeddings are
put where a trained detector has them (see full_size.py): proposals on an object are of its class, and --share of the
classes of the others stay above the score threshold of 1e-4. (In ViLD trained on the embedded benchmark, 0.0185 of all
pairs of proposal and class do.) The copy with 80 classes sees the same embeddings.

    python benchmarks/vocabulary_size.py [--device cuda] [--size 800 1333] [--share 0.02]
"""

import argparse
import copy
from collections.abc import Callable
from functools import partial

import torch
from figures import print_figure
from full_size import (
    build_detector,
    devices,
    interleaved,
    likely_embeddings,
    scene,
    settle_embeddings,
    settle_proposals,
)
from mmdet.structures.bbox import bbox2roi
from mmengine.structures import InstanceData

LARGE, SMALL = 1203, 80


class Parts:
    """What is timed, of one detector on one image, whose proposals and embeddings are settled."""

    def __init__(self, detector, images, sample, boxes) -> None:
        self.detector, self.images, self.sample = detector, images, sample
        self.proposals = [InstanceData(bboxes=boxes)]
        self.levels = detector.extract_feat(images)
        self.rois = bbox2roi([boxes])
        head = detector.roi_head
        self.trunk = head.bbox_head.trunk(head.bbox_roi_extractor(self.levels[:4], self.rois))
        self.deltas = head.bbox_head.fc_reg(self.trunk)
        self.mask_head = head.mask_head

    def masks(self, wanted: bool) -> None:
        """Whether detections get masks from now on."""
        self.detector.roi_head.mask_head = self.mask_head if wanted else None

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
    detector = build_detector("both", LARGE, device).eval()
    padded = tuple(-(-side // 32) * 32 for side in size)
    images = torch.randn(1, 3, *padded, generator=torch.Generator().manual_seed(0)).to(device)
    sample, boxes = scene(size, seed=0, proposals=proposals)
    sample.set_metainfo({"batch_input_shape": padded, "pad_shape": padded})
    sample, boxes = sample.to(device), boxes.to(device)
    objects, classifier = sample.gt_instances, detector.roi_head.classifier
    embeddings = likely_embeddings(classifier, boxes, objects.bboxes, objects.labels, share)
    settled = []
    for count in (LARGE, SMALL):
        with_classes = copy.deepcopy(detector)
        with_classes.set_class_head(classifier.head.select(classifier.names[:count]))
        settle_proposals(with_classes, [boxes])
        settle_embeddings(with_classes, embeddings)
        settled.append(Parts(with_classes, images, sample, boxes))
    told = []
    for parts in settled:
        found, pairs = parts.image(), int((parts.scores() > 1e-4).sum())
        told.append(f"{pairs} candidates, {len(found)} detections of {len(found.bboxes.unique(dim=0))} boxes")
    print(f"# {device.type}, {size[0]} x {size[1]}: {LARGE} classes: {told[0]}; {SMALL}: {told[1]}", flush=True)
    whats: list[tuple[str, bool, Callable[[Parts], object]]] = [
        ("test image, boxes", False, Parts.image), ("test image, boxes and masks", True, Parts.image),
        ("RoI stage, boxes", False, Parts.roi_stage), ("classifier and suppression", False, Parts.classes)]
    for what, with_masks, part in whats:
        for parts in settled:
            parts.masks(with_masks)
        large, small = (partial(part, parts) for parts in settled)
        seconds = interleaved({"large": large, "small": small}, rounds, device)
        print_figure(f"{what}, {LARGE} classes, {size[0]} x {size[1]}, {device.type}", 1e3 * seconds["large"], "ms",
                     f"{SMALL} classes", 1e3 * seconds["small"])


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
