"""An audit as one HTML file that needs nothing but itself: what is suspicious, in pictures."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np

from ovd.evaluation.audit import Findings
from ovd.evaluation.audit_pictures import Pictures
from ovd.evaluation.audit_report import counts, similar_rows
from ovd.evaluation.comparison import PLAIN, RIGHT, WRONG

EXAMPLES = 3  # crops of each class beside a suspicious label
TILES = (("labels_counted_as_wrong", "labels that are probably wrong"),
         ("groups_of_duplicate_images", "groups of duplicate images"),
         ("groups_of_duplicate_objects", "objects that occur in several images"),
         ("boxes_drawn_twice", "boxes drawn twice"), ("boxes_of_two_classes", "boxes labelled as two classes"),
         ("unannotated", "objects perhaps without annotation"))


class AuditPage:
    """Renders findings.

    Args:
        files: image id -> file name.
        show: Entries of each list that are shown as pictures; report.json has them all.
    """

    def __init__(self, findings: Findings, pictures: Pictures, files: Mapping[int, str], show: int) -> None:
        self.findings, self.pictures, self.files, self.show = findings, pictures, files, show
        self.objects = findings.objects
        self._typical = _typical_rows(findings)

    def render(self, title: str, introduction: str, settings: Sequence[tuple[str, str]]) -> str:
        """The page; ``settings`` are (what, value) of the run."""
        sections = [f"<h1>{escape(title)}</h1>\n<p>{escape(introduction)}</p>", self._tiles(), self._labels(),
                    self._confusions(), self._images(), self._same_objects(), self._doubles(), self._missing(),
                    _settings(settings)]
        here = Path(__file__)
        style = "".join(here.with_name(name).read_text(encoding="utf-8") for name in ("report.css", "audit.css"))
        return (f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
                '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
                f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
                + "\n".join(filter(None, sections)) + "\n</body>\n</html>\n")

    def _tiles(self) -> str:
        numbers, tiles = counts(self.findings), []
        for key, label in TILES:
            if numbers[key] is not None:
                none = "" if numbers[key] else " none"
                tiles.append(f'<div class="tile"><div class="label">{label}</div>'
                             f'<div class="value{none}">{numbers[key]:,}</div></div>')
        return f'<div class="tiles">{"".join(tiles)}</div>'

    def _labels(self) -> str:
        findings, shown = self.findings, self.findings.ranking[:self.show]
        note = ("An object's label against the labels of the objects that look most like it in other images, and "
                "against CLIP's opinion of its picture. The most suspicious first; the bar says how much more probable "
                f"the suggestion is. {int(findings.labels.confident.sum()):,} of these {len(findings.ranking):,} are "
                "counted as probably wrong, the others are in doubt. "
                f"{_first(len(shown), len(findings.ranking))}")
        return _section("Suspicious labels", note, [self._label(int(row)) for row in shown], "card")

    def _label(self, row: int) -> str:
        objects, labels = self.objects, self.findings.labels
        label, other = int(objects.labels[row]), int(labels.suggested[row])
        like = similar_rows(self.findings, row, other, EXAMPLES) or self._typical.get(other, [])
        said = [f"{100 * labels.by_vote[row]:.0f} % of its neighbours"]
        if np.isfinite(labels.by_text[row]):
            said.append(f"CLIP {100 * labels.by_text[row]:.0f} %")
        counted = "" if labels.confident[row] else ", in doubt"
        picture = self._crop(row, WRONG, 220)
        given, suggested = escape(objects.names[label]), escape(objects.names[other])
        return (f'<div class="suspect"><div>{picture}<div class="measure"><i style="width:'
                f'{100 * max(0.0, labels.score[row]):.0f}%"></i></div>'
                f'<div class="meta">{self._where(row)}</div></div><div>'
                f'<p><span class="label">labelled</span> <span class="wrong">{given}</span></p>'
                f'{self._strip(self._typical.get(label, []))}'
                f'<p><span class="label">looks like</span> <span class="right">{suggested}</span></p>'
                f'{self._strip(like)}<div class="meta">{" · ".join(said)}{counted}</div></div></div>')

    def _confusions(self) -> str:
        names, confusions = self.objects.names, self.findings.confusions()[:15]
        rows = [row for row in self.findings.class_rows() if row[2]]
        wrong = sorted(rows, key=lambda row: (-row[2] / row[1], row[0]))
        if not confusions:
            return ""
        rows = "".join(f'<tr><td>{escape(names[a])}</td><td class="text">{escape(names[b])}</td><td>{count}</td></tr>'
                       for a, b, count in confusions)
        classes = "".join(f"<tr><td>{escape(names[label])}</td><td>{number:,}</td><td>{bad:,}</td>"
                          f"<td>{100 * bad / number:.0f} %</td></tr>" for label, number, bad, _ in wrong)
        return ('<h2>Which classes are confused</h2>\n<table><thead><tr><th>labelled</th><th class="text">probably is'
                f"</th><th>objects</th></tr></thead><tbody>{rows}</tbody></table>\n"
                f"<details><summary>The {len(wrong)} classes with such labels</summary><table><thead><tr><th>class</th>"
                f"<th>objects</th><th>probably wrong</th><th>share</th></tr></thead><tbody>{classes}</tbody></table>"
                "</details>")

    def _images(self) -> str:
        cards = []
        for group in self.findings.images[:self.show]:
            strip = "".join(_image(self.pictures.whole(i), self.files[i]) for i in group.image_ids)
            files = " · ".join(escape(f"{self.files[i]} (id {i})") for i in group.image_ids)
            turned = ", one is mirrored" if group.mirrored else ""
            cards.append(f'<div class="strip tall">{strip}</div><div class="meta">{files}</div><div class="meta">'
                         f"{group.shared} objects in common, correlation {group.correlation:.2f}{turned}</div>")
        note = ("Images that share objects at the same places, and whose grey pictures agree. Beware of those that are "
                f"in both training and evaluation. {_first(len(cards), len(self.findings.images))}")
        return _section("Duplicate images", note, cards, "card")

    def _same_objects(self) -> str:
        if not self.findings.same_objects:
            return ""
        cards = []
        for group in self.findings.same_objects[:self.show]:
            rows = group.rows[:2 * EXAMPLES]
            names = sorted({self.objects.names[self.objects.labels[row]] for row in group.rows})
            cards.append(f"<p>{escape(', '.join(names))}</p>{self._strip(rows)}<div class=\"meta\">"
                         + " · ".join(self._where(row) for row in rows) + "</div>")
        note = ("The same pixels in images that are not duplicates. "
                f"{_first(len(cards), len(self.findings.same_objects))}")
        return _section("Objects that occur in several images", note, cards, "card")

    def _doubles(self) -> str:
        objects, cards = self.objects, []
        for double in self.findings.doubles[:self.show]:
            first, second = double.rows
            boxes = [(objects.boxes[first], RIGHT), (objects.boxes[second], WRONG)]
            picture = _image(self.pictures.crop(int(objects.image_ids[first]), boxes, 220), "two boxes")
            names = [escape(objects.names[objects.labels[row]]) for row in double.rows]
            said = f"<p>{names[0]}, twice</p>" if names[0] == names[1] else (
                f'<p><span class="right">{names[0]}</span> <span class="label">or</span> '
                f'<span class="wrong">{names[1]}</span></p>')
            ids = " and ".join(str(objects.annotation_ids[row]) for row in double.rows)
            cards.append(f'<div class="suspect">{picture}<div>{said}<div class="meta">annotations {ids}, IoU '
                         f"{double.iou:.2f}</div><div class=\"meta\">{self._file(first)}</div></div></div>")
        note = f"Two boxes of an image at one place. {_first(len(cards), len(self.findings.doubles))}"
        return _section("Boxes drawn twice", note, cards, "card")

    def _missing(self) -> str:
        if self.findings.missing is None:
            return ""
        cards = []
        for one in self.findings.missing[:self.show]:
            picture = _image(self.pictures.crop(one.image_id, [(one.box, RIGHT)], 220), "a proposal")
            cards.append(
                f'<div class="suspect">{picture}<div><p><span class="label">looks like</span> <span class="right">'
                f"{escape(self.objects.names[one.label])}</span></p>{self._strip([one.neighbour])}"
                f'<div class="meta">score {100 * one.score:.0f}, {escape(self.files[one.image_id])}</div></div></div>')
        note = ("Proposals that look like annotated objects of a class and overlap none. "
                f"{_first(len(cards), len(self.findings.missing))}")
        return _section("Objects perhaps without annotation", note, cards, "card")

    def _strip(self, rows: Sequence[int]) -> str:
        return f'<div class="strip">{"".join(self._crop(row, PLAIN, 80) for row in rows)}</div>' if rows else ""

    def _crop(self, row: int, colour: tuple[int, int, int], height: int) -> str:
        content = self.pictures.crop(int(self.objects.image_ids[row]), [(self.objects.boxes[row], colour)], height)
        return _image(content, self.objects.names[self.objects.labels[row]])

    def _where(self, row: int) -> str:
        return f"{self._file(row)}, annotation {self.objects.annotation_ids[row]}"

    def _file(self, row: int) -> str:
        return escape(self.files[int(self.objects.image_ids[row])])


def _typical_rows(findings: Findings) -> dict[int, list[int]]:
    """Of every class the objects that are surest of their label."""
    labels, given = findings.objects.labels, np.nan_to_num(findings.labels.given, nan=-1.0)
    order = np.lexsort((-given, labels))
    starts = np.flatnonzero(np.diff(labels[order], prepend=-1))
    return {int(labels[order[start]]): order[start:end][:EXAMPLES].tolist()
            for start, end in zip(starts, [*starts[1:], len(order)])}


def _section(title: str, note: str, cards: Sequence[str], kind: str, empty: str = "None were found.") -> str:
    body = "".join(f'<div class="{kind}">{card}</div>' for card in cards)
    return (f'<h2>{title}</h2>\n<p class="note">{note if cards else empty}</p>'
            + (f'\n<div class="cards">{body}</div>' if cards else ""))


def _first(shown: int, total: int) -> str:
    return f"The first {shown:,} of {total:,}; report.json has all." if shown < total else ""


def _settings(settings: Sequence[tuple[str, str]]) -> str:
    rows = "".join(f'<tr><td>{escape(name)}</td><td class="text">{escape(value)}</td></tr>' for name, value in settings)
    return f"<h2>Settings</h2>\n<table><tbody>{rows}</tbody></table>"


def _image(content: bytes, text: str) -> str:
    return f'<img alt="{escape(text)}" src="data:image/jpeg;base64,{base64.b64encode(content).decode()}">'
