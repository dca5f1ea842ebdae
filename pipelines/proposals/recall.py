"""What a finished store of proposals is worth: its recall of the annotated objects, and a check of its alignment."""

import numpy as np

from ovd.evaluation.recall import LIMITS, ImageBoxes, Recall, alignment_warning, proposal_recall, recall_table
from ovd.stores.shards import RegionStore
from pipelines.proposals.inputs import Subset

CHECKED_IMAGES = 200


def report_recall(subset: Subset, most: int) -> dict[str, Recall]:
    """Print the recall of a subset's store on at most ``most`` of its images, and a warning if it is implausible."""
    store = RegionStore(subset.store)
    ids = store.image_ids
    if len(ids) > most:
        ids = np.sort(np.random.default_rng(0).choice(ids, most, replace=False))
    images = with_objects(subset, store, ids)
    recalls = proposal_recall(images, subset.groups())
    which = f"{len(ids):,} of {len(store):,} images" if len(ids) < len(store) else f"{len(store):,} images"
    print(f"recall of the objects in {subset.ann_file.name}, per cent ({which}):")
    print(recall_table(recalls))
    stored = store.manifest.config["max_per_image"]
    if stored < max(LIMITS):
        print(f"(the store has at most {stored} proposals an image; figures beyond that are of these)")
    if warning := alignment_warning(sample(images)):
        print(f"warning: {subset.store}: {warning}")
    return recalls


def with_objects(subset: Subset, store: RegionStore, image_ids: np.ndarray) -> list[ImageBoxes]:
    """The objects and stored proposals of ``image_ids``."""
    objects = subset.objects()
    return [objects(image_id, store.view(image_id).boxes) for image_id in image_ids.tolist()]


def sample(images: list[ImageBoxes]) -> list[ImageBoxes]:
    """A few images, drawn at random but always the same, for the check of alignment."""
    return [images[i] for i in np.random.default_rng(0).permutation(len(images))[:CHECKED_IMAGES]]
