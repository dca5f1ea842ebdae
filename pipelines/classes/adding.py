"""``ovd classes add``: words, boxes, both, or a file become classes of a registry."""

import inspect
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovd.errors import UserError
from ovd.stores.class_heads import ClassHead
from ovd.stores.class_registry import ClassRegistry, load_classes, spelling
from pipelines.region_settings import Settings

if TYPE_CHECKING:
    from mmengine.config import Config

    from ovd.clip.towers import ClipModel
    from ovd.fewshot.shots import ShotSet
    from ovd.fewshot.support_vectors import SupportVectors

CHECKPOINTS = (".pth", ".pt")
_HEADS = ("text", "base", "init", "background_BD")  # settings of methods that are no numbers


def add_classes(names: Sequence[str] = (), registry: str | Path = "data/classes", *, text: Sequence[str] | None = None,
                style: str = "vild", boxes: str | Path | None = None, images: str | Path | None = None,
                boxes_class: str | None = None, shots: int | None = None, method: str = "prototype",
                settings: Mapping[str, Any] | None = None, detector: tuple[str, str] | None = None,
                rule: str | None = None, lam: float | None = None, kappa: float = 2.0,
                source: str | Path | None = None, config: str | Path | None = None,
                data_root: str | Path | None = None, pretrained: str | None = None, model: str | None = None,
                device: str = "auto", allow_untrained: bool = False, replace: bool = False,
                options: Sequence[str] | Mapping[str, Any] = ()) -> ClassHead:
    """Make classes and add them to a registry, all or none.

    Args:
        source: a class head file, registry or checkpoint to take them from.
        options: changes of the config.
        Others: as the options of the command line.

    Returns:
        The head of the new classes.

    Raises:
        UserError: wrong or missing input; a name that is taken; another embedding space than that of the registry.
    """
    start = time.perf_counter()
    there = ClassRegistry(registry)
    if source is not None:
        if text is not None or boxes is not None:
            raise UserError("--from: the file has the classes' vectors; leave --text and --boxes out")
        head, flags = _from_file(Path(source), names)
        there.add(head, replace, flags=flags)
        _summary(there, head, start)
        return head
    _check(names, text, boxes, boxes_class, shots, lam, kappa, settings or {})
    from ovd.fewshot.boxes_file import checked_images

    there.check_new(names, replace)
    cfg = _config(config, data_root, options)
    found, root = None, Path()
    if boxes is not None:
        found = read_shots(boxes, names, boxes_class, shots)
        names = found.names
        there.check_new(names, replace)
        root = checked_images(found, boxes, images, data_root or (cfg.get("data_root") if cfg is not None else None))
    words = names if boxes is None or text is not None else ()
    needs_clip = bool(words) or detector is None
    crops = _settings(there, cfg, pretrained, model, needs_clip)
    clip = _clip(crops, device, allow_untrained) if needs_clip else None
    head = text_classes(clip, words, style, text) if words else None
    if found is not None:
        vectors = _detector_vectors(detector, found, root, device, data_root) if detector else \
            box_vectors(clip, crops, found, root)
        head = with_boxes(head, vectors, method, settings or {}, rule, lam, kappa,
                          _rivals(there, names) if "base" in _parameters(method) else None)
    there.add(head, replace, settings=asdict(crops) if crops else None,
              flags={"untrained": True} if clip is not None and clip.untrained else {})
    _summary(there, head, start)
    return head


def text_classes(clip: "ClipModel", names: Sequence[str], style: str = "vild",
                 words: Sequence[str] | None = None) -> ClassHead:
    """Classes by their names in the templates of a prompt style; with ``words``, by these in place of the name.

    An article before the words is left out: templates bring their own.
    """
    from ovd.clip.queries import without_article
    from ovd.clip.text import class_embeddings
    from ovd.vocabulary.prompts import get_style

    synonyms = {names[0]: list(dict.fromkeys(map(without_article, words)))} if words else {}
    head = class_embeddings(clip, names, get_style(style), synonyms=synonyms)
    return replace(head, provenance=tuple(
        {"text": synonyms.get(name, [name]), "prompts": origin["prompts"], "style": style}
        for name, origin in zip(names, head.provenance)))


def read_shots(file: str | Path, names: Sequence[str] = (), called: str | None = None,
               shots: int | None = None) -> "ShotSet":
    """The chosen boxes of classes, under the names that the classes are to have; all of the file without names.

    Args:
        called: What the one class is called in the file, where that is not its name.
        shots: How many of the first boxes of each class; None for all.

    Raises:
        UserError: as :func:`ovd.fewshot.boxes_file.read_boxes_file`; fewer boxes than are asked for.
    """
    from ovd.fewshot.boxes_file import first_boxes, read_boxes_file

    found = read_boxes_file(file, [called] if called else names or None)
    if called:
        found = replace(found, classes={names[0]: found[called]})
    return found if shots is None else first_boxes(found, shots, file)


def box_vectors(clip: "ClipModel", crops: Settings, shots: "ShotSet", root: Path) -> "SupportVectors":
    """CLIP's embeddings of shots, cropped as the registry's settings say."""
    from ovd.clip.levels import Objects
    from ovd.fewshot.support_vectors import clip_vectors

    encoder = Objects(None, crops.recipe, None, crops.masked_attention, crops.upsample).encoder(clip)
    return clip_vectors(shots, root, encoder, clip)


