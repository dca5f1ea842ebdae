"""Convert PASCAL VOC's annotations (a folder of XML files) into one COCO-style json.

  tools/voc_to_coco.py                                  # data/voc/VOCdevkit, the test images of VOC2007
  tools/voc_to_coco.py --sets 2007_trainval 2012_trainval --out data/voc/annotations/voc0712_trainval.json
  tools/voc_to_coco.py --devkit /datasets/VOCdevkit --out voc2007_test.json

Reads VOCdevkit/VOC<year>/ImageSets/Main/<set>.txt and VOC<year>/Annotations/<name>.xml; images are not touched.
Category ids are 1 to 20 in VOC's order, an image's id is its name without the underscore (2008_000003: 2008000003), and
its file_name is relative to VOCdevkit.

Boxes: VOC counts pixels from 1 and includes the last one, so xmin..xmax becomes x = xmin - 1, width = xmax - xmin + 1.

Objects marked "difficult" become iscrowd = 1: they are not trained on, and a detection of one counts neither for nor
against, as VOC has it. (COCO's matching to a crowd asks how much of the detection it covers, not for IoU 0.5; the VOC
metric in ovd/evaluation/voc.py uses IoU.)
"""

import argparse
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Sequence
from pathlib import Path

from ovd.data.annotations import Annotation, Annotations, Category, Image
from ovd.errors import UserError, nearest
from ovd.stores.manifest import Manifest, current_or_remove, fingerprint, fingerprint_json, publish
from ovd.vocabulary.classes import VOC_NAMES

