"""``ovd show crops``."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ovd.data.boxes import corners
from ovd.errors import UserError
from ovd.evaluation.picture_sheet import Panel
from ovd.evaluation.pictures import VERMILION, draw_instances, fitted
from ovd.evaluation.recall import pairwise_iou
from ovd.vocabulary.classes import canonical
from pipelines.show.findings import Findings, count
from pipelines.show.regions import Found, Regions, names_of, similarities
from pipelines.show.request import Dataset, Request
from pipelines.show.sheets import panels_of, write_sheets

HEIGHT = 150  # pixels of a crop in the picture
SAME = 0.5  # IoU from which a region is one of an object
CHECKED = 200  # images whose stored embeddings are asked for the names of their objects
AGREE = 0.95  # cosine that stored and computed embeddings of a crop have at least, in the median
ALIKE = 0.998  # and if made alike: half precision and int8 keep 0.9998, another kind of crop leaves 0.99
BETTER_THAN_CHANCE = 5.0  # times


@dataclass(frozen=True)
class Chosen:
    """A region to be drawn: its place among those of its image, and the object that it is of, if any."""

    image_id: int
    place: int
    name: str | None = None
    overlap: float = 0.0


def show_crops(request: Request, store: str | Path | None = None, annotated: bool = False,
               class_head: str | Path | None = None, pretrained: str | None = None, model: str | None = None,
               no_clip: bool = False, regions: int = 4, device: str = "auto") -> int:
    """Draw regions as CLIP sees them, with the classes that they are most like; returns the exit status.

    Args:
        store: Of regions or proposals; by default the config's region store, else annotated boxes.
        annotated: Annotated boxes, whatever the stores.
        class_head: By default the config's, else the names of the annotations.
        pretrained, model: The CLIP; by default the config's.
        no_clip: Show what is stored, without computing any.
        regions: Of an image.

    Raises:
        UserError: Wrong or missing input.
    """
    if regions < 1:
        raise UserError(f"--regions {regions}: needs 1 or more")
    data, findings = request.dataset(), Findings()
    source = Regions.read(request, data, findings, store=store, annotated=annotated, class_head=class_head,
                          pretrained=pretrained, model=model, no_clip=no_clip, device=device)
    print(source.described())
    if source.store is not None and source.store.kind == "regions":
        _check_names(source, data, findings)
    found = {image_id: source.of(image_id) for image_id in request.choose(data, source.images)}
    wanted = {canonical(name) for name in request.classes}
    chosen = [one for image_id in found for one in choose_regions(image_id, found[image_id], data, regions, wanted)]
    crops, broken = _crops(source, found, chosen, findings)
    rows = _embeddings(source, found, chosen, crops, broken, findings)
    cosines, shares = similarities(source.head, rows)

    def panel(number: int) -> Panel:
        one = chosen[number]
        if one.image_id in broken:
            raise UserError(broken[one.image_id])
        image = np.asarray(data.pictures.image(one.image_id))
        picture = np.concatenate([_context(image, found[one.image_id].boxes[one.place]),
                                  *(_shown(crop) for crop in crops[number])], axis=1)
        return _panel(one, picture, source.head.names, cosines[number], shares[number], data)

    panels = panels_of(range(len(chosen)), panel, findings)
    write_sheets(request.out, "crops", "Crops as CLIP sees them", source.described(), panels, per_page=24,
                 columns=3, warnings=findings.wrong,
                 legend=[(VERMILION, "the region in its image; beside it the crops; below: cosine, and the share of it "
                          "among all classes. Red: the object has another name")])
    return findings.report("the object whole in the first crop, and its surroundings in the second; names that fit "
                           "what you see. Right crops with wrong names mean a weak CLIP or wrong classes, crops of "
                           "nothing mean wrong boxes")


def choose_regions(image_id: int, found: Found, data: Dataset, number: int, wanted: set[str]) -> list[Chosen]:
    """The regions that fit objects best, the largest objects first, then the best others.

    Args:
        wanted: Classes whose objects count; all if there are none, and then others are added too.
    """
    records = [a for a in data.objects[image_id] if not a.iscrowd]
    objects_G4, names = corners([a.bbox for a in records]), names_of(records, data)
    chosen: list[Chosen] = []
    if not len(found.boxes):
        return chosen
    overlap_GN = pairwise_iou(objects_G4, found.boxes)
    for index in np.argsort(-(objects_G4[:, 2:] - objects_G4[:, :2]).prod(axis=1), kind="stable").tolist():
        place = int(overlap_GN[index].argmax())
        if (not wanted or canonical(names[index]) in wanted) and overlap_GN[index, place] >= SAME \
                and place not in [one.place for one in chosen]:
            chosen.append(Chosen(image_id, place, names[index], float(overlap_GN[index, place])))
    for place in range(0 if wanted else len(found.boxes)):
        if len(chosen) >= number:
            break
        taken = found.boxes[[one.place for one in chosen]].reshape(-1, 4)
        if not len(taken) or pairwise_iou(found.boxes[[place]], taken).max() < SAME:
            chosen.append(Chosen(image_id, place))
    return chosen[:number]


def _crops(source: Regions, found: dict[int, Found], chosen: list[Chosen],
           findings: Findings) -> tuple[list[np.ndarray], dict[int, str]]:
    """The crops of each region, uint8 ``[K, C, S, S]``, and what is wrong with images that cannot be read."""
    crops: list[np.ndarray] = []
    broken: dict[int, str] = {}
    for one in chosen:
        box = found[one.image_id].boxes[[one.place]]
        try:
            made = source.cropper(source.data.pictures.image(one.image_id), box)[0].cpu().numpy()
        except UserError as error:
            broken[one.image_id] = str(error)
            made = np.zeros((len(source.cropper.recipe.scales), 3, 1, 1), np.uint8)
        crops.append(made)
    return crops, broken


def _embeddings(source: Regions, found: dict[int, Found], chosen: list[Chosen], crops: list[np.ndarray],
                broken: dict[int, str], findings: Findings) -> np.ndarray:
    """The embedding of each region, as stored where it is: ``[N, D]``; stored and computed ones are compared."""
    import torch

    stored = [found[one.image_id].embeddings for one in chosen]
    has_rows = bool(stored) and stored[0] is not None
    rows = np.array([e[one.place] for e, one in zip(stored, chosen)], np.float32) if has_rows else None
    if source.encoder is None or not chosen:
        return rows if rows is not None else np.zeros((0, source.head.dim), np.float32)
    whole = [number for number, one in enumerate(chosen) if one.image_id not in broken]
    computed = np.zeros((len(chosen), source.head.dim), np.float32)
    if whole:
        made = source.encoder.encode([torch.from_numpy(crops[number])[None] for number in whole])
        made = np.concatenate(made).astype(np.float32)
        if made.shape[1] != source.head.dim:
            raise UserError(f"the class head has width {source.head.dim}, and CLIP {source.clip.name} gives "
                            f"{made.shape[1]}: make the head with this CLIP")
        computed[whole] = made
    if rows is None:
        return computed
    if whole and not findings.wrong:
        agree = (rows[whole] * computed[whole]).sum(axis=1)
        print(f"stored and computed embeddings: cosine {np.median(agree):.4f} in the median, {agree.min():.4f} at "
              f"least, of {count(len(whole), 'region')}")
        if np.median(agree) < AGREE:
            findings.wrong.append(f"{source.store.path}: its embeddings are not those of these crops (cosine "
                                  f"{np.median(agree):.2f}): they belong to other boxes or images, or were made with "
                                  "another recipe; make the store again with ovd embed-regions")
        elif np.median(agree) < ALIKE:
            findings.notes.append(f"{source.store.path}: its embeddings were made of slightly other crops (cosine "
                                  f"{np.median(agree):.4f}): of another recipe or image files than these")
    return rows


def _check_names(source: Regions, data: Dataset, findings: Findings) -> None:
    """Ask stored embeddings at objects for their names: rows of other regions know them no better than chance."""
    place = {canonical(name): row for row, name in enumerate(source.head.names)}
    ids = sorted(set(source.images) & set(data.pictures.photos))
    right = asked = 0
    for image_id in np.random.default_rng(0).permutation(ids)[:CHECKED].tolist():
        found = source.of(image_id)
        records = [a for a in data.objects[image_id] if not a.iscrowd and canonical(data.names[a.category_id]) in place]
        if not records or not len(found.boxes):
            continue
        overlap_GN = pairwise_iou(corners([a.bbox for a in records]), found.boxes)
        at = overlap_GN.argmax(axis=1)
        good = overlap_GN.max(axis=1) >= SAME
        best = similarities(source.head, found.embeddings[at[good]])[0].argmax(axis=1) if good.any() else []
        labels = [place[canonical(data.names[a.category_id])] for a, ok in zip(records, good) if ok]
        right += int(sum(a == b for a, b in zip(best, labels)))
        asked += len(labels)
    if asked < 20:
        findings.notes.append(f"{source.store.path}: {count(asked, 'region')} at annotated objects, too few to judge "
                              "its embeddings by")
        return
    chance = 1 / len(source.head.names)
    print(f"stored embeddings name {100 * right / asked:.1f} % of {asked:,} annotated objects right, among "
          f"{count(len(place), 'class', 'classes')}")
    if right / asked < min(BETTER_THAN_CHANCE * chance, 0.5 + chance / 2):
        findings.wrong.append(f"{source.store.path}: its embeddings name {100 * right / asked:.0f} % of the objects "
                              f"right, by chance it would be {100 * chance:.0f} %: they are of other regions, or the "
                              "class head is of another CLIP")


def _context(image: np.ndarray, box: np.ndarray) -> np.ndarray:
    """The image, ``HEIGHT`` pixels high and wide, with the box in it."""
    picture, boxes, _ = fitted(image, box[None], HEIGHT)
    picture = draw_instances(picture, boxes, [""], [0], colours=[VERMILION], line_width=2)
    page = np.full((HEIGHT, HEIGHT, 3), 235, np.uint8)
    top, left = (HEIGHT - picture.shape[0]) // 2, (HEIGHT - picture.shape[1]) // 2
    page[top:top + picture.shape[0], left:left + picture.shape[1]] = picture
    return page


def _shown(crop_CSS: np.ndarray) -> np.ndarray:
    """A crop as a picture with a gap at its left; what a mask keeps out is dark."""
    pixels = np.moveaxis(crop_CSS[:3], 0, -1).astype(np.float32)
    if len(crop_CSS) == 4:
        pixels *= np.where(crop_CSS[3] > 0, 1.0, 0.35)[..., None]
    height, width = pixels.shape[:2]
    size = max(1, round(HEIGHT * width / height)), HEIGHT
    picture = np.asarray(Image.fromarray(pixels.round().astype(np.uint8)).resize(size, Image.Resampling.BICUBIC))
    return np.concatenate([np.full((HEIGHT, 6, 3), 250, np.uint8), picture], axis=1)


def _panel(one: Chosen, picture: np.ndarray, names: tuple[str, ...], cosines: np.ndarray, shares: np.ndarray,
           data: Dataset) -> Panel:
    order = np.argsort(-cosines, kind="stable")[:3].tolist()
    best, *others = (f"{names[i]} {cosines[i]:.2f} ({100 * shares[i]:.0f} %)" for i in order)
    truth = f"is: {one.name} (IoU {one.overlap:.2f})" if one.name else "not annotated"
    known = {canonical(name) for name in names}
    wrong = one.name is not None and canonical(one.name) in known and canonical(names[order[0]]) != canonical(one.name)
    return Panel(picture, best, ("; ".join(others) or "-", f"{truth}; {data.pictures.names[one.image_id]}"), wrong)
