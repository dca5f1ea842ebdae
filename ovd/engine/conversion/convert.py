"""The conversion itself, of tensors in memory."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from ovd.engine.conversion import resnet
from ovd.engine.conversion.layouts import LAYOUTS, Layout, get_layout, reason
from ovd.engine.conversion.report import ConversionRefused, ConversionReport
from ovd.errors import UserError

BACKBONE = "backbone."


@dataclass(frozen=True)
class Wanted:
    """A tensor of the model that is to load the result."""

    shape: tuple[int, ...]
    is_counter: bool = False  # counts batches or steps, and begins at 0


def convert_weights(weights: Mapping[str, Tensor], source_layout: str, target_layout: str, *,
                    wanted: Mapping[str, Wanted] | None = None, allow_partial: bool = False,
                    names: tuple[str, str] = ("source", "target")) -> tuple[dict[str, Tensor], ConversionReport]:
    """Rename tensors from one key layout to another; their values stay what they are, to the bit.

    A backbone is checked against the plain ResNet of its depth: names, number and shapes.

    Args:
        weights: name -> tensor.
        source_layout, target_layout: keys of :data:`~ovd.engine.conversion.layouts.LAYOUTS`.
        wanted: the tensors of the model that is to load the result, by *our* names.
        allow_partial: convert what fits, where otherwise nothing would be.
        names: of the files, for the report.

    Raises:
        ConversionRefused: tensors are missing, unexpected or of another shape (with the report).
        UserError: another architecture; a layout that cannot be written.
    """
    source, target = get_layout(source_layout), get_layout(target_layout)
    if not target.writable:
        raise UserError(f"the layout {target_layout} is only read, not written: {target.about}")
    report = ConversionReport(*names, (source_layout, target_layout))
    ours = _Tensors(weights, source, report)
    if source.one_mask_head and not target.one_mask_head:
        ours.drop_shared_masks()
    ours.limit_sizes(target)
    ours.check_backbone()
    if wanted is not None:
        ours.fit(_in_scope(wanted, target))
    result = ours.spell(target)
    if not report.matched:
        raise ConversionRefused(f"{names[0]}: no tensor of it fits the layout {source_layout}"
                                f"{_looks_like(weights, source_layout)}", report)
    if not (report.is_whole or allow_partial):
        problems = ", ".join(f"{count} {what.replace('_', ' ')}" for what, count in report.counts.items()
                             if count and what in ("missing", "unexpected", "shape_errors"))
        raise ConversionRefused(
            f"{names[0]}: not converted, because not all of it fits ({problems}; the report above names them)"
            f"{_looks_like(weights, source_layout)}; pass --allow-partial to take what fits", report)
    return result, report


class _Tensors:
    """Tensors by our names, with the names that they have in the source.

    Attributes:
        values, origin: tensor and the source's names of it, by our name.
        missing: our names of what there should be.
        misshapen: our names of what was there, in another shape.
    """

    def __init__(self, weights: Mapping[str, Tensor], layout: Layout, report: ConversionReport) -> None:
        self.report = report
        self.values: dict[str, Tensor] = {}
        self.origin: dict[str, tuple[str, ...]] = {}
        self.missing: list[str] = []
        self.misshapen: set[str] = set()
        cut, outside = cut_prefixes(weights, layout)
        for name in (*weights, *cut.values()):
            if why := reason(layout.refused, name):
                raise UserError(f"{report.source}: {why} (its tensor {name})")
        spelled = layout.spell(cut.values()) if layout.spell else {name: name for name in cut.values()}
        table = {spelled[name]: raw for raw, name in cut.items()}
        whole = [whole for whole in layout.computed if all(part in table for part in whole.theirs)]
        parts = [tuple(table.pop(part) for part in each.theirs) for each in whole]
        for name, raw in table.items():
            if (ours := layout.to_ours(name)) is not None:
                self._put(ours, weights[raw], (raw,))
            else:
                self._leave((raw,), reason(layout.left_out, name) or reason(layout.left_out, raw))
        for each, raw in zip(whole, parts):
            value = each.to_ours(*(weights[name] for name in raw))
            for name in each.names(self._stages()):
                self._put(name, value.clone(), raw)
        for raw in outside:
            self._leave((raw,), reason(layout.left_out, raw))
        for name, value in (layout.added(self.values) if layout.added else {}).items():
            self._put(name, value, ())

    def _stages(self) -> list[int]:
        """Stages of a cascade's box heads; none of a detector without a cascade."""
        matches = (re.match(r"roi_head\.bbox_head\.(\d+)\.", name) for name in self.values)
        return sorted({int(match[1]) for match in matches if match})

    def _put(self, name: str, value: Tensor, raw: tuple[str, ...]) -> None:
        if name in self.values:
            raise UserError(f"{self.report.source}: {' and '.join((*self.origin[name], *raw))} would be one tensor")
        self.values[name], self.origin[name] = value, raw

    def _leave(self, raw: tuple[str, ...], why: str | None) -> None:
        """Report tensors that are not converted, because of ``why`` or because nothing knows them."""
        if why is None:
            self.report.unexpected += raw
        else:
            self.report.left_out.update(dict.fromkeys(raw, why))

    def _drop(self, name: str, why: str | None = None) -> None:
        del self.values[name]
        self._leave(self.origin.pop(name), why)

    def _drop_misshapen(self, name: str, problem: str) -> None:
        self.misshapen.add(name)
        found = f"{list(self.values.pop(name).shape)}, {problem}"
        self.report.shape_errors.update(dict.fromkeys(self.origin.pop(name), found))

    def drop_shared_masks(self) -> None:
        """Take out the mask head that the stages of a cascade share: three heads, whose masks are averaged, are other
        than one."""
        for name in [name for name in self.values if name.startswith("roi_head.mask_head.")]:
            if self._stages():
                self._drop(name)

    def limit_sizes(self, target: Layout) -> None:
        """Take out what has more classes than the target layout."""
        for name, value in list(self.values.items()):
            for pattern, (size, why) in target.sizes.items():
                if fnmatchcase(name, pattern) and value.shape[0] != size:
                    self._drop_misshapen(name, f"of {value.shape[0] // size} classes: {why}")

    def check_backbone(self) -> None:
        """Compare the backbone with the plain ResNet of its depth."""
        shapes = {name.removeprefix(BACKBONE): tuple(value.shape) for name, value in self.values.items()
                  if name.startswith(BACKBONE)}
        if not shapes:
            return
        network = resnet.recognise(shapes, self.report.source)
        expected = network.shapes
        for name, shape in shapes.items():
            if name not in expected:
                self._drop(BACKBONE + name)
            elif shape != expected[name]:
                self._drop_misshapen(BACKBONE + name, f"in a ResNet-{network.depth} {list(expected[name])}")
        self.missing = [BACKBONE + name for name in expected if name not in shapes]
        self.report.backbone = (
            f"ResNet-{network.depth}{f' of width {network.width}' if network.width != 64 else ''}, "
            f"{sum(shapes.get(name) == shape for name, shape in expected.items())} of {len(expected)} tensors"
            f"{'' if network.counters else ', without batch counters'}")

    def fit(self, wanted: Mapping[str, Wanted]) -> None:
        """Compare with the model that is to load the result; counters that are missing begin at 0."""
        for name, value in list(self.values.items()):
            if name not in wanted:
                self._drop(name)
            elif tuple(value.shape) != wanted[name].shape:
                self._drop_misshapen(name, f"the model's {list(wanted[name].shape)}")
        self.missing = []
        for name, tensor in wanted.items():
            if name in self.values or name in self.misshapen:
                continue
            layer = name.rpartition(".")[0] + ".weight"
            if tensor.is_counter and (layer not in wanted or layer in self.values):
                self._put(name, torch.zeros(tensor.shape, dtype=torch.long), ())
            else:
                self.missing.append(name)

    def spell(self, layout: Layout) -> dict[str, Tensor]:
        """The tensors by the names of ``layout``, and the rest of the report."""
        stages = self._stages()
        computed = {name: whole for whole in layout.computed for name in whole.names(stages)
                    if self._are_equal(whole.names(stages))}
        table: dict[str, Tensor] = {}
        goes_to: dict[str, tuple[str, ...]] = {}  # our name -> theirs
        for name, value in list(self.values.items()):
            if (theirs := layout.to_theirs(name)) is not None:
                table[theirs], goes_to[name] = value, (theirs,)
            elif name in computed:
                table |= zip(computed[name].theirs, computed[name].to_theirs(value))
                goes_to[name] = computed[name].theirs
            else:
                self._drop(name, reason(layout.no_place, name))
        final = layout.unspell(table) if layout.unspell else {name: name for name in table}
        for name, theirs in goes_to.items():
            for raw in self.origin[name]:
                self.report.matched.setdefault(raw, []).extend(final[part] for part in theirs)
            if not self.origin[name]:
                self.report.filled += [final[part] for part in theirs]
        self.report.missing += [layout.to_theirs(name) or name for name in self.missing]
        return {final[theirs]: value for theirs, value in table.items()}

    def _are_equal(self, names: Iterable[str]) -> bool:
        """Whether a tensor that a layout has once is the same under all of our names of it."""
        values = [self.values[name] for name in names if name in self.values]
        return all(torch.equal(value, values[0]) for value in values)