STAGE = "voc-to-coco"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the stage."""
    parser.add_argument("--sets", nargs="+", default=["2007_test"], metavar="YEAR_SET",
                        help="which images: 2007_test (the default), 2012_trainval, ...; several become one file")
    parser.add_argument("--devkit", default="data/voc/VOCdevkit", metavar="D", help="the VOCdevkit folder")
    parser.add_argument("--out", metavar="F", help="the json to write, by default annotations/voc<YEAR_SET>.json "
                        "beside the VOCdevkit folder")
    parser.add_argument("--overwrite", action="store_true", help="convert again what was converted otherwise")


def run(args: argparse.Namespace) -> int:
    """Entry point of ``tools/voc_to_coco.py`` and ``ovd voc-to-coco``."""
    devkit = Path(args.devkit)
    out = Path(args.out or devkit.parent / "annotations" / f"voc{'_'.join(args.sets)}.json")
    convert(devkit, args.sets, out, overwrite=args.overwrite)
    return 0


def convert(devkit: Path, sets: Sequence[str], out: Path, *, overwrite: bool = False) -> None:
    """Write the annotations of ``sets`` (``"2007_test"``, ...) to ``out``; a file that is current is left alone.

    Raises:
        UserError: A missing list or XML file, or one that does not say what is needed; names the file.
    """
    from tqdm import tqdm

    xml_files = list(find_files(devkit, sets))
    digests = {f"{year}/{path.stem}": fingerprint(path) for year, path in xml_files}
    config, inputs = {"sets": list(sets)}, {"xml": fingerprint_json(digests)}
    if current_or_remove(out, STAGE, config, inputs, overwrite=overwrite):
        print(f"{out} is up to date")
        return
    with publish(out, Manifest("annotations", STAGE, config, inputs)) as (temporary, manifest):
        loaded = read_xml_files(tqdm(xml_files, desc="reading", unit=" files"))
        loaded.check(out)
        loaded.write(temporary)
        difficult = sum(annotation.iscrowd for annotation in loaded.annotations)
        manifest.counts = {"images": len(loaded.images), "annotations": len(loaded.annotations),
                           "categories": len(loaded.categories), "difficult": difficult}
    print(f"{out}: {len(loaded.images):,} images, {len(loaded.annotations):,} objects, {difficult:,} of them difficult")


def find_files(devkit: Path, sets: Iterable[str]) -> Iterable[tuple[str, Path]]:
    """``("VOC2007", path of the XML)`` of every image of the sets, in the order of their lists.

    Raises:
        UserError: Something is missing, or an image is in two sets.
    """
    seen: set[tuple[str, str]] = set()
    for name in sets:
        year, _, subset = name.partition("_")
        folder = devkit / f"VOC{year}"
        listed = folder / "ImageSets" / "Main" / f"{subset}.txt"
        if not subset or not listed.is_file():
            there = [f"{path.parents[2].name.removeprefix('VOC')}_{path.stem}"
                     for path in devkit.glob("VOC*/ImageSets/Main/*.txt") if "_" not in path.stem]
            raise UserError(f"{listed}: no such list of images{nearest(name, there)}; --sets takes YEAR_SET such as "
                            "2007_test, --devkit the VOCdevkit folder")
        for image in listed.read_text().split():
            path = folder / "Annotations" / f"{image}.xml"
            if (folder.name, image) in seen:
                raise UserError(f"{listed}: image {image} is listed twice; leave one of the sets out")
            if not path.is_file():
                raise UserError(f"{path}: no such file (image {image} of {listed}); unpack the annotations again")
            seen.add((folder.name, image))
            yield folder.name, path


def read_xml_files(xml_files: Iterable[tuple[str, Path]]) -> Annotations:
    """The records of the files, as COCO has them."""
    categories = [Category(id=number, name=name) for number, name in enumerate(VOC_NAMES, start=1)]
    result = Annotations([], [], categories)
    for year, path in xml_files:
        image, objects = read_xml(path, year)
        result.images.append(image)
        for category_id, (x, y, width, height), difficult in objects:
            result.annotations.append(Annotation(
                id=len(result.annotations) + 1, image_id=image.id, category_id=category_id,
                bbox=(x, y, width, height), area=width * height, crowd_flag=int(difficult)))
    return result


def read_xml(path: Path, year: str) -> tuple[Image, list[tuple[int, tuple[float, float, float, float], bool]]]:
    """The image of one XML file, and its objects: category id, box (x, y, width, height in pixels), difficult or not.

    Raises:
        UserError: No valid XML, a missing field, an unknown class, or a box that is not one.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise UserError(f"{path}: not valid XML ({error}); unpack the annotations again") from None
    if not re.fullmatch(r"\d+(_\d+)?", path.stem):
        raise UserError(f"{path}: VOC's images are named by numbers (000001, 2008_000001), not {path.stem!r}")
    width, height = (_number(root, f"size/{side}", path) for side in ("width", "height"))
    image = Image(id=int(path.stem.replace("_", "")), height=int(height), width=int(width),
                  file_name=f"{year}/JPEGImages/{root.findtext('filename') or path.stem + '.jpg'}")
    objects = []
    for node in root.findall("object"):
        name = (node.findtext("name") or "").strip()
        if name not in VOC_NAMES:
            raise UserError(f"{path}: {name!r} is not a class of VOC{nearest(name, VOC_NAMES)}; correct the file")
        x1, y1, x2, y2 = (_number(node, f"bndbox/{key}", path) for key in ("xmin", "ymin", "xmax", "ymax"))
        if x2 < x1 or y2 < y1:
            raise UserError(f"{path}: a {name} has an inverted box ({x1:g}, {y1:g}, {x2:g}, {y2:g}: xmin, ymin, xmax, "
                            "ymax); correct the file")
        box = (x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1)
        objects.append((VOC_NAMES.index(name) + 1, box, (node.findtext("difficult") or "0").strip() == "1"))
    return image, objects


def _number(node: ElementTree.Element, place: str, path: Path) -> float:
    text = node.findtext(place)
    try:
        return float(text)
    except (TypeError, ValueError):
        raise UserError(f"{path}: {place} of {node.tag} must be a number, not {text!r}; correct the file") from None
