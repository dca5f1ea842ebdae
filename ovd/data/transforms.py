"""Cached regions in the training pipeline: read by image id, moved with the image, packed with it.

A pipeline of mmdet takes them by one more line after the annotations, and another packer at its end::

    dict(type=LoadImageFromFile), dict(type=LoadAnnotations, with_bbox=True, with_mask=True), dict(type=LoadRegions),
    ...,  # Resize, RandomCrop, RandomFlip, ...
    dict(type=PackRegions)  # instead of PackDetInputs

mmdet's geometric transforms record what they did to the image in one matrix. The boxes follow at the end, by that
matrix, so they cost the same whatever the pipeline, and the annotations' own path is not touched.

A dataset may also have a store of blocks and one of whole images (OADP); the same two steps read and pack these.

Shapes: R regions of an image, D embedding width.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from mmcv.transforms import BaseTransform, RandomChoiceResize, RandomResize
from mmdet.datasets import transforms as mmdet_transforms
from mmdet.datasets.transforms import PackDetInputs, Pad, RandomCrop, Resize
from mmdet.registry import TRANSFORMS
from mmengine.structures import InstanceData

from ovd.errors import UserError
from ovd.stores.shards import RegionStore

# what records its matrix, or leaves every pixel where it is
FOLLOWED = (
    Resize, Pad, RandomCrop, RandomResize, RandomChoiceResize,
    *(getattr(mmdet_transforms, name) for name in (
        "ResizeShortestEdge", "RandomFlip", "LoadAnnotations", "FilterAnnotations", "PhotoMetricDistortion",
        "YOLOXHSVRandomAug", "ColorTransform", "CutOut", "RandomErasing")),
)


@TRANSFORMS.register_module()
class LoadRegions(BaseTransform):
    """Read an image's cached boxes (original pixels) and embeddings from the dataset's ``region_store``, by image id.

    Comes before the geometric transforms. Adds ``region_boxes`` (float32 ``[R, 4]`` xyxy) and ``region_embeddings``
    (float16 ``[R, D]``, unit rows); likewise ``block_boxes`` and ``block_embeddings`` where the dataset has a
    ``block_store``, and ``image_embedding`` ``[D]`` where it has a ``global_store``.

    Args:
        top_k: Only so many regions, those with the highest proposal scores; None for all.
    """

    def __init__(self, top_k: int | None = None) -> None:
        self.top_k = top_k

    def transform(self, results: dict) -> dict:
        """Add the keys to ``results``.

        Raises:
            UserError: The ``global_store`` was made without this image, which could not be read.
        """
        regions = results["region_store"].view(results["img_id"])
        rows = slice(None)
        if self.top_k is not None and len(regions) > self.top_k:
            rows = np.argsort(-regions.scores, kind="stable")[:self.top_k]
        results["region_boxes"], results["region_embeddings"] = regions.boxes[rows], regions.embeddings[rows]
        if results.get("block_store") is not None:
            blocks = results["block_store"].view(results["img_id"])
            results["block_boxes"], results["block_embeddings"] = blocks.boxes, blocks.embeddings
        if results.get("global_store") is not None:
            results["image_embedding"] = _only_row(results["global_store"], results["img_id"])
        return results

    def __repr__(self) -> str:
        return f"{type(self).__name__}(top_k={self.top_k})"


def _only_row(store: RegionStore, image_id: int) -> np.ndarray:
    rows_1D = store.view(image_id).embeddings
    if not len(rows_1D):
        raise UserError(f"{store.path}: has no embedding of image {image_id} (its manifest says why, under skipped): "
                        "mend the image and make the store again, or leave the image out of the annotations")
    return rows_1D[0]


@TRANSFORMS.register_module()
class PackRegions(PackDetInputs):
    """mmdet's ``PackDetInputs``, and the regions moved with the image.

    Boxes are clipped to the image; regions that a crop has cut off are dropped, boxes and embeddings together.

    Adds ``data_samples.regions``: ``bboxes`` (float32 ``[R, 4]``, pixels of the transformed image), ``embeddings``
    (float16 ``[R, D]``); where they were loaded, ``data_samples.blocks`` in the same form, and
    ``data_samples.image_embedding`` (float16 ``[D]``; of the whole original image, whatever a crop leaves of it).

    Args:
        max_regions: If more are left, a random choice of so many, from NumPy's generator, which mmengine seeds in each
            worker from the run's seed. Makes distillation cheaper; the loss stays the same in expectation.
        min_size: Regions whose clipped width or height, in pixels of the transformed image, is not above this are
        dropped.
        max_blocks: As ``max_regions``, of the blocks.
        kwargs: As for ``PackDetInputs``.
    """

    def __init__(self, max_regions: int | None = None, min_size: float = 0.0, max_blocks: int | None = None,
                 **kwargs) -> None:
        super().__init__(**kwargs)
        self.max_regions = max_regions
        self.min_size = min_size
        self.max_blocks = max_blocks

    def transform(self, results: dict) -> dict:
        """The packed inputs, with ``regions`` in their data sample."""
        packed = super().transform(results)
        packed["data_samples"].regions = self._moved("region", results, self.max_regions)
        if "block_boxes" in results:
            packed["data_samples"].blocks = self._moved("block", results, self.max_blocks)
        if "image_embedding" in results:
            packed["data_samples"].image_embedding = torch.from_numpy(results["image_embedding"].copy())
        return packed

    def _moved(self, kind: str, results: dict, limit: int | None) -> InstanceData:
        boxes, kept = move_boxes(results[f"{kind}_boxes"], results.get("homography_matrix"), results["img_shape"],
                                 self.min_size)
        if limit is not None and len(kept) > limit:
            chosen = np.sort(np.random.permutation(len(kept))[:limit])  # noqa: NPY002 (seeded by mmengine)
            boxes, kept = boxes[chosen], kept[chosen]
        return InstanceData(bboxes=torch.from_numpy(boxes),
                            embeddings=torch.from_numpy(results[f"{kind}_embeddings"][kept]))

    def __repr__(self) -> str:
        return (f"{type(self).__name__}(max_regions={self.max_regions}, min_size={self.min_size}, "
                f"max_blocks={self.max_blocks})")


def move_boxes(boxes_R4: np.ndarray, matrix: np.ndarray | None, shape: tuple[int, int],
               min_size: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Boxes in the transformed image, clipped to it, and which rows are left.

    Args:
        boxes_R4: xyxy in original pixels.
        matrix: ``[3, 3]`` from original to transformed pixels, scales, flips and shifts only; None if nothing moved.
        shape: Height and width of the transformed image.
        min_size: Only boxes wider and higher than this are left.

    Returns:
        float32 ``[r, 4]`` and the rows of ``boxes_R4`` they come from ``[r]``.
    """
    corners = np.asarray(boxes_R4, dtype=np.float32).reshape(-1, 2, 2)  # (box, corner, xy)
    if matrix is not None:
        corners = corners * np.diag(matrix)[:2].astype(np.float32) + matrix[:2, 2].astype(np.float32)
    height, width = shape
    corners = np.sort(corners, axis=1).clip(0, np.float32([width, height]))
    kept = ((corners[:, 1] - corners[:, 0]) > min_size).all(axis=1).nonzero()[0]
    return corners[kept].reshape(-1, 4), kept


