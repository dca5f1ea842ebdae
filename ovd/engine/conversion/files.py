"""Converting files: read, compare with the config that is to use the result, write with a record of the origin."""

import json
import os
import pickle
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from ovd.engine.conversion import conventions
from ovd.engine.conversion.conventions import CHANNELS, STYLES, Convention
from ovd.engine.conversion.convert import convert_weights
from ovd.engine.conversion.layouts import get_layout
from ovd.engine.conversion.report import ConversionRefused, ConversionReport
from ovd.engine.conversion.sources import METADATA, Source, read_source
from ovd.engine.marks import FLAG, marked
from ovd.errors import UserError, nearest
from ovd.stores.atomic import write_bytes
from ovd.stores.manifest import Manifest, canonical_json, current_or_remove, fingerprint, fingerprint_json, publish

STAGE = "convert-checkpoint"
KIND = "checkpoint"
SUFFIXES = (".safetensors", ".pth", ".pkl")


@dataclass(frozen=True)
class Origin:
    """What a user says about the source.

    Attributes:
        entry: key under which the tensors are, where it is not the usual (``"model_ema"``).
        style: ``"pytorch"`` or ``"caffe"``, where the file does not tell.
        channels: ``"rgb"`` or ``"bgr"``, likewise.
    """

    entry: str | None = None
    style: str | None = None
    channels: str | None = None

    def __post_init__(self) -> None:
        for value, known in ((self.style, STYLES), (self.channels, CHANNELS)):
            if value is not None and value not in known:
                raise UserError(f"{value!r} is none of {', '.join(known)}{nearest(value, known)}")


def convert_checkpoint(source: str | os.PathLike, target: str | os.PathLike, layouts: tuple[str, str], *,
                       config: str | os.PathLike | None = None, options: Iterable[str] = (),
                       origin: Origin = Origin(), allow_partial: bool = False, allow_style_mismatch: bool = False,
                       report_file: str | os.PathLike | None = None, overwrite: bool = False) -> ConversionReport:
    """Convert a file from one key layout to another.

    Args:
        source: see :func:`~ovd.engine.conversion.sources.read_source`.
        target: ``.safetensors``, ``.pth`` (a checkpoint with ``state_dict``), or ``.pkl`` for detectron2.
        layouts: of source and target.
        config: of the model that is to load the result; names, shapes, style and image format are compared with it.
        options: changes of the config, as after ``--cfg-options``.
        allow_partial: convert what fits.
        allow_style_mismatch: convert although the config uses the backbone in another way than it was trained.
        report_file: json file for the report, written also when the conversion is refused.
        overwrite: replace a target that is there.

    Raises:
        ConversionRefused: something does not fit (with the report).
        UserError: wrong input.
    """
    target = Path(target)
    if target.suffix not in SUFFIXES:
        raise UserError(f"{target}: write one of {', '.join(SUFFIXES)}")
    if target.suffix == ".pkl" and layouts[1] != "detectron2":
        raise UserError(f"{target}: pickles are for detectron2; write .safetensors or .pth")
    layout = get_layout(layouts[0])
    get_layout(layouts[1])
    loaded = read_source(source, origin.entry)
    if target.resolve() == loaded.path.resolve():
        raise UserError(f"{target}: is the source; write another file")
    style = conventions.of_source(
        loaded.path, loaded.texts, loaded.recorded, conventions.MSRA_BGR if _is_zoo(loaded) else layout.convention,
        layout.usual, origin.style, origin.channels)
    wanted, asked = _config(config, options)
    problems = [] if asked is None else style.differences(asked)
    report = None
    try:
        weights, report = convert_weights(loaded.weights, *layouts, wanted=wanted, allow_partial=allow_partial,
                                          names=(os.fspath(source), os.fspath(target)))
        _describe(report, loaded, style, problems, allow_style_mismatch)
        if report.backbone and problems and not allow_style_mismatch:
            raise _mismatch(report, problems, config)
    except ConversionRefused as error:
        if report is None:
            report = error.report
            _describe(report, loaded, style, problems, allow_style_mismatch)
        raise
    finally:
        if report is not None and report_file is not None:
            write_bytes(report_file, (json.dumps(report.to_json(), indent=1) + "\n").encode())
    inputs = {"checkpoint": fingerprint(source)}
    if wanted is not None:
        inputs["model"] = fingerprint_json({name: [*tensor.shape] for name, tensor in wanted.items()})
    choice = {"layouts": layouts, "convention": report.convention, "entry": origin.entry,
              "allow_partial": allow_partial}
    if current_or_remove(target, STAGE, choice, inputs, overwrite):
        report.notes.append("up to date, not written again")
        return report
    manifest = Manifest(KIND, STAGE, choice, inputs, counts=report.counts)
    manifest.flags = {FLAG: True} if marked([source]) else {}
    manifest.skipped = [{"tensor": name, "why": why} for name, why in (
        *report.left_out.items(), *report.shape_errors.items(), *((name, "unexpected") for name in report.unexpected))]
    record = canonical_json({"from": layouts[0], "to": layouts[1], "source": loaded.path.name,
                             "sha256": inputs["checkpoint"].removeprefix("sha256:"), "backbone": report.backbone,
                             **(asked.record() if problems else report.convention)})  # accepted: as the config has it
    with publish(target, manifest) as (temporary, _):
        _write(temporary, weights, record)
    return report


