"""Texts of the page: names as they are typed, the line below the picture, the table of detections."""

import re
from collections import Counter
from collections.abc import Sequence
from html import escape

from ovd.apis import Detections
from ovd.web.desk import Desk

SHOWN_CHIPS = 60


def typed_names(text: str | None) -> list[str]:
    """Names separated by commas, semicolons or new lines, each once."""
    names = [" ".join(name.split()) for name in re.split(r"[,;\n]", text or "")]
    return list(dict.fromkeys(name for name in names if name))


def written(names: Sequence[str]) -> str:
    """Names as they would be typed."""
    return ", ".join(names)


def notice(text: str, wrong: bool = False) -> str:
    """A line for the visitor, as HTML."""
    kind, role = ("wrong", "alert") if wrong else ("plain", "status")
    return f'<p class="notice {kind}" role="{role}">{escape(text)}</p>' if text else ""


def summary(found: Detections, note: str = "") -> str:
    """What was found, in a sentence."""
    counts = Counter(found.names)
    listed = ", ".join(f"{count} × {name}" if count > 1 else name for name, count in counts.most_common(6))
    rest = f" and {len(counts) - 6} more classes" if len(counts) > 6 else ""
    text = f"Found {listed}{rest}." if counts else "Nothing found: lower the threshold, or try other words."
    return notice(f"{text} {note}".strip())


def chips(desk: Desk, found: Detections | None) -> dict:
    """The classes, those that were found first where not all can be shown."""
    counts = Counter(found.names if found is not None else ())
    names, palette = list(desk.detector.names), desk.colours
    if len(names) > SHOWN_CHIPS:
        names.sort(key=lambda name: (name not in desk.taught, -counts[name]))
    classes = [{"name": name, "colour": "rgb({}, {}, {})".format(*palette[name]),
                "count": _count(desk, name, counts[name]), "title": _title(desk, name)} for name in names[:SHOWN_CHIPS]]
    rest = len(names) - len(classes)
    return {"classes": classes, "more": f"and {rest:,} more" if rest else ""}


def table(found: Detections) -> str:
    """The detections as a table."""
    if not len(found):
        return ""
    sized = found.rles is not None
    head = "".join(f"<th>{name}</th>" for name in ("class", "score", "x1", "y1", "x2", "y2", *["mask px"] * sized))
    rows = []
    for one, area in zip(found, _areas(found)):
        colour = "rgb({}, {}, {})".format(*found.colours[one.label])
        cells = "".join(f"<td>{value:.0f}</td>" for value in one.box) + (f"<td>{area:,}</td>" if sized else "")
        rows.append(f'<tr><td><i style="background:{colour}"></i>{escape(one.name)}</td><td>{one.score:.2f}</td>'
                    f"{cells}</tr>")
    return (f'<div class="scroll"><table class="found"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody>'
            "</table></div>")


def _areas(found: Detections) -> list[int]:
    if found.rles is None:
        return [0] * len(found)
    from pycocotools import mask

    return [int(mask.area({"size": rle["size"], "counts": rle["counts"].encode()})) for rle in found.rles]


def _count(desk: Desk, name: str, count: int) -> str:
    boxes = f"from {len(desk.taught[name].examples)} box{'es' * (len(desk.taught[name].examples) > 1)}" \
        if name in desk.taught else ""
    return " · ".join(filter(None, [boxes, str(count) if count else ""]))


def _title(desk: Desk, name: str) -> str:
    if name not in desk.taught:
        return name
    return f"{name}: from example boxes" + (" and its name" if desk.taught[name].by_word else "")