def cut_prefixes(names: Iterable[str], layout: Layout) -> tuple[dict[str, str], list[str]]:
    """Cut each of the layout's prefixes that any name has, in order, unless names without it are in the table.

    Returns:
        name -> what is left of it, and the names that lack a prefix which others have.
    """
    kept, outside = {name: name for name in names}, []
    for prefix in layout.prefixes:
        having = [name for name in kept.values() if name.startswith(prefix)]
        if having and not any(layout.knows(name) for name in kept.values() if not name.startswith(prefix)):
            outside += [raw for raw, name in kept.items() if not name.startswith(prefix)]
            kept = {raw: name.removeprefix(prefix) for raw, name in kept.items() if name.startswith(prefix)}
    return kept, outside


def _in_scope(wanted: Mapping[str, Wanted], layout: Layout) -> dict[str, Wanted]:
    """What of a model a layout is about: a backbone's layout says nothing of heads."""
    parts = {rule.ours.partition(".")[0] for rule in layout.rules}
    return {name: tensor for name, tensor in wanted.items() if name.partition(".")[0] in parts}


def _looks_like(names: Iterable[str], given: str) -> str:
    """A hint when the names fit another layout better."""
    names = list(names)
    fits = Counter()
    for key, layout in LAYOUTS.items():
        cut, _ = cut_prefixes(names, layout)
        spelled = layout.spell(cut.values()) if layout.spell else {name: name for name in cut.values()}
        computed = {part for whole in layout.computed for part in whole.theirs}
        fits[key] = sum(layout.to_ours(name) is not None or name in computed for name in spelled.values())
    best, count = fits.most_common(1)[0]
    return f"; the names look like those of {best}" if count > fits[given] else ""
