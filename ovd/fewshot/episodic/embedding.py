"""From labelled pictures to embedded objects, each picture embedded once.

Shapes: N pictures, D embedding width.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

import numpy as np
from tqdm import tqdm

from ovd.clip.crops import CropRecipe, check_boxes
from ovd.clip.regions import RegionEncoder
from ovd.clip.towers import ClipModel
from ovd.data.classification.pictures import Picture
from ovd.errors import UserError
from ovd.fewshot.episodic.embedding_cache import EmbeddingCache, Key, key_of
from ovd.fewshot.episodic.objects import EmbeddedObjects

WHOLE = CropRecipe("clip", (1.0,))  # a whole image, as CLIP's own preprocessing has it
PART = 512  # pictures that a killed run may have embedded in vain


def embed_pictures(pictures: Sequence[Picture], clip: ClipModel, cache_folder: str, *,
                   recipe: CropRecipe | None = None, on_error: Literal["stop", "skip"] = "stop",
                   batch_size: int | None = None) -> tuple[EmbeddedObjects, list[str]]:
    """The pictures' embeddings from the cache, and of those that it lacks from the CLIP.

    Args:
        cache_folder: Of :class:`EmbeddingCache`.
        recipe: Of the crops of boxes (default: the box and 1.5 times it); whole images are cropped as CLIP does.
        on_error: ``"skip"`` leaves out pictures that cannot be read, and boxes outside them.
        batch_size: Crops in a forward pass.

    Returns:
        The objects in the pictures' order, and a line for each that was left out.

    Raises:
        UserError: No pictures, one that cannot be read, a box outside its image, an odd embedding.
    """
    if not pictures:
        raise UserError("no pictures to embed")
    names = list(dict.fromkeys(picture.name for picture in pictures))
    rows: list[np.ndarray | None] = [None] * len(pictures)
    skipped: list[str] = []
    for whole in (True, False):
        places = [place for place, picture in enumerate(pictures) if (picture.box is None) == whole]
        chosen = WHOLE if whole else recipe or CropRecipe()
        for place, row in zip(places, _rows([pictures[place] for place in places], clip, cache_folder, chosen, on_error,
                                            batch_size, skipped)):
            rows[place] = row
    kept = [place for place, row in enumerate(rows) if row is not None]
    if not kept:
        raise UserError(f"none of the {len(pictures)} pictures can be used: {skipped[0]}")
    label_of = {name: label for label, name in enumerate(names)}
    labels = np.array([label_of[pictures[place].name] for place in kept])
    objects = EmbeddedObjects(tuple(names), labels, np.stack([rows[place] for place in kept]),
                              {"clip": clip.fingerprint})
    return objects, skipped


def _rows(pictures: Sequence[Picture], clip: ClipModel, folder: str, recipe: CropRecipe, on_error: str,
          batch_size: int | None, skipped: list[str]) -> list[np.ndarray | None]:
    maker = {"clip": clip.fingerprint, "precision": str(clip.dtype), "recipe": recipe.config()}
    cache = EmbeddingCache(folder, maker, clip.embed_dim)
    keys = _keys(pictures, on_error, skipped)
    known = cache.rows(key for key in keys if key is not None)
    missing = {key: picture for key, picture in zip(keys, pictures) if key is not None and key not in known}
    if missing:
        known |= _embed(missing, RegionEncoder(clip, recipe, batch_size), cache, on_error, skipped)
    return [None if key is None else known.get(key) for key in keys]


def _keys(pictures: Sequence[Picture], on_error: str, skipped: list[str]) -> list[Key | None]:
    digests: dict[str, str | None] = {}
    for picture in pictures:
        if picture.source not in digests:
            try:
                digests[picture.source] = picture.digest()
            except UserError as error:
                _skip(error, on_error, skipped)
                digests[picture.source] = None
    return [None if (digest := digests[picture.source]) is None else key_of(digest, picture.box)
            for picture in pictures]


def _embed(missing: dict[Key, Picture], encoder: RegionEncoder, cache: EmbeddingCache, on_error: str,
           skipped: list[str]) -> dict[Key, np.ndarray]:
    by_source: dict[str, list[Key]] = defaultdict(list)
    for key, picture in missing.items():
        by_source[picture.source].append(key)
    made: dict[Key, np.ndarray] = {}
    waiting: list[Key] = []
    crops = []

    def flush() -> None:
        rows = dict(zip(waiting, np.concatenate(encoder.encode(crops)))) if waiting else {}
        if rows:
            cache.add(rows)
            made.update(rows)
        waiting.clear()
        crops.clear()

    with tqdm(total=len(missing), desc="embedding", unit=" pictures") as progress:
        for keys in by_source.values():
            for key, crop in _crops(keys, missing, encoder, on_error, skipped):
                waiting.append(key)
                crops.append(crop)
            progress.update(len(keys))
            if len(waiting) >= PART:
                flush()
        flush()
    return made


def _crops(keys: Sequence[Key], missing: dict[Key, Picture], encoder: RegionEncoder, on_error: str,
           skipped: list[str]) -> list[tuple[Key, object]]:
    """The crops of the boxes of one image, by key."""
    try:
        image = missing[keys[0]].load()
    except UserError as error:
        _skip(error, on_error, skipped)
        return []
    found = []
    for key in keys:
        box_14 = missing[key].box_in(image)[None]
        try:
            check_boxes(box_14, *image.size)
        except UserError as error:
            _skip(UserError(f"{missing[key].source}: {error}"), on_error, skipped)
            continue
        found.append((key, encoder.crop(image, box_14)))
    return found


def _skip(error: UserError, on_error: str, skipped: list[str]) -> None:
    if on_error != "skip":
        raise error
    skipped.append(str(error))
