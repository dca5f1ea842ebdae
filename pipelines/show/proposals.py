"""``ovd show proposals``."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ovd.data.boxes import corners
from ovd.errors import UserError
from ovd.evaluation.alignment import best_overlaps, check_alignment
from ovd.evaluation.picture_sheet import Panel
from ovd.evaluation.pictures import BLUE, VERMILION, YELLOW, draw_instances, fitted
from ovd.evaluation.recall import ImageBoxes, pairwise_iou, proposal_recall, recall_table
from ovd.stores.proposals_pkl import load_proposals
from ovd.stores.shards import RegionStore
from pipelines.show.findings import Findings, count
from pipelines.show.request import Dataset, Request
from pipelines.show.sheets import SIDE, panels_of, write_sheets

FOUND = 0.5  # IoU
CHECKED = 200  # images that recall is computed on
DRAWN = 30  # proposals of an image that are drawn faintly

Boxes = Callable[[int], np.ndarray]


def show_proposals(request: Request, store: str | Path | None = None, order: str | None = None, top: int = 100) -> int:
    """Draw proposals beside the objects, and say whether they belong to them; returns the exit status.

    Args:
        store: A store of proposals or regions, or mmdet's pickle; by default the config's.
        order: Of a pickle's entries.
        top: Only so many proposals of an image count.

    Raises:
        UserError: Wrong or missing input.
    """
    if top < 1:
        raise UserError(f"--top {top}: needs 1 or more")
    path = request.required(store, f"proposal_store_{request.subset}", "--store DIR")
    data = request.dataset()
    stored, boxes = read_boxes(path, data, order)
    objects = {i: corners([a.bbox for a in found if not a.iscrowd]) for i, found in data.objects.items()}
    both = sorted(stored & objects.keys())
    if not both:
        raise UserError(f"{path}: has no image of {data.path} (image ids {min(stored, default='-')} ..., and "
                        f"{min(objects, default='-')} ...); give the annotation file that it was made with")
    findings = Findings()
    _compare_ids(path, stored, data, findings)
    sample = sorted(np.random.default_rng(0).permutation(both)[:CHECKED].tolist())
    recall = proposal_recall((ImageBoxes(objects[i], np.zeros(len(objects[i]), np.int64), boxes(i)[:top])
                              for i in sample), {"all": [0]}, (top,))
    print(f"{path}: {count(len(stored), 'image')}; recall of the objects in {data.path.name}, per cent, on "
          f"{count(len(sample), 'image')}:")
    print(recall_table(recall))
    sizes = {i: (photo.width, photo.height) for i, photo in data.pictures.photos.items()}
    alignment = check_alignment({i: objects[i] for i in sample}, lambda i: boxes(i) if i in stored else None, sizes,
                                [image.id for image in data.annotations.images])
    if alignment is None:
        findings.notes.append("too few objects to judge whether the proposals belong to these images")
    elif alignment.problem:
        findings.wrong.append(f"{path}: {alignment.problem}")

    def draw(image_id: int) -> Panel:
        here = boxes(image_id)[:top]
        return _panel(data, image_id, objects[image_id], here)

    panels = panels_of(request.choose(data, both), draw, findings)
    write_sheets(request.out, "proposals", f"Proposals of {path}", f"{data.path.name}: the first {top} of an image; an "
                 f"object is found by one that overlaps it by {FOUND}", panels,
                 legend=[(BLUE, "object that is found"), (VERMILION, "object that no proposal finds"),
                         (YELLOW, f"proposal ({DRAWN} best)")], warnings=findings.wrong)
    return findings.report("thin yellow proposals on things, and blue objects nearly everywhere; many orange ones, or "
                           "proposals that cluster where nothing is, mean a store of other images or sizes")


def read_boxes(path: Path, data: Dataset, order: str | None) -> tuple[set[int], Boxes]:
    """The images of a store or pickle, and what gives the proposals of one: float32 ``[N, 4]``, best first."""
    if path.is_dir():
        if order:
            raise UserError(f"--order {order}: is for a .pkl; {path} is a store, keyed by image id")
        opened = RegionStore(path)

        def boxes(image_id: int) -> np.ndarray:
            regions = opened.view(image_id)
            return regions.boxes[np.argsort(-regions.scores, kind="stable")]

        return set(opened.image_ids.tolist()), boxes
    if not order:
        raise UserError(f"{path}: entries have no image ids; say whose they are with --order json (as in the "
                        "annotation file) or --order sorted (by ascending image id)")
    found = load_proposals(path, data.annotations.images, order)
    return set(found), lambda image_id: found[image_id].boxes


def _compare_ids(path: Path, stored: set[int], data: Dataset, findings: Findings) -> None:
    known = set(data.pictures.photos)
    for absent, where, other in ((known - stored, path, data.path), (stored - known, data.path, path)):
        if absent:
            findings.notes.append(f"{where}: lacks {count(len(absent), 'image')} of {other}, such as {min(absent)}")


def _panel(data: Dataset, image_id: int, objects_G4: np.ndarray, proposals_N4: np.ndarray) -> Panel:
    image = np.asarray(data.pictures.image(image_id))
    found_G = best_overlaps(objects_G4, proposals_N4, len(proposals_N4)) >= FOUND
    best = [] if not len(objects_G4) or not len(proposals_N4) else \
        np.unique(pairwise_iou(objects_G4, proposals_N4).argmax(axis=1)[found_G])
    drawn = np.unique(np.concatenate([np.arange(min(DRAWN, len(proposals_N4))), best]).astype(int))
    together = np.concatenate([np.asarray(proposals_N4)[drawn].reshape(-1, 4), objects_G4])
    picture, boxes, _ = fitted(image, together, SIDE)
    picture = draw_instances(picture, boxes[:len(drawn)], [""] * len(drawn), [0] * len(drawn),
                             colours=[YELLOW] * len(drawn), line_width=1)
    names = [data.names[a.category_id] for a in data.objects[image_id] if not a.iscrowd]
    tags = ["" if ok else name for ok, name in zip(found_G, names)]
    picture = draw_instances(picture, boxes[len(drawn):], tags, [0] * len(names),
                             colours=[BLUE if ok else VERMILION for ok in found_G], line_width=2)
    said = f"{int(found_G.sum())} of {count(len(found_G), 'object')} found" if len(found_G) else "no objects"
    share = f", recall {100 * found_G.mean():.0f} %" if len(found_G) else ""
    return Panel(picture, said + share, (f"{data.pictures.names[image_id]}, image {image_id}, "
                                         f"{count(len(proposals_N4), 'proposal')}",),
                 wrong=bool(len(found_G)) and found_G.mean() < 0.2)