def with_boxes(text: ClassHead | None, vectors: "SupportVectors", method: str, settings: Mapping[str, Any],
               rule: str | None, lam: float | None, kappa: float, others: ClassHead | None) -> ClassHead:
    """Classes from the vectors of boxes and, where there is a head of their names too, from both.

    Args:
        rule: See :func:`ovd.fewshot.combination.combine`. None is a method's own way with text (Tip-Adapter), else
            ``weights``.
        others: Classes that a fitted method is to tell the new ones from.
    """
    from ovd.fewshot.combination import combine

    given = {**settings, **({} if others is None else {"base": others})}
    if text is not None and rule is None and "text" in _parameters(method):
        return vectors.head(method, text=text, **given)
    return combine(text, vectors.head(method, **given), rule or "weights", lam=lam, kappa=kappa)


def _parameters(method: str) -> set[str]:
    from ovd.fewshot.sources import METHODS

    return set(inspect.signature(METHODS[method]).parameters) if method in METHODS else set()


def _check(names: Sequence[str], text: Sequence[str] | None, boxes: str | Path | None, called: str | None,
           shots: int | None, lam: float | None, kappa: float, settings: Mapping[str, Any]) -> None:
    if not names and boxes is None:
        raise UserError("no class is named: give a NAME, --boxes FILE or --from FILE")
    if (text or called) and len(names) != 1:
        raise UserError(f"{'--text' if text else '--boxes-class'}: is of one class; name that one")
    if text and any(not words.strip() for words in text):
        raise UserError("--text: empty words; say what the class looks like")
    if boxes is None and (called or shots is not None):
        raise UserError(f"{'--boxes-class' if called else '--shots'}: there are no boxes; pass --boxes FILE")
    if shots is not None and shots < 1:
        raise UserError(f"--shots {shots}: needs one or more")
    if lam is not None and not 0 <= lam <= 1:
        raise UserError(f"--lam {lam:g}: needs a number from 0 to 1")
    if not 0 < kappa < math.inf:
        raise UserError(f"--kappa {kappa:g}: needs a number above 0")
    for key, value in settings.items():
        if key in _HEADS or (isinstance(value, str) and key != "norm"):
            raise UserError(f"--settings {key}={value}: needs a number")


def _from_file(path: Path, names: Sequence[str]) -> tuple[ClassHead, dict[str, Any]]:
    """Classes of a head file, a registry or a checkpoint, and their marks."""
    from ovd.engine.marks import FLAG, marked

    if path.suffix in CHECKPOINTS:
        from ovd.fewshot.sources.checkpoints import from_checkpoint

        head = from_checkpoint(path, list(names) or None)
    else:
        head = load_classes(path)
        try:
            head = head.select(names) if names else head
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
    return head, {FLAG: True} if marked([path]) else {}


def _config(config: str | Path | None, data_root: str | Path | None,
            options: Sequence[str] | Mapping[str, Any]) -> "Config | None":
    if config is None:
        if options:
            raise UserError("--cfg-options: there is no config; pass --config CONFIG")
        return None
    from ovd.engine.config import load_config

    return load_config(config, options, data_root)


def _settings(registry: ClassRegistry, cfg: "Config | None", pretrained: str | None, model: str | None,
              needed: bool) -> Settings | None:
    """Which CLIP, and how it is shown boxes: of the config, else of the registry; ``pretrained`` replaces its CLIP."""
    section = (cfg.get("regions") or {}) if cfg is not None else registry.settings
    where = cfg.filename if cfg is not None else str(registry.path)
    if not needed and not section.get("pretrained"):
        return None
    if not (pretrained or section.get("pretrained")):
        raise UserError(f"{where}: no CLIP is known yet; name it with --config CONFIG, or with --pretrained, such as "
                        "ViT-B/32")
    if pretrained:
        section = {key: value for key, value in section.items() if key != "model"}
    return Settings.read(section, where, pretrained=pretrained, model=model)


def _clip(settings: Settings, device: str, allow_untrained: bool) -> "ClipModel":
    from ovd.clip.towers import load_clip
    from ovd.engine.launch import choose_device

    return load_clip(settings.pretrained, model=settings.model, device=choose_device(device),
                     allow_untrained=allow_untrained)


def _rivals(registry: ClassRegistry, names: Sequence[str]) -> ClassHead | None:
    """The classes of the registry but ``names``."""
    new = set(map(spelling, names))
    others = [name for name in registry.names if spelling(name) not in new]
    return registry.head().select(others) if others else None


def _detector_vectors(detector: tuple[str, str], shots: "ShotSet", root: Path, device: str,
                      data_root: str | Path | None) -> "SupportVectors":
    from ovd.engine.config import load_config, resolve_types
    from ovd.engine.inference import load_detector
    from ovd.engine.launch import choose_device, quiet
    from ovd.fewshot.detector_vectors import detector_vectors
    from ovd.stores.manifest import fingerprint

    quiet()
    config, checkpoint = detector
    cfg = load_config(config, (), data_root)
    resolve_types(cfg)
    place = choose_device(device)
    found = detector_vectors(load_detector(cfg, checkpoint, place), cfg, shots, root, place)
    which = {"config": Path(config).name, "weights": fingerprint(checkpoint)}
    return replace(found, provenance=tuple({**origin, "embedded_by": which} for origin in found.provenance))


def _summary(registry: ClassRegistry, head: ClassHead, start: float) -> None:
    from pipelines.classes.origins import described

    for name, origin in zip(head.names[:10], head.provenance):
        print(f"{name}: {described(origin)}")
    if len(head) > 10:
        print(f"and {len(head) - 10:,} more")
    total = len(registry.names)
    print(f"{registry.path}: {total:,} class{'es' if total != 1 else ''}, width {head.dim}, "
          f"{time.perf_counter() - start:.1f} s")
