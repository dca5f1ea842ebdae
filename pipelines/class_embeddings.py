"""Embed class names with CLIP's text tower into a class head file, or import a matrix of embeddings.

  tools/class_embeddings.py vild --dataset lvis_v1 --pretrained "ViT-B/32"    # 63 templates, all 1203 classes
  tools/class_embeddings.py detpro --dataset 48_17 --pretrained RN50          # 74 templates, a split's classes
  tools/class_embeddings.py vild --names mine.txt --pretrained ViT-B/32 --out data/mine/class_heads/mine.safetensors
  tools/class_embeddings.py vild --config configs/shapes/vild.py              # classes, CLIP and file of a config
  tools/class_embeddings.py --import-matrix coco_clip.npy --dataset coco      # a row a class, in the dataset's order

Consumers take classes by name, so one file of a dataset's classes serves all of its splits.
"""

import argparse
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ovd.errors import UserError
from ovd.vocabulary.prompts import PARENTHESES, STYLES, TEMPLATES, PromptStyle, class_texts, get_style
from pipelines.vocabulary import Vocabulary, find_vocabulary

if TYPE_CHECKING:
    from ovd.stores.class_heads import ClassHead

STAGE = "class-embeddings"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``tools/class_embeddings.py``."""
    parser.add_argument("style", nargs="?", default="vild", metavar="STYLE",
                        help=f"how names become prompts: {', '.join(STYLES)} (default: vild)")
    what = parser.add_argument_group("which classes")
    what.add_argument("--dataset", metavar="D", help="coco (the default), lvis_v1, voc, objects365_v2, a split (48_17, "
                      "866_337, ...) or a split's .json or .txt")
    what.add_argument("--names", metavar="FILE", help="class names of your own: .txt with one a line, or a .json list")
    what.add_argument("--config", metavar="FILE", help="take split, data_root, class_head (the file to write) and "
                      "regions.pretrained from a config")
    how = parser.add_argument_group("how they are embedded")
    how.add_argument("--pretrained", metavar="CLIP", help="shapes, ViT-B/32, RN50, an open_clip NAME:TAG, a weights "
                     "file, or untrained:NAME")
    how.add_argument("--model", metavar="NAME", help="architecture of a weights file that does not say it")
    how.add_argument("--templates", nargs="+", metavar="T", help=f"in place of the style's: {', '.join(TEMPLATES)}, a "
                     ".txt with one a line, or templates such as 'a photo of {article} {}.'")
    how.add_argument("--synonyms", action="store_true", help="average over a class's synonyms too (LVIS lists them)")
    how.add_argument("--parentheses", choices=PARENTHESES, help="in 'bow_(decorative_ribbons)': keep the remark, "
                     "unwrap it, or drop it (default: the style's, keep)")
    how.add_argument("--no-normalize-texts", action="store_true", help="average raw embeddings of the texts")
    how.add_argument("--no-normalize-mean", action="store_true", help="leave the mean as it is (as OADP does)")
    how.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto",
                     help="where to compute (default: a GPU where there is one)")
    how.add_argument("--allow-untrained", action="store_true", help="permit random weights; the file is marked")
    how.add_argument("--import-matrix", metavar="FILE", help="take the embeddings from an .npy, .pth or .pt instead, "
                     "[C, D] or [D, C], in the order of the names or of the whole dataset (a dict may have names); "
                     "--pretrained then says which CLIP made them, where it is at hand")
    files = parser.add_argument_group("files")
    files.add_argument("--data-root", metavar="D", help="data folder (default: the config's, or data/coco, ...)")
    files.add_argument("--out", metavar="FILE", help="class head to write (default: the config's class_head, or "
                       "DATA_ROOT/class_heads/STYLE_CLIP.safetensors)")
    files.add_argument("--export", metavar="FILE", help="also write a vild.pth-like dict of embeddings and names")
    files.add_argument("--overwrite", action="store_true", help="build again what is there")


def run(args: argparse.Namespace) -> int:
    """Entry point of ``tools/class_embeddings.py`` and ``ovd class-embeddings``."""
    style = get_style(args.style)
    if args.templates:
        style = replace(style, templates=read_templates(args.templates))
    style = replace(style, parentheses=args.parentheses or style.parentheses,
                    normalize_texts=style.normalize_texts and not args.no_normalize_texts,
                    normalize_mean=style.normalize_mean and not args.no_normalize_mean)
    label = args.style if style == get_style(args.style) else f"{args.style}-custom"
    cfg = _load_config(args.config, args.data_root) if args.config else {}
    vocabulary = find_vocabulary(args.dataset or cfg.get("split"), args.names, args.data_root or cfg.get("data_root"),
                                 for_matrix=bool(args.import_matrix))
    if args.import_matrix:
        if args.templates or args.synonyms:
            raise UserError("--import-matrix: the matrix has no prompts; leave --templates and --synonyms out")
        out = _out(args.out, cfg, vocabulary.root, Path(args.import_matrix).stem)
        head = import_head(args.import_matrix, vocabulary.names, out, pretrained=args.pretrained, model=args.model,
                           overwrite=args.overwrite)
    else:
        regions = cfg.get("regions") or {}
        pretrained, model = (args.pretrained, args.model) if args.pretrained else \
            (regions.get("pretrained"), args.model or regions.get("model"))
        if not pretrained:
            raise UserError('no CLIP is named; pass --pretrained, such as "ViT-B/32", or a config with '
                            "regions.pretrained")
        synonyms = find_synonyms(vocabulary, cfg.get("val_ann")) if args.synonyms else None
        name = f"{label}{'-synonyms' if synonyms else ''}_{_clip_name(pretrained)}"
        out = _out(args.out, cfg, vocabulary.root, name)
        head = embed_classes(vocabulary.names, style, out, pretrained=pretrained, model=model, synonyms=synonyms,
                             device=args.device, allow_untrained=args.allow_untrained, overwrite=args.overwrite)
    if args.export:
        head.export(args.export)
        print(f"exported to {args.export}")
    return 0


def embed_classes(names: Sequence[str], style: PromptStyle, out: str | Path, *, pretrained: str,
                  model: str | None = None, synonyms: dict[str, Sequence[str]] | None = None, device: str = "auto",
                  allow_untrained: bool = False, overwrite: bool = False) -> "ClassHead":
    """Embed class names and write their head to ``out``; one that is current is read instead.

    Args:
        synonyms: See :func:`ovd.vocabulary.prompts.class_texts`; None calls each class by its name only.
        Others: As the options of the command line.

    Raises:
        UserError: Wrong names, an unknown CLIP, an existing file of other classes, prompts or CLIP.
    """
    from tqdm import tqdm

    from ovd.clip.text import class_embeddings
    from ovd.clip.towers import load_clip
    from ovd.engine.launch import choose_device
    from ovd.stores.class_heads import ClassHead
    from ovd.stores.manifest import current_or_remove, fingerprint_json

    start = time.perf_counter()
    texts = class_texts(names, style, synonyms)
    clip = load_clip(pretrained, model=model, device=choose_device(device), allow_untrained=allow_untrained)
    record = {
        "config": {"prompts": asdict(style), "synonyms": synonyms is not None, "classes": len(names),
                   "names": fingerprint_json(list(names)), "texts": fingerprint_json(texts)},
        "inputs": {"clip": clip.fingerprint},
    }
    if current_or_remove(out, STAGE, **record, overwrite=overwrite):
        print(f"{out} is up to date")
        return ClassHead.load(out)
    with tqdm(total=sum(map(len, texts)), desc="embedding", unit=" texts") as bar:
        head = class_embeddings(clip, names, style, synonyms=synonyms, progress=bar.update)
    head.save(out, STAGE, **record, flags={"untrained": True} if clip.untrained else {})
    print(f"{out}: {len(names):,} classes of {sum(map(len, texts)):,} texts, width {head.dim}, "
          f"{time.perf_counter() - start:.0f} s")
    if clip.untrained:
        print("these embeddings mean nothing: the CLIP is untrained (the file is marked)")
    return head


def import_head(matrix: str | Path, names: Sequence[str] | None, out: str | Path, *, pretrained: str | None = None,
                model: str | None = None, overwrite: bool = False) -> "ClassHead":
    """Make a class head of a matrix of embeddings and write it to ``out``; one that is current is read instead.

    Args:
        matrix: See :func:`ovd.stores.class_heads.import_matrix`.
        names: The classes of its rows; None where the file has names.
        pretrained: The CLIP that made the embeddings, so that artefacts of another are refused beside them; None if it
            is not at hand, then only widths can be compared.

    Raises:
        UserError: A file or names that do not fit, an existing file made otherwise.
    """
    from ovd.clip.towers import load_clip
    from ovd.stores.class_heads import ClassHead, import_matrix
    from ovd.stores.manifest import current_or_remove, fingerprint, fingerprint_json

    clip = load_clip(pretrained, model=model) if pretrained else None
    head = import_matrix(matrix, names, clip=clip.fingerprint if clip else None)
    if clip:
        head.check(dim=clip.embed_dim)
        if clip.logit_bias is not None:
            head = replace(head, scale=clip.logit_scale, bias=[clip.logit_bias] * len(head),
                           stats={**head.stats, "scores": "sigmoid", "clip_bias": clip.logit_bias})
    record = {"config": {"classes": len(head), "names": fingerprint_json(list(head.names))},
              "inputs": {"matrix": fingerprint(matrix), **({"clip": clip.fingerprint} if clip else {})}}
    if current_or_remove(out, STAGE, **record, overwrite=overwrite):
        print(f"{out} is up to date")
        return ClassHead.load(out)
    head.save(out, STAGE, **record)
    print(f"{out}: {len(head):,} classes, width {head.dim}, from {matrix}")
    return head


def find_synonyms(vocabulary: Vocabulary, val_ann: str | None = None) -> dict[str, Sequence[str]]:
    """The synonyms of the classes that have some: LVIS's own list, or the categories of ``val_ann`` (below the root).

    Raises:
        UserError: None of the classes has any.
    """
    from ovd.data.annotations import load_annotations
    from ovd.vocabulary.classes import LVIS_V1, canonical

    listed = {}
    if vocabulary.dataset == "lvis_v1":
        listed = {category.name: category.synonyms for category in LVIS_V1}
    elif val_ann and vocabulary.root:
        categories = load_annotations(vocabulary.root / val_ann, check=False).categories
        listed = {canonical(category.name): category.synonyms for category in categories if category.synonyms}
    found = {name: listed[canonical(name)] for name in vocabulary.names if canonical(name) in listed}
    if not found:
        raise UserError("--synonyms: none are known for these classes; LVIS lists them, and the categories of a "
                        "config's val_ann may")
    return found


def read_templates(items: Sequence[str]) -> tuple[str, ...]:
    """Templates from names of lists, ``.txt`` files (one a line) and templates themselves, joined in order."""
    templates: list[str] = []
    for item in items:
        if item in TEMPLATES:
            templates += TEMPLATES[item]
        elif "{}" in item:
            templates.append(item)
        elif item.endswith(".txt"):
            try:
                lines = Path(item).read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise UserError(f"{item}: cannot read the templates ({error})") from None
            templates += [line.strip() for line in lines if line.strip()]
        else:
            raise UserError(f"--templates: {item!r} is none of {', '.join(TEMPLATES)}, no .txt file and no template "
                            "(it has no {})")
    return tuple(templates)


def _load_config(path: str, data_root: str | None) -> dict:
    from ovd.engine.config import load_config

    return load_config(path, data_root=data_root)


def _out(given: str | None, cfg: dict, root: Path | None, stem: str) -> Path:
    if given:
        return Path(given)
    if root is None:
        raise UserError("nothing says where the class head belongs; pass --out FILE or --data-root D")
    return root / (cfg.get("class_head") or f"class_heads/{stem}.safetensors")


def _clip_name(pretrained: str) -> str:
    """A CLIP's name for a file name: ``ViT-B/32`` is ``ViT-B-32``, a weights file goes by its stem."""
    path = Path(pretrained)
    stem = path.stem if path.suffix in (".safetensors", ".pt", ".pth", ".bin") else pretrained
    return re.sub(r"[^A-Za-z0-9_.+-]+", "-", stem)
