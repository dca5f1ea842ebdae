"""What somebody looks for, as unit rows in the space of a region store: words, boxes of example pictures, or both.

Shapes: Q queries, E example boxes, D width.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from ovd.clip.crops import CropRecipe
from ovd.clip.levels import Objects
from ovd.clip.text import class_embeddings
from ovd.clip.towers import ClipModel
from ovd.data.rgb import load_rgb
from ovd.errors import UserError
from ovd.stores.shards import RegionStore
from ovd.vocabulary.prompts import PromptStyle

_ARTICLE = re.compile(r"(an?|the)\s+(?=\S)", re.IGNORECASE)
_AS_IT_IS = PromptStyle(("{}",), clean=False, articles=False, prefix=False)


def check_clip(store: RegionStore, clip: ClipModel) -> None:
    """Refuse a CLIP that is not the one that made the store.

    Raises:
        UserError: another fingerprint; where the store does not say (it was imported), another width.
    """
    made_by = store.manifest.inputs.get("clip")
    if (made_by and made_by != clip.fingerprint) or store.dim != clip.embed_dim:
        raise UserError(f"{store.path}: was made with another CLIP ({(made_by or 'unknown')[:15]}, width {store.dim}) "
                        f"than {clip.name} ({clip.fingerprint[:15]}, width {clip.embed_dim}): name that one with "
                        "--pretrained, or make the store again with ovd embed-regions")


def text_rows(clip: ClipModel, texts: Sequence[str], style: PromptStyle | None) -> np.ndarray:
    """Unit rows float32 ``[Q, D]`` of texts.

    Args:
        style: its templates are filled with each text as with a class name, without an article at its beginning
            (templates bring their own), and averaged; None embeds the texts as they are.

    Raises:
        UserError: no texts, an empty one, or one that is there twice.
    """
    if style is None:
        head = class_embeddings(clip, texts, _AS_IT_IS)
    else:
        head = class_embeddings(clip, list(map(without_article, texts)), replace(style, normalize_mean=True))
    return F.normalize(head.weights[:, 0], dim=-1).numpy()


def without_article(text: str) -> str:
    """``a red star`` as ``red star``, for prompt templates, which bring articles of their own; others as they are."""
    return _ARTICLE.sub("", text.strip(), count=1) if _ARTICLE.match(text.strip()) else text


def example_rows(clip: ClipModel, store: RegionStore,
                 examples: Sequence[tuple[str | Path, Sequence[float] | None]]) -> np.ndarray:
    """Unit rows float32 ``[E, D]`` of boxes of pictures, cropped as the store's regions were.

    Args:
        examples: files and boxes x1, y1, x2, y2 in their pixels; None for all of the picture.

    Raises:
        UserError: a picture that cannot be read, a box that does not fit; a store that does not say how its crops were
            made.
    """
    encoder = example_encoder(clip, store)
    rows = []
    for file, box in examples:
        image = load_rgb(file)
        box = (0, 0, *image.size) if box is None else box
        try:
            rows.append(encoder(image, np.array([box], np.float32)))
        except UserError as error:
            raise UserError(f"{file}: {error}") from error
    return unit_rows(np.concatenate(rows))


def example_encoder(clip: ClipModel, store: RegionStore) -> Callable[[Image.Image, np.ndarray], np.ndarray]:
    """What embeds boxes ``[E, 4]`` of an RGB picture, in its pixels, as the store's regions were embedded.

    Raises:
        UserError: a store that does not say how its crops were made.
    """
    made = store.manifest.config
    if not isinstance(made.get("recipe"), dict):
        raise UserError(f"{store.path}: does not say how its regions were cropped, so example boxes cannot be cropped "
                        "alike: search it by text")
    recipe = CropRecipe(**{key: made["recipe"][key] for key in ("kind", "scales", "rounding", "min_size")})
    return Objects(store, recipe, None, made.get("masked_attention", False), made.get("upsample", 1)).encoder(clip)


def blended(texts_QD: np.ndarray, example_D: np.ndarray, text_weight: float) -> np.ndarray:
    """Unit rows of ``text_weight`` parts text and ``1 - text_weight`` parts example, both of length 1 before."""
    return unit_rows(text_weight * texts_QD + (1 - text_weight) * example_D)


def unit_rows(rows_ND: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1, float32."""
    return F.normalize(torch.from_numpy(np.asarray(rows_ND, np.float32)), dim=-1).numpy()
