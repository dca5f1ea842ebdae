"""What is installed, what the machine has, what data is there; what a config or recipe lacks, and what makes that.

  ovd doctor                                    versions, devices, operators, disk, data
  ovd doctor configs/vild/vild_r50_fpn_coco_48_17.py --data-root /data/coco
  ovd doctor configs/recipes/demo.py --json

Broken files are findings, not errors. Ends with status 1 when the installation does not work, or when something that a
config or recipe on the command line needs is missing or broken; the commands that make it are printed in their order.
"""

import argparse
import contextlib
import json
import re
import shutil
import sys
import textwrap
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovd.errors import UserError
from ovd.shipped import CONFIGS, PRETRAINED, located, shown

if TYPE_CHECKING:
    from ovd.engine.doctor.findings import Finding
    from pipelines.running.recipe_file import Recipe, Stage

RECIPES = CONFIGS / "recipes"
LARGE = 64e6  # bytes of weights that are loaded only with --deep
MARKS = {"ok": "ok", "note": "note", "missing": "MISSING", "broken": "BROKEN"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``tools/doctor.py``."""
    parser.add_argument("files", nargs="*", metavar="RECIPE|CONFIG", help="say what these need and do not have")
    parser.add_argument("--data-root", metavar="D", help="a dataset, or a folder of datasets (default: data); for a "
                        "config, instead of its data_root")
    parser.add_argument("--work-dir", metavar="D", help="of a recipe, instead of its own")
    parser.add_argument("--deep", action="store_true", help="read every byte of stores, annotation files of any size, "
                        "and large weights; takes long")
    parser.add_argument("--json", action="store_true", help="print all of it as json")


def run(args: argparse.Namespace) -> int:
    """Entry point of ``tools/doctor.py`` and ``ovd doctor``."""
    with contextlib.redirect_stdout(sys.stderr):  # libraries print when they are imported
        report = examine(args.files, data_root=args.data_root, work_dir=args.work_dir, deep=args.deep)
    if args.json:
        print(json.dumps({"ok": report.is_well, "commands": report.commands, "sections": {
            title: [one.to_json() for one in findings] for title, findings in report.sections.items()}}, indent=1))
    else:
        report.show()
    return 0 if report.is_well else 1


class Report:
    """Findings in sections; those of ``asked`` sections decide whether all is well."""

    def __init__(self) -> None:
        self.sections: dict[str, list[Finding]] = {}
        self.asked: set[str] = set()
        self.commands: list[str] = []

    def add(self, title: str, findings: "Sequence[Finding]", asked: bool = False) -> None:
        """Add a section, or to one; ``asked``: what is bad in it is a failure."""
        self.sections.setdefault(title, []).extend(findings)
        if asked:
            self.asked.add(title)

    @property
    def is_well(self) -> bool:
        """Whether nothing that was asked for is missing or broken."""
        return not any(one.is_bad for title in self.asked for one in self.sections[title])

    def show(self) -> None:
        """Print it for people."""
        columns = max(80, shutil.get_terminal_size((120, 24)).columns)
        for title, findings in self.sections.items():
            if not findings:
                continue
            print(title)
            width = min(max(len(one.name) for one in findings), columns // 3)
            margin = " " * (13 + width)
            for one in findings:
                first = f"  {MARKS[one.state]:<7}  {one.name:<{width}}  "
                print(textwrap.fill(one.text, columns, initial_indent=first, subsequent_indent=margin,
                                    break_long_words=False, break_on_hyphens=False))
                if one.remedy and one.state != "ok":
                    print(f"{margin}-> {one.remedy}")  # in one piece, to be copied
        if self.commands:
            print("what makes all that is missing, in this order:")
            for command in self.commands:
                print(f"  {command}")
        bad = [one for title in self.asked for one in self.sections[title] if one.is_bad]
        told = sum(one.is_bad for findings in self.sections.values() for one in findings) - len(bad)
        noted = f"; {told} other{'s' * (told > 1)} above {'is' if told == 1 else 'are'} broken" if told else ""
        print(f"{len(bad)} {'thing is' if len(bad) == 1 else 'things are'} missing or broken{noted}" if bad or told
              else "all is well")


def examine(files: Sequence[str | Path] = (), *, data_root: str | Path | None = None,
            work_dir: str | Path | None = None, deep: bool = False) -> Report:
    """Look at everything.

    Args:
        files: Configs and recipes whose needs are looked at.
        data_root: A dataset or a folder of some; for configs, their dataset.
        work_dir: Of recipes.
        deep: Read what takes long, too.
    """
    from ovd.engine.doctor.data import look_at_data, look_at_weights
    from ovd.engine.doctor.downloads import look_at_downloads
    from ovd.engine.doctor.machine import Probe, devices, memory_and_disk, operators
    from ovd.engine.doctor.packages import look_at_packages

    report = Report()
    weights = look_at_weights(PRETRAINED)
    probe = Probe([str(path) for path in weights if deep or path.stat().st_size <= LARGE])  # beside what follows
    report.add("packages", look_at_packages(), asked=True)
    found = look_at_data(data_root or "data", deep)
    disks = memory_and_disk([data_root or "data", "work_dirs"])
    needs = [(str(file), *_needs(Path(file), data_root, work_dir)) for file in files]
    probed = probe.result()
    report.add("devices", [*devices(probed["machine"]), *disks], asked=True)
    report.add("operators", operators(probed["machine"]), asked=True)
    known = probed["clips"]
    report.add("pretrained weights", _weights(weights, known, found))
    report.add("public weights", look_at_downloads())
    for folder, findings in found.items():
        report.add(f"data in {folder}", findings)
    if not files:
        report.add("recipes", _recipes())
    for file, findings, commands in needs:
        report.add(f"for {file}", [*findings, *_other_clips(findings, known)], asked=True)
        report.commands += [command for command in commands if command not in report.commands]
    return report


def _weights(paths: Sequence[Path], known: dict[str, Any], data: "dict[str, list[Finding]]") -> "list[Finding]":
    """Weights files: which CLIP each is, and what was made with it."""
    from ovd.engine.doctor.data import described_file
    from ovd.engine.doctor.findings import Finding, short, size

    if not paths:
        return [Finding(PRETRAINED.name, "no weights; CLIP's are fetched when they are first needed", "note")]
    made_with: dict[str, list[str]] = {}
    for folder, findings in data.items():
        for one in findings:
            if one.facts.get("clip"):
                made_with.setdefault(one.facts["clip"], []).append(f"{folder}/{one.name}")
    result = []
    for path in paths:
        facts = known.get(str(path), {} if "error" not in known else {"error": known["error"]})
        length = size(path.stat().st_size)
        if "does not say which model" in facts.get("error", ""):
            result.append(described_file(path))
        elif "error" in facts:
            result.append(Finding(path.name, facts["error"].removeprefix("UserError: ").removeprefix(f"{path}: "),
                                  "broken", "fetch it again", facts))
        elif not facts:
            result.append(Finding(path.name, f"weights, {length} (not loaded: --deep loads them)"))
        else:
            fits = made_with.pop(facts["fingerprint"], [])
            result.append(Finding(path.name, f"CLIP {short(facts['fingerprint'])}, {facts['width']} wide, "
                                  f"{facts['side']} pixels, {length}; made with it: {_some(fits)}", facts=facts))
    for clip, made in made_with.items():
        result.append(Finding(f"CLIP {short(clip)}", f"is none of these; made with it: {_some(made)}", "note"))
    return result


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:2])
    return f"{shown} and {len(names) - 2} more" if len(names) > 2 else shown or "nothing here"


def _other_clips(findings: "Sequence[Finding]", known: dict[str, Any]) -> "list[Finding]":
    """A note where a config's inputs were made with another CLIP than the weights that it names now."""
    from ovd.engine.doctor.findings import Finding, short

    wanted = next((one.facts["path"] for one in findings if one.facts.get("kind") == "clip"), None)
    path = str(PRETRAINED / "shapes_clip.safetensors") if wanted == "shapes" else wanted
    now = known.get(path or "", {}).get("fingerprint")
    made = sorted({one.facts["clip"] for one in findings if one.facts.get("clip")} - {now})
    if not now or not made:
        return []
    return [Finding("CLIP", f"stores or class heads are of the CLIP {short(made[0])}, and {wanted} is {short(now)} "
                    "now: what is made anew will not go with them", "note", "make all of them again with --overwrite")]


def _needs(file: Path, data_root: str | Path | None, work_dir: str | Path | None) -> "tuple[list[Finding], list[str]]":
    """What a config or recipe needs, and the commands that make what is missing."""
    from ovd.engine.doctor.findings import Finding

    if not located(file).is_file():
        return [Finding(str(file), "no such file", "missing", "the project's own are in configs")], []
    try:
        if _is_recipe(located(file)):
            return _recipe_needs(file, work_dir)
    except (OSError, UnicodeDecodeError) as error:
        return [Finding(str(file), f"cannot be read ({error})", "broken")], []
    from ovd.engine.doctor.needs import look_at_config

    needs = look_at_config(file, data_root)
    return needs.findings, needs.commands


def _recipe_needs(file: Path, work_dir: str | Path | None) -> "tuple[list[Finding], list[str]]":
    """Which stages of a recipe are done, and what its configs read that none of them makes."""
    from ovd.engine.doctor.findings import Finding
    from ovd.engine.doctor.needs import look_at_config
    from pipelines.running.recipe_file import load_recipe

    try:
        recipe = load_recipe(file, work_dir)
    except UserError as error:
        return [Finding(str(file), str(error), "broken")], []
    made = [recipe.work_dir, *(output for stage in recipe.stages for output in stage.outputs)]
    findings = [_progress(recipe)]
    commands: list[str] = []
    looked: set[tuple] = set()
    for stage in recipe.stages:
        for config in (word for word in stage.command if word.endswith(".py")):
            key = config, _option(stage, "--data-root"), _changes(stage), _sections(stage)
            path = located(config)
            if key in looked or _is_recipe(path):
                continue
            looked.add(key)
            if not path.is_file():
                findings.append(Finding(f"stage {stage.name}", f"{config}: no such file", "missing",
                                        "run it in the project's folder"))
                continue
            needs = look_at_config(config, key[1], made, *key[2:])
            findings += [one for one in needs.findings if one.is_bad]
            findings += [one for one in needs.findings if one.facts.get("kind") == "clip" and one.name not in
                         [other.name for other in findings]]
            commands += needs.commands
    done = all(_is_done(stage) for stage in recipe.stages)
    return findings, [*commands, *([] if done else [f"ovd run {file}" + (f" --work-dir {work_dir}" if work_dir else
                                                                         "")])]


def _progress(recipe: "Recipe") -> "Finding":
    from ovd.engine.doctor.findings import Finding

    done = [stage.name for stage in recipe.stages if _is_done(stage)]
    left = [stage.name for stage in recipe.stages if not _is_done(stage)]
    text = f"{len(done)} of {len(recipe.stages)} stages have their results in {recipe.work_dir}"
    if left:
        text += f"; to be done: {', '.join(left[:4])}{', ...' * (len(left) > 4)}"
    return Finding(recipe.name, text, "ok" if not left else "note", f"ovd run {shown(recipe.path)}" if left else "",
                   {"done": done, "left": left})


def _is_done(stage: "Stage") -> bool:
    return bool(stage.outputs) and all(Path(output).exists() for output in stage.outputs)


def _option(stage: "Stage", name: str) -> str | None:
    words = stage.command
    return words[words.index(name) + 1] if name in words[:-1] else None


def _changes(stage: "Stage") -> tuple[str, ...]:
    """What a stage changes in its config: the words after --cfg-options."""
    words = stage.command[stage.command.index("--cfg-options") + 1:] if "--cfg-options" in stage.command else ()
    return tuple(takewhile(lambda word: not word.startswith("--"), words))


def _sections(stage: "Stage") -> tuple[str, ...]:
    """What a stage reads of its config: of stages before training, its images alone."""
    from ovd.engine.doctor.needs import SECTIONS, TESTED

    return {"train": SECTIONS, "test": TESTED, "fewshot-eval": TESTED}.get(stage.command[0], ())


def _is_recipe(file: Path) -> bool:
    return file.is_file() and bool(re.search(r"^stages\s*=", file.read_text(), re.M))


def _recipes() -> "list[Finding]":
    """How far the project's recipes are."""
    from ovd.engine.doctor.findings import Finding
    from pipelines.running.recipe_file import load_recipe

    found = []
    for file in sorted(RECIPES.glob("*.py")):
        try:
            found.append(_progress(load_recipe(file)))
            found[-1].state = "ok"
        except UserError as error:
            found.append(Finding(file.name, str(error), "broken"))
    return found
