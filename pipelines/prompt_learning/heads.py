"""Class heads of learned contexts, for the classes that they were learned for or any others."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from ovd.clip.prompts.context import PromptContext, context_head
from ovd.clip.prompts.tower import PromptTower
from ovd.clip.towers import load_clip
from ovd.engine.launch import choose_device
from ovd.errors import UserError
from ovd.stores.class_heads import ClassHead
from ovd.stores.manifest import Manifest, current_or_remove, difference, fingerprint, fingerprint_json
from pipelines.vocabulary import find_vocabulary

STAGE = "learn-prompts"


def apply_contexts(paths: Sequence[str | Path], names_file: str | Path | None, dataset: str | None, out: str | Path, *,
                   data_root: str | Path | None = None, position: str | None = None, pretrained: str | None = None,
                   model: str | None = None, device: str = "auto", allow_untrained: bool = False,
                   overwrite: bool = False) -> ClassHead:
    """A class head of learned contexts for any class names.

    Args:
        paths: Context files, folders of them, or published ``*_prompt.pth``.
        position: Where the class name stands, for files that do not say it.
        Others: As the options of the command line.

    Raises:
        UserError: Not such files, contexts of another CLIP, no names.
    """
    names = find_vocabulary(dataset, names_file, data_root).names
    files = [file for path in paths for file in _files_of(Path(path))]
    found = [PromptContext.load(file, position) for file in files]
    tower, untrained = text_tower(pretrained, model, device, allow_untrained)
    inputs = {f"context {number}": fingerprint(file) for number, file in enumerate(files)}
    return write_head(Path(out), tower, found, inputs, names, untrained, overwrite)


def write_head(out: Path, tower: PromptTower, contexts: Sequence[PromptContext], inputs: Mapping[str, str],
               names: Sequence[str], untrained: bool, overwrite: bool) -> ClassHead:
    """The contexts' class head, computed unless it is there."""
    record = _record(tower, [context.position for context in contexts], inputs, names)
    if current_or_remove(out, STAGE, **record, overwrite=overwrite):
        print(f"{out} is up to date")
        return ClassHead.load(out)
    with tqdm(total=len(names), desc="class embeddings", unit=" classes") as bar:
        head = context_head(tower, contexts, names, bar.update)
    head.save(out, STAGE, **record, flags={"untrained": True} if untrained else {})
    print(f"{out}: {len(head):,} classes, width {head.dim}, from {len(contexts)} learned contexts")
    if untrained:
        print("these embeddings mean nothing: the CLIP is untrained (the file is marked)")
    return head


def check_head(out: Path, tower: PromptTower, position: str, contexts: Sequence[str], names: Sequence[str]) -> None:
    """UserError for an existing file that is not the head of these contexts; before they are learned.

    Args:
        contexts: Names of their files.
    """
    if not out.exists():
        return
    known = Manifest.read(out).inputs if Manifest.path(out).exists() else {}
    inputs = {name: known.get(name, "not among them") for name in contexts}
    if reason := difference(out, STAGE, **_record(tower, [position] * len(contexts), inputs, names)):
        raise UserError(f"{out}: exists but {reason}; pass --overwrite to learn anew, or choose another --out")


def _record(tower: PromptTower, positions: Sequence[str], inputs: Mapping[str, str], names: Sequence[str]) -> dict:
    """What decides a head, as its manifest has it."""
    return {"config": {"classes": len(names), "names": fingerprint_json(list(names)), "positions": list(positions)},
            "inputs": {"clip": tower.fingerprint, **inputs}}


def text_tower(pretrained: str | None, model: str | None, device: str,
               allow_untrained: bool) -> tuple[PromptTower, bool]:
    """The text tower of a CLIP, and whether its weights are random."""
    if not pretrained:
        raise UserError('no CLIP is named; pass --pretrained, such as "ViT-B/32", or a config with regions.pretrained')
    clip = load_clip(pretrained, model=model, device=choose_device(device), allow_untrained=allow_untrained)
    return PromptTower(clip), clip.untrained


def context_files(folder: Path) -> list[Path]:
    """The contexts in a folder, by name."""
    return sorted(folder.glob("context_*.safetensors"))


def _files_of(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    if not (files := context_files(path)):
        raise UserError(f"{path}: has no learned contexts (context_*.safetensors)")
    return files
