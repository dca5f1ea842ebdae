"""``ovd show detections``."""

from collections import defaultdict
from pathlib import Path

import msgspec
import numpy as np

from ovd.data.boxes import corners
from ovd.errors import UserError
from ovd.evaluation.alignment import check_alignment
from ovd.evaluation.comparison import Instances, clearest, found_objects
from ovd.evaluation.exhibits import Found
from ovd.evaluation.picture_sheet import Panel
from ovd.evaluation.pictures import BLUE, GREY, VERMILION, draw_instances, fitted, side_by_side
from pipelines.show.findings import Findings, count
from pipelines.show.request import Dataset, Request
from pipelines.show.sheets import SIDE, panels_of, write_sheets

CHECKED = 100  # images


def show_detections(request: Request, file: str | Path, min_score: float = 0.3) -> int:
    """Draw detections beside the objects; returns the exit status.

    Args:
        file: COCO's results json.
        min_score: Detections below it are not drawn.

    Raises:
        UserError: Wrong or missing input.
    """
    data = request.dataset()
    found = read_detections(Path(file), data)
    print(f"{file}: {sum(map(len, found.values())):,} detections in {count(len(found), 'image')} of "
          f"{len(data.objects):,}")
    findings = Findings()
    objects = {i: corners([a.bbox for a in here if not a.iscrowd]) for i, here in data.objects.items()}
    sample = sorted(np.random.default_rng(0).permutation(sorted(set(found) & objects.keys()))[:CHECKED].tolist())
    sizes = {i: (photo.width, photo.height) for i, photo in data.pictures.photos.items()}
    alignment = check_alignment({i: objects[i] for i in sample}, lambda i: found[i].boxes if i in found else None,
                                sizes, [image.id for image in data.annotations.images])
    if alignment and alignment.problem:
        findings.wrong.append(f"{file}: {alignment.problem.replace('proposals', 'detections')}")
    names = [data.names[category_id] for category_id in sorted(data.names)]
    order = {category_id: label for label, category_id in enumerate(sorted(data.names))}

    def draw(image_id: int) -> Panel:
        image = np.asarray(data.pictures.image(image_id))
        here = [a for a in data.objects[image_id] if not a.iscrowd]
        truth = Instances(objects[image_id], np.array([order[a.category_id] for a in here], np.int64))
        shown = found.get(image_id, _NONE)
        shown = shown[clearest(shown, min_score)]
        at = found_objects(shown, truth)
        right = [i >= 0 and label == truth.labels[i] for i, label in zip(at.tolist(), shown.labels.tolist())]
        picture, boxes, _ = fitted(image, np.concatenate([truth.boxes, shown.boxes]), SIDE)
        left = draw_instances(picture, boxes[:len(truth)], [names[i] for i in truth.labels], truth.labels,
                              colours=[BLUE if i in at else GREY for i in range(len(truth))], line_width=2)
        other = draw_instances(picture, boxes[len(truth):], [names[i] for i in shown.labels], shown.labels, None,
                               shown.scores, colours=[BLUE if ok else VERMILION for ok in right], line_width=2)
        return Panel(side_by_side(left, other), f"{sum(right)} of {count(len(truth), 'object')} found and named",
                     (f"{data.pictures.names[image_id]}, image {image_id}: {len(shown)} detections, {min_score:g} up",))

    panels = panels_of(request.choose(data), draw, findings)
    write_sheets(request.out, "detections", f"Detections of {Path(file).name}", f"objects of {data.path.name} at the "
                 "left, detections at the right, one at a place", panels, columns=2, per_page=8,
                 legend=[(BLUE, "found and, at the right, named right"), (VERMILION, "named wrong, or nothing there"),
                         (GREY, "object that is not found")], warnings=findings.wrong)
    return findings.report("blue boxes that agree at both sides; orange ones with another name are confusions, those "
                           "where nothing is annotated may be right")


_NONE = Instances(np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0))


def read_detections(path: Path, data: Dataset) -> dict[int, Instances]:
    """Image id -> detections, best first; labels count the category ids upwards.

    Raises:
        UserError: Not such a file, or detections of images or categories that the annotations do not have.
    """
    try:
        contents = path.read_bytes()
        if contents.lstrip()[:1] == b"{" and b'"images"' in contents:
            drawn = "its pictures are beside it, in pictures/" if b'"number": ' in contents or b'"stream/' in contents \
                else f"draw it with ovd show annotations --annotations {path} --image-root DIR"
            raise UserError(f"{path}: has images and categories of its own, as ovd detect writes it: {drawn}")
        rows = msgspec.json.decode(contents, type=list[Found])
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; write it with ovd test ... --out {path}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not COCO results ({error}); write it with ovd test ... --out F.json") from None
    order = {category_id: label for label, category_id in enumerate(sorted(data.names))}
    by_image: dict[int, list[Found]] = defaultdict(list)
    for number, row in enumerate(rows):
        if row.image_id not in data.pictures.photos or row.category_id not in order:
            what = "category" if row.image_id in data.pictures.photos else "image"
            raise UserError(f"{path}: record {number} is of {what} {getattr(row, what + '_id')}, which {data.path} "
                            "does not have: give the annotation file that it was made with")
        by_image[row.image_id].append(row)
    return {image_id: _instances(sorted(found, key=lambda row: -row.score), order)
            for image_id, found in by_image.items()}


def _instances(rows: list[Found], order: dict[int, int]) -> Instances:
    return Instances(corners([row.bbox for row in rows]), np.array([order[row.category_id] for row in rows], np.int64),
                     np.array([row.score for row in rows], np.float64))
