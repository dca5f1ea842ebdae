"""Draw the figures that explain: python docs/building/figures.py [FOLDER [NAME ...]] (docs/images, all of them)."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from ovd.fewshot.detection.chart import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL.Image import Image

ROOT = Path(__file__).resolve().parents[2]
BLUE, ORANGE, GREEN = COLOURS[:3]
INK, SOFT, WASH = "#1d1f23", "#62666e", "#f3f4f6"


def distillation(results: Path = ROOT / "docs/results/shapes_study.json") -> "Figure":
    """What ViLD learns from, and what distillation adds on the embedded benchmark."""
    figure = _figure(10.4, 6.1)
    top, bottom = figure.subplots(2, 1, height_ratios=(2.05, 1))
    axes = _canvas(top, 104, 42)
    _group(axes, 0.5, 22.5, 103, 19, "once, before training: ovd proposals, ovd embed-regions", ORANGE)
    _box(axes, 2, 25, 15, 11, "image")
    _box(axes, 23, 25, 16, 11, "proposals\nof a network that\nsaw base boxes only", small=True)
    _box(axes, 45, 25, 16, 11, "crops of each\n1x and 1.5x")
    _box(axes, 67, 25, 15, 11, "CLIP's image\ntower, frozen", ORANGE)
    _box(axes, 88, 25, 14, 11, "region store\nboxes and\nunit vectors", ORANGE)
    for x in (17, 39, 61, 82):
        _arrow(axes, (x, 30.5), (x + 6, 30.5))
    _box(axes, 2, 6, 15, 11, "the same image")
    _box(axes, 23, 6, 16, 11, "detector\nbackbone, FPN, RPN")
    _box(axes, 45, 6, 16, 11, "box head\na unit vector\na region", BLUE)
    for x in (17, 39):
        _arrow(axes, (x, 11.5), (x + 6, 11.5))
    _box(axes, 88, 11.2, 14, 7.6, "L1 distance", ORANGE)
    _box(axes, 88, 1.2, 14, 7.6, "cross-entropy", BLUE)
    _box(axes, 67, 1.2, 15, 7.6, "rows of base names\nand background", BLUE, small=True)
    _arrow(axes, (61, 15), (88, 15), ORANGE)
    _arrow(axes, (95, 25), (95, 18.8), ORANGE)
    _arrow(axes, (61, 8), (67, 6))
    _arrow(axes, (82, 5), (88, 5), BLUE)
    axes.text(74.5, 16.1, "all cached regions, novel objects too", ha="center", fontsize=8, color=ORANGE)
    axes.text(64, 9.6, "boxes of base classes", fontsize=8, color=BLUE)

    found = {row["name"]: row["figures"] for row in json.loads(results.read_text())["rows"]}
    shown = (("vild_text", "ViLD-text: cross-entropy alone", BLUE), ("vild", "ViLD: with the distance", ORANGE))
    for number, (method, title, colour) in enumerate(shown):
        for place, group in enumerate(("base", "novel_combination", "novel_shape")):
            mean = found[method][f"{group}/top1_ap50"]["mean"]
            bottom.barh(place * 3 + number, mean, 0.9, color=colour, label=title if place == 0 else None)
            bottom.text(mean + 0.8, place * 3 + number, f"{mean:.1f}", va="center", fontsize=9, color=INK)
    bottom.set_yticks([0.5, 3.5, 6.5], ["base classes", "new combinations", "new shapes"])
    bottom.invert_yaxis()
    bottom.set_xlim(0, 108)
    bottom.set_xlabel("AP50, one label a box; mean of three seeds, embedded benchmark", color=SOFT)
    bottom.tick_params(length=0)
    bottom.set_xticks([])
    for side in ("top", "right", "bottom", "left"):
        bottom.spines[side].set_visible(False)
    bottom.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.45, 1.22), ncols=2, fontsize=9)
    return figure


def prompts() -> "Figure":
    """How a name becomes a row of the classifier: by templates, and by a learned context."""
    figure = _figure(10.4, 4.4)
    axes = _canvas(figure.subplots(), 104, 44)
    axes.text(1, 42, "templates (ViLD): fixed words about the name", fontsize=10, color=BLUE, weight="bold")
    for line, (before, after) in enumerate((("This is a photo of a", "."), ("There is a", "in the scene."),
                                            ("This is a painting of the", "."))):
        y = 35.5 - 4.6 * line
        _box(axes, 1, y, 20, 4, before, small=True)
        _box(axes, 21.6, y, 12, 4, "red panda", GREEN, small=True)
        _box(axes, 34.2, y, 14, 4, after, small=True)
        _arrow(axes, (48.2, y + 2), (54, 31 + (1 - line) * 1.6))
    axes.text(11, 24.2, "... 63 of them", ha="center", fontsize=8, color=SOFT)
    _box(axes, 54, 25, 15, 12, "CLIP's text\ntower, frozen", ORANGE)
    _arrow(axes, (69, 31), (74, 31))
    _box(axes, 74, 26, 13, 10, "mean of the\nunit vectors")
    _arrow(axes, (87, 31), (91, 31))
    _box(axes, 91, 27, 12, 8, "row of\n“red panda”", GREEN)
    axes.text(1, 18.5, "learned context (DetPro): vectors in the place of words, the same for all names", fontsize=10,
              color=BLUE, weight="bold")
    for number in range(8):
        _box(axes, 1 + 4.1 * number, 9, 3.6, 5, f"V{number + 1}", BLUE, small=True)
    _box(axes, 34.2, 9, 14, 5, "red panda .", GREEN, small=True)
    _arrow(axes, (48.2, 11.5), (54, 11.5))
    _box(axes, 54, 5.5, 15, 12, "CLIP's text\ntower, frozen", ORANGE)
    _arrow(axes, (69, 11.5), (74, 11.5))
    _box(axes, 74, 6.5, 13, 10, "mean over five\nranges of IoU")
    _arrow(axes, (87, 11.5), (91, 11.5))
    _box(axes, 91, 7.5, 12, 8, "row of\n“red panda”", GREEN)
    axes.text(17.2, 5.6, "learned from CLIP's vectors of base boxes,\nthe tower stays as it is", ha="center", va="top",
              fontsize=8, color=SOFT)
    return figure


def class_sources() -> "Figure":
    """How a class is made of a name, of boxes, or of both."""
    figure = _figure(10.4, 4.2)
    axes = _canvas(figure.subplots(), 104, 42)
    _box(axes, 1, 30, 14, 8, "a name\n“traffic cone”", GREEN)
    _box(axes, 21, 30, 18, 8, "prompts,\nCLIP's text tower", ORANGE)
    _box(axes, 45, 30, 15, 8, "row of\nthe name", GREEN)
    _box(axes, 1, 6, 14, 8, "k boxes\nin photos", BLUE)
    _box(axes, 21, 6, 18, 8, "a vector a box\nCLIP, or the detector", ORANGE)
    _box(axes, 45, 6, 15, 8, "row of the boxes\nmean, cache, fit", BLUE)
    for y in (34, 10):
        _arrow(axes, (15, y), (21, y))
        _arrow(axes, (39, y), (45, y))
    _box(axes, 66, 18, 16, 8, "both: weighed by\nk and by how well\nthe name fits", small=True)
    _arrow(axes, (60, 31), (66, 25))
    _arrow(axes, (60, 13), (66, 19))
    _box(axes, 88, 6, 15, 32, "")
    axes.text(95.5, 35, "class head", ha="center", fontsize=9.5, color=INK, weight="bold")
    for number, (label, colour) in enumerate((("person", SOFT), ("car", SOFT), ("traffic cone", INK), ("...", SOFT))):
        _box(axes, 89.5, 28.2 - 6 * number, 12, 4.6, label, {INK: GREEN}.get(colour, SOFT), small=True)
    _arrow(axes, (82, 22), (89.5, 18.5), GREEN)
    axes.plot([60, 84.5], [35.5, 35.5], color=SOFT, linewidth=1.2)
    _arrow(axes, (84.4, 35.5), (89.3, 20.5))
    axes.plot([60, 84.5], [8.5, 8.5], color=SOFT, linewidth=1.2)
    _arrow(axes, (84.4, 8.5), (89.3, 16.2))
    axes.text(71, 36.3, "by its name", ha="center", fontsize=8, color=GREEN)
    axes.text(71, 6.2, "by its boxes", ha="center", fontsize=8, color=BLUE)
    axes.text(95.5, 7.2, "other rows stay\nas they are", ha="center", fontsize=7.5, color=SOFT)
    return figure


def first_steps() -> "Image":
    """What docs/first_steps.md finds in two scenes: classes by words, and one by a box in the first of them."""
    from PIL import Image

    import ovd
    from pipelines.cli import main as command

    with TemporaryDirectory() as folder:
        command(["shapes", "--data-root", folder, "--train", "2", "--val", "4", "--workers", "1"])
        first, second = (f"{folder}/val2017/00002000000{number}.jpg" for number in (2, 3))
        detector = ovd.load("demo", device="cpu")
        detector.set_vocabulary(["dotted red star", "striped blue circle", "plain blue crescent"])
        detector.add_class("gadget", text=False, boxes=[(first, (27, 51, 60, 85))])
        found = [detector.detect(scene, threshold=0.6).plot() for scene in (first, second)]
    width, height = found[0].size
    both = Image.new("RGB", (2 * width + 12, height), "white")
    for number, picture in enumerate(found):
        both.paste(picture, (number * (width + 12), 0))
    return both


def looking() -> "Image":
    """A file of proposals that is shifted by one image, as ``ovd show`` draws it."""
    import pickle

    import numpy as np
    from PIL import Image

    from ovd.data.annotations import load_annotations
    from ovd.data.boxes import corners
    from pipelines.cli import main as command

    before = Path.cwd()
    with TemporaryDirectory() as folder:
        os.chdir(folder)
        command(["shapes", "--data-root", ".", "--train", "12", "--val", "4", "--workers", "1"])
        truth = "annotations/instances_train.json"
        objects = load_annotations(truth)
        boxes = [corners([one.bbox for one in objects.by_image()[image.id]]) for image in objects.images]
        rows = [np.c_[each, np.full(len(each), 0.9)].astype(np.float32) for each in boxes]
        Path("shifted.pkl").write_bytes(pickle.dumps(rows[1:] + rows[:1]))
        command(["show", "proposals", "--store", "shifted.pkl", "--order", "json", "--annotations", truth,
                 "--image-root", "train2017", "--images", "3", "--out", "."])
        os.chdir(before)
        return Image.open(f"{folder}/proposals.png").convert("RGB")


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _canvas(axes: "Axes", width: float, height: float) -> "Axes":
    axes.set_xlim(0, width)
    axes.set_ylim(0, height)
    axes.axis("off")
    return axes


def _box(axes: "Axes", x: float, y: float, width: float, height: float, text: str, colour: str = SOFT,
         small: bool = False) -> None:
    from matplotlib.patches import FancyBboxPatch

    plain = colour == SOFT
    axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0,rounding_size=0.8", linewidth=1.2,
                                  edgecolor=colour, facecolor=WASH if plain else f"{colour}1f"))
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=8 if small else 9, color=INK,
              linespacing=1.25)


def _group(axes: "Axes", x: float, y: float, width: float, height: float, title: str, colour: str) -> None:
    from matplotlib.patches import FancyBboxPatch

    axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0,rounding_size=1", linewidth=0.9,
                                  linestyle=(0, (4, 3)), edgecolor=colour, facecolor="none"))
    axes.text(x + 1.5, y + height - 1.2, title, va="top", fontsize=8.5, color=colour)


def _arrow(axes: "Axes", start: tuple[float, float], end: tuple[float, float], colour: str = SOFT) -> None:
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 1.2,
                                              "shrinkA": 1, "shrinkB": 1})


FIGURES = {"distillation": distillation, "prompts": prompts, "class_sources": class_sources,
           "first_steps": first_steps, "looking": looking}


def main(folder: Path, names: Sequence[str] = ()) -> None:
    """Write figures (all, if none is named) below ``folder``."""
    for name in names or FIGURES:
        drawn = FIGURES[name]()
        path = folder / f"{name}.png"
        if hasattr(drawn, "savefig"):
            drawn.savefig(path, format="png", metadata={"Software": None})
        else:
            drawn.quantize(256).save(path, optimize=True)
        print(path)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "docs/images"), sys.argv[2:])
