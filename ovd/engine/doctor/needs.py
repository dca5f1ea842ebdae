"""What a config reads: whether it is there and fits together, and the commands that make what is not.

The commands are in the order in which they are to be run; each makes something that a later one, or the config, needs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmengine.config import Config

from ovd.data.annotations import image_path, load_images
from ovd.engine.config import load_config, walk
from ovd.engine.doctor.data import (
    count_images,
    look_at_annotations,
    look_at_head,
    look_at_registry,
    look_at_store,
    safely,
)
from ovd.engine.doctor.findings import Finding
from ovd.engine.doctor.makers import Makers
from ovd.engine.preflight import (
    REMEDIES,
    STORES,
    Input,
    check_class_heads,
    check_crops,
    check_inputs,
    find_inputs,
)
from ovd.errors import UserError
from ovd.shipped import located

SECTIONS = ("model", "train_dataloader", "val_dataloader", "test_dataloader", "test_evaluator")
TESTED = ("model", "test_dataloader", "test_evaluator")  # what a trained detector is tested with
LABELS = {"ann_file": "annotations", "region_store": "region store", "block_store": "block store",
          "global_store": "global store", "class_head": "class head", "load_from": "start", "checkpoint": "weights",
          "pretrained": "weights"}


@dataclass
class Needs:
    """What a config needs.

    Attributes:
        findings: one of each input.
        commands: what makes those that are missing.
    """

    findings: list[Finding] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)


def look_at_config(path: str | Path, data_root: str | Path | None = None,
                   made_elsewhere: Sequence[str | Path] = (), options: Sequence[str] = (),
                   sections: Sequence[str] = SECTIONS) -> Needs:
    """Look at all that a config reads.

    Args:
        made_elsewhere: files and folders that something else will make (the stages of a recipe): not missing.
        options: changes of the config, as after ``--cfg-options``.
        sections: only what these read; without that of training, no checkpoint to start from is needed.
    """
    try:
        cfg = load_config(path, options, data_root)
        inputs = [entry for entry in find_inputs(cfg, tuple(sections))
                  if entry.kind != "load_from" or "train_dataloader" in sections]
    except Exception as error:  # a config is the user's code, and may name classes that cannot be imported
        return Needs([Finding(Path(path).name, str(error) or type(error).__name__, "broken")])
    needs, makers = Needs(), Makers(cfg, located(path), data_root)
    absent: list[Input] = []
    for entry in inputs:
        finding = _input(entry, made_elsewhere)
        needs.findings.append(finding)
        if finding.state == "missing":
            absent.append(entry)
    needs.findings += list(_images(cfg, made_elsewhere))
    needs.findings += list(_fetched(cfg))
    needs.commands = makers.commands(absent, any(f.name.endswith("images") and f.state == "missing"
                                                 for f in needs.findings))
    for finding in needs.findings:
        if finding.state == "missing" and not finding.remedy:
            made = makers.of(finding.facts["kind"], Path(finding.facts["path"]))  # what it needs comes before it
            finding.remedy = made[-1].removeprefix("# ") if made else \
                REMEDIES.get(finding.facts["kind"], "see the docstring of the config")
    if sections and all(entry.path.exists() for entry in inputs) and not any(f.is_bad for f in needs.findings):
        needs.findings.append(_together(cfg, inputs))
    return needs


def _input(entry: Input, made_elsewhere: Sequence[str | Path]) -> Finding:
    """One file or folder that the config reads."""
    name, where = LABELS.get(entry.kind, entry.kind), f"{entry.path}: "
    facts = {"kind": entry.kind, "path": str(entry.path), "key": entry.key}
    if not entry.path.exists():
        if any(_is_below(entry.path, Path(other)) for other in made_elsewhere):
            return Finding(name, f"{where}is made by an earlier stage", facts=facts)
        return Finding(name, f"{where}is not there", "missing", facts=facts)
    if entry.kind == "ann_file":
        found = safely(look_at_annotations, entry.path)
    elif entry.kind in STORES:
        found = safely(look_at_store, entry.path)
        if found.state == "note":  # unfinished
            found.state = "missing"
    elif entry.kind == "class_head":
        found = safely(look_at_registry if entry.path.is_dir() else look_at_head, entry.path)
    else:
        found = Finding(name, "is there")
    return Finding(name, where + found.text, found.state, found.remedy if found.state == "broken" else "",
                   {**found.facts, **facts})


def _is_below(path: Path, folder: Path) -> bool:
    return path.absolute() == folder.absolute() or folder.absolute() in path.absolute().parents


def _images(cfg: Config, made_elsewhere: Sequence[str | Path]) -> Iterator[Finding]:
    """Whether the images of each annotation file are there, by name."""
    root = Path(cfg.get("data_root") or "")
    for subset in ("train", "val"):
        ann_file, prefix = cfg.get(f"{subset}_ann"), cfg.get(f"{subset}_prefix")
        if not isinstance(ann_file, str) or not isinstance(prefix, str):
            continue
        folder, name = root / prefix, f"{subset} images"
        if not folder.is_dir():
            made = any(_is_below(folder, Path(other)) for other in made_elsewhere)
            yield Finding(name, f"{folder}: is made by an earlier stage" if made else f"{folder}: is not there",
                          "ok" if made else "missing", facts={"kind": "images", "path": str(folder)})
            continue
        try:
            images = load_images(root / ann_file)
        except UserError:
            yield Finding(name, f"{folder}: {count_images(folder):,} images")
            continue
        wanted = [image_path(image, folder) for image in images]
        there = {parent: {file.name for file in parent.iterdir()} if parent.is_dir() else set()
                 for parent in {path.parent for path in wanted}}
        absent = [path for path in wanted if path.name not in there[path.parent]]
        text = f"{folder}: {len(wanted) - len(absent):,} of the {len(wanted):,} images of {Path(ann_file).name}"
        yield Finding(name, text + (f"; {absent[0].name} is not there" if absent else ""),
                      "missing" if absent else "ok", "fetch the images again, or correct the prefix in the config" if
                      absent else "", {"kind": "images", "path": str(folder), "images": len(wanted),
                                       "absent": len(absent)})


def _fetched(cfg: Config) -> Iterator[Finding]:
    """Weights that are fetched when they are first needed."""
    pretrained = (cfg.get("regions") or {}).get("pretrained")
    if pretrained == "shapes" or (isinstance(pretrained, str) and Path(pretrained).is_file()):
        yield Finding(f"CLIP {pretrained}", "is there", facts={"kind": "clip", "path": pretrained})
    elif isinstance(pretrained, str):
        there = Path(pretrained).suffix not in (".pt", ".pth", ".safetensors", ".bin")
        yield Finding(f"CLIP {pretrained}", "fetched by open_clip when it is first needed; without a network, fetch "
                      "the file elsewhere and pass --pretrained FILE" if there else "is not there",
                      "note" if there else "missing", "" if there else
                      "fetch it, or name another with --pretrained", {"kind": "clip", "path": pretrained})
    for where, part in walk(cfg.get("model") or {}, "model"):
        value = part.get("checkpoint")
        if isinstance(value, str) and value.startswith("torchvision://"):
            name = value.removeprefix("torchvision://")
            cached = any((Path.home() / ".cache" / "torch" / "hub" / "checkpoints").glob(f"{name}-*.pth"))
            yield Finding(f"{name} of torchvision", "is in torch's cache" if cached else f"fetched by torch when "
                          f"training begins ({where}.checkpoint); without a network, fetch the file elsewhere and name "
                          "it there", "ok" if cached else "note")


def _together(cfg: Config, inputs: list[Input]) -> Finding:
    """Whether the inputs are of one CLIP, one width and one crop recipe, and the class head has all classes."""
    try:
        check_inputs(inputs)
        check_crops(cfg, inputs)
        check_class_heads(cfg.get("model") or {})
    except Exception as error:  # of files that are broken in ways that a first look does not see
        return Finding("together", str(error) or type(error).__name__, "broken")
    return Finding("together", "all inputs are there and fit together")