def _config(path: str | os.PathLike | None, options: Iterable[str]) -> tuple[dict | None, Convention | None]:
    if path is None:
        return None, None
    from ovd.engine.config import load_config, resolve_types
    from ovd.engine.conversion.targets import wanted_by

    cfg = load_config(path, options)
    resolve_types(cfg)
    asked = conventions.of_config(cfg.model)
    return wanted_by(cfg), asked


def _is_zoo(source: Source) -> bool:
    """Whether a pickle is of detectron2's model zoo with frozen normalisation: those start from MSRA's weights."""
    frozen = not any(name.endswith("num_batches_tracked") for name in source.weights)
    return source.author in ("Detectron2 Model Zoo", "Caffe2") and frozen


def _describe(report: ConversionReport, source: Source, style: Convention, problems: list[str], accept: bool) -> None:
    report.left_out.update({name: f"no tensor but a {kind}" for name, kind in source.others.items()})
    if not report.backbone:
        return
    report.convention = style.record()
    report.notes.append(f"backbone: {style}")
    report.notes += [f"{'accepted' if accept else 'not as in the config'}: {problem}" for problem in problems]
    if style.style is None:
        report.notes.append("say --style pytorch or caffe, and --images rgb or bgr: the tensors do not tell")
    elif report.layouts[1] == "detectron2":
        settings = f"MODEL.RESNETS.STRIDE_IN_1X1 {style.style == 'caffe'}"
        if style.channels and style.mean and style.std:
            settings += (f" INPUT.FORMAT {style.channels.upper()} MODEL.PIXEL_MEAN {list(style.mean)} "
                         f"MODEL.PIXEL_STD {list(style.std)}")
        report.notes.append(f"detectron2 settings: {settings}")


def _mismatch(report: ConversionReport, problems: list[str], config: str | os.PathLike | None) -> ConversionRefused:
    return ConversionRefused(
        f"{report.source}: {'; '.join(problems)} ({config}). The weights would load and compute something else: set "
        "backbone.style and data_preprocessor to what they were trained with, say what they are with --style and "
        "--images if that is not so, or pass --allow-style-mismatch", report)


def _write(path: Path, weights: dict[str, Tensor], record: str) -> None:
    weights = {name: value.contiguous().clone() for name, value in weights.items()}
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(weights, path, metadata={METADATA: record})
    elif path.suffix == ".pth":
        torch.save({"state_dict": weights, "meta": {METADATA: record}}, path)
    else:
        for name, value in weights.items():
            if value.dtype == torch.bfloat16:
                raise UserError(f"{name} is bfloat16, which numpy's arrays cannot be; write .pth")
        contents: dict[str, Any] = {"model": {name: value.numpy() for name, value in weights.items()},
                                    "__author__": f"ovd {STAGE}", "matching_heuristics": True, METADATA: record}
        path.write_bytes(pickle.dumps(contents, protocol=4))
