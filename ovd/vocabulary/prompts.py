"""Prompts: the texts that stand for a class name, and how their embeddings become one row.

A template is a format string: ``{}`` is the class name, ``{article}`` is "a" or "an". A :class:`PromptStyle` is
everything that decides the texts of a name; :data:`STYLES` holds the published ones.
"""

import re
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ovd.errors import UserError, nearest

_ADJECTIVES = ("nice", "cool", "weird")
_SIZES_AND_STATES = ("small", "large", "clean", "dirty")
_QUALITIES = ("low resolution", "cropped", "close-up", "jpeg corrupted", "blurry", "pixelated")
_MATERIALS = ("plastic", "toy", "plushie", "cartoon")

VILD_63: tuple[str, ...] = (
    "There is {article} {} in the scene.",
    "There is the {} in the scene.",
    "a photo of {article} {} in the scene.",
    "a photo of the {} in the scene.",
    "a photo of one {} in the scene.",
    "itap of {article} {}.",
    "itap of my {}.",
    "itap of the {}.",
    *(f"a photo of {which} {{}}." for which in ("{article}", "my", "the", "one", "many")),
    *(f"a {grade} photo of {which} {{}}." for grade in ("good", "bad") for which in ("{article}", "the")),
    *(f"a photo of {which} {word} {{}}." for word in _ADJECTIVES + _SIZES_AND_STATES for which in ("a", "the")),
    *(f"a {light} photo of {which} {{}}." for light in ("bright", "dark") for which in ("{article}", "the")),
    "a photo of a hard to see {}.",
    "a photo of the hard to see {}.",
    *(f"a {quality} photo of {which} {{}}." for quality in _QUALITIES for which in ("{article}", "the")),
    "a black and white photo of the {}.",
    "a black and white photo of {article} {}.",
    *(f"{which} {material} {{}}." for material in _MATERIALS for which in ("a", "the")),
    "an embroidered {}.",
    "the embroidered {}.",
    "a painting of the {}.",
    "a painting of a {}.",
)
"""The 63 templates of ViLD (Gu et al. 2022, appendix and its demo notebook)."""

_SIZES = ("", "small ", "medium ", "large ")
_WHICH = ("a", "the", "one")

DETPRO_74: tuple[str, ...] = (
    "This is a {}",
    "There is a {}",
    *(f"a photo of a {size}{{}}{where}" for size in _SIZES for where in ("", " in the scene")),
    *(f"This is a photo of a {size}{{}}" for size in _SIZES),
    *(f"{verb} {which} {{}} in the scene" for verb in ("There is", "This is") for which in _WHICH),
    *(f"This is one {size}{{}} in the scene" for size in _SIZES[1:]),
    *(f"There is a {size}{{}} in the scene" for size in _SIZES[1:]),
    *(
        f"{verb} {which} {size}{{}} in the {medium}"
        for verb in ("There is", "This is") for which in _WHICH for size in _SIZES for medium in ("photo", "picture")
    ),
)
"""The 74 templates of DetPro (Du et al. 2022) and OADP (Wang et al. 2023): no full stop, always "a"."""

SINGLE: tuple[str, ...] = ("a photo of {article} {}.",)

TEMPLATES: dict[str, tuple[str, ...]] = {"vild63": VILD_63, "detpro74": DETPRO_74, "single": SINGLE}

PARENTHESES = ("keep", "unwrap", "drop")


def check_templates(templates: Iterable[str]) -> None:
    """Raise a :class:`UserError` for an empty list, a repeated template, or one without ``{}``."""
    templates = tuple(templates)
    if not templates:
        raise UserError("the list of prompt templates is empty; give at least one, such as 'a photo of {article} {}.'")
    for index, template in enumerate(templates):
        try:
            fields = [field for _, field, _, _ in string.Formatter().parse(template) if field is not None]
        except ValueError as error:
            raise UserError(f"template {template!r}: {error}; write {{}} where the class name goes") from None
        if "" not in fields or not set(fields) <= {"", "article"}:
            raise UserError(f"template {template!r}: needs {{}} where the class name goes, and may have {{article}}, "
                            "nothing else in braces")
        if template in templates[:index]:
            raise UserError(f"template {template!r} is listed twice")