def check_followed(transforms: Sequence[Callable]) -> None:
    """Refuse a pipeline in which regions would not follow the image exactly.

    Args:
        transforms: The built pipeline.

    Raises:
        UserError: A transform between ``LoadRegions`` and ``PackRegions`` moves pixels without recording how, or a
            crop is padded to more than it was (the boxes would be clipped to the padded image only).
    """
    names = [type(transform).__name__ for transform in transforms]
    if "LoadRegions" not in names:
        if "PackRegions" in names:
            raise UserError("pipeline: PackRegions needs LoadRegions before it; put that after LoadAnnotations")
        return
    if names[-1] != "PackRegions":
        raise UserError(f"pipeline: LoadRegions needs PackRegions as the last step, in place of {names[-1]}")
    crop = None
    for transform in transforms[names.index("LoadRegions") + 1:-1]:
        inner = getattr(transform, "resize", None)
        culprit = inner if isinstance(inner, BaseTransform) and not isinstance(inner, Resize) else transform
        if culprit is inner or not isinstance(transform, FOLLOWED):
            raise UserError(f"pipeline: regions cannot follow {type(culprit).__module__}.{type(culprit).__name__}; "
                            "between LoadRegions and PackRegions use mmdet's transforms that record their geometry: "
                            + ", ".join(kind.__name__ for kind in FOLLOWED))
        if isinstance(transform, RandomCrop):
            crop = tuple(transform.crop_size) if transform.crop_type == "absolute" else ()
        if isinstance(transform, Pad) and crop not in (None, transform.size and tuple(transform.size)):
            raise UserError("pipeline: Pad after RandomCrop has to pad to the crop's size; otherwise leave padding to "
                            "the data_preprocessor (pad_size_divisor, BatchFixedSizePad)")