@dataclass(frozen=True)
class PromptStyle:
    """How a class name becomes texts, and their embeddings one row.

    Attributes:
        templates: Format strings with ``{}`` and, where wanted, ``{article}``.
        clean: Rewrite dataset names as words: ``_`` to a blank, ``/`` to " or ", lower case, no trailing full stop.
        articles: ``{article}`` is "an" before a vowel; otherwise always "a".
        prefix: Put "This is " before a text that begins with "a" or "the" (ViLD's rule).
        parentheses: ``keep`` "bow_(decorative_ribbons)", ``unwrap`` it (only the two characters go), or ``drop`` the
            whole remark.
        normalize_texts: L2-normalise the embedding of every text before the mean.
        normalize_mean: L2-normalise the mean. OADP does not, which scales logits by the mean's length (about .9).
    """

    templates: tuple[str, ...]
    clean: bool = True
    articles: bool = True
    prefix: bool = True
    parentheses: str = "keep"
    normalize_texts: bool = True
    normalize_mean: bool = True

    def __post_init__(self) -> None:
        check_templates(self.templates)
        if self.parentheses not in PARENTHESES:
            raise UserError(f"parentheses {self.parentheses!r} is not one of {', '.join(PARENTHESES)}")


_VILD = PromptStyle(VILD_63)
_DETPRO = PromptStyle(DETPRO_74, clean=False, articles=False, prefix=False)

STYLES: dict[str, PromptStyle] = {
    "vild": _VILD,
    "detpro": _DETPRO,
    "vild74": _DETPRO,  # the list's name in OADP and its ancestor
    "oadp": replace(_DETPRO, normalize_mean=False),
    "single": replace(_VILD, templates=SINGLE),
}


def get_style(name: str) -> PromptStyle:
    """The prompt style of that name.

    Raises:
        UserError: Unknown name; says the nearest ones.
    """
    if name not in STYLES:
        raise UserError(f"no prompt style {name!r}{nearest(name, STYLES)}")
    return STYLES[name]


def clean_name(name: str) -> str:
    """A dataset's class name as words: ``aerosol_can/Spray.`` becomes ``aerosol can or spray`` (ViLD's rule)."""
    return name.replace("_", " ").replace("/", " or ").lower().rstrip(".")


def rewrite_parentheses(name: str, how: str) -> str:
    """``bow_(decorative_ribbons)`` kept, unwrapped to ``bow_decorative_ribbons``, or dropped to ``bow``."""
    if how == "keep":
        return name
    if how == "unwrap":
        return name.replace("(", "").replace(")", "")
    return re.sub(r"[\s_]*\([^()]*\)", "", name).strip("_ ") or name


def article(name: str) -> str:
    """ "an" where the first character is a lower-case vowel, else "a": by letter, not by sound, as ViLD has it."""
    return "an" if name[:1] in ("a", "e", "i", "o", "u") else "a"


def add_prefix(text: str) -> str:
    """Make a sentence of a phrase: "This is " before a text that begins with "a" or "the"."""
    return f"This is {text}" if text.startswith(("a", "the")) else text


def prompts(name: str, style: PromptStyle) -> list[str]:
    """The texts of one class name, one per template, in the templates' order."""
    words = rewrite_parentheses(name, style.parentheses)
    words = clean_name(words) if style.clean else words
    which = article(name) if style.articles else "a"
    texts = [template.format(words, article=which) for template in style.templates]
    return [add_prefix(text) for text in texts] if style.prefix else texts


def class_texts(names: Sequence[str], style: PromptStyle,
                synonyms: Mapping[str, Sequence[str]] | None = None) -> list[list[str]]:
    """The texts of every class: its templates, or (with ``synonyms``) templates x synonyms.

    Args:
        names: Class names; distinct, none empty.
        synonyms: For each class name the words that mean it, in place of the name itself, as LVIS lists them (the name
            is usually among them). A class that is absent, or has none, is called by its own name.

    Returns:
        One list of texts per class, in the order of ``names``.

    Raises:
        UserError: No names, an empty one, or one that is there twice.
    """
    check_names(names)
    return [
        [text for word in dict.fromkeys((synonyms or {}).get(name) or (name,)) for text in prompts(word, style)]
        for name in names
    ]


def check_names(names: Sequence[str]) -> None:
    """Raise a :class:`UserError` unless there are class names, all of them non-empty and distinct."""
    if not names:
        raise UserError("the list of class names is empty; name at least one class")
    seen: dict[str, int] = {}
    for index, name in enumerate(names):
        if not isinstance(name, str) or not name.strip():
            raise UserError(f"class name number {index + 1} is {name!r}: give every class a name")
        if name in seen:
            raise UserError(f"class name {name!r} is there twice (numbers {seen[name] + 1} and {index + 1}): "
                            "remove or rename one")
        seen[name] = index
