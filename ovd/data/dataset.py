"""Annotated images whose labels are positions in a split."""

import colorsys
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
from mmdet.datasets import BaseDetDataset
from mmdet.registry import DATASETS

from ovd.data.annotations import Category, image_path, load_annotations
from ovd.data.images import check_image_file
from ovd.data.transforms import check_followed
from ovd.errors import UserError
from ovd.stores.shards import RegionStore
from ovd.vocabulary.splits import Split, get_split

LEVEL_OF = {"region_store": "objects", "block_store": "blocks", "global_store": "globals"}  # see ovd.clip.levels


@DATASETS.register_module()
class OpenVocabDataset(BaseDetDataset):
    """Images and boxes of a COCO or LVIS json; label ``i`` is class ``split.classes[i]``, base classes first.

    Classes are matched by name, so a file with its original category ids serves as well as a rewritten one. Works
    inside mmdet's ``ClassBalancedDataset`` (repeat factor sampling).

    Args:
        ann_file: The json. This and all other paths are relative to ``data_root``.
        split: Name of a split, or a json file with one.
        region_store: Folder with the cached regions of the images, for a pipeline with ``LoadRegions``.
        block_store, global_store: Folders with their blocks and with the embeddings of whole images, for the same.
        data_prefix: ``img`` is the images' folder.
        filter_cfg: In training, ``filter_empty_gt=True`` drops images without annotations of the split, and
            ``min_size`` those whose shorter side has fewer pixels.
        kwargs: As for mmdet's ``BaseDetDataset``.

    Raises:
        UserError: The annotations are not valid; training annotations contain novel classes; categories of the split
            are missing; the region store is missing or does not cover the images; its regions cannot follow the
            pipeline.
    """

    def __init__(self, *, ann_file: str, split: str | Split, region_store: str | None = None,
                 block_store: str | None = None, global_store: str | None = None, data_root: str = "",
                 data_prefix: dict | None = None, **kwargs) -> None:
        if not isinstance(split, Split):
            path = Path(data_root, split)
            split = get_split(str(path) if path.is_file() else str(split))
        self.split = split
        folders = {"region_store": region_store, "block_store": block_store, "global_store": global_store}
        self.stores = {key: RegionStore(Path(data_root, folder)) for key, folder in folders.items() if folder}
        metainfo = {"classes": self.split.classes, "split": self.split.name, "num_base": self.split.num_base,
                    "palette": _palette(len(self.split.classes))}
        super().__init__(ann_file=ann_file, data_root=data_root, data_prefix=data_prefix or {"img": ""},
                         metainfo={**metainfo, **(kwargs.pop("metainfo", None) or {})}, **kwargs)
        check_followed(self.pipeline.transforms)
        loads_regions = any(type(step).__name__ == "LoadRegions" for step in self.pipeline.transforms)
        if loads_regions and "region_store" not in self.stores:
            raise UserError(f"{ann_file}: its pipeline loads regions, but the dataset has no region_store; set it to "
                            "the folder that ovd embed-regions wrote")

    @classmethod
    def _load_metainfo(cls, metainfo: Mapping | None = None) -> dict:
        """As given; mmengine would take a text, such as the split's name, for that of a file of more."""
        return {**cls.METAINFO, **(metainfo or {})}

    def load_data_list(self) -> list[dict]:
        """One record an image: ``img_id, img_path, height, width, instances``.

        An instance has ``bbox`` (xyxy, original pixels), ``bbox_label``, ``ignore_flag`` (1 for crowds) and ``mask``
        (polygons or run lengths; kept as json text until the image is used).
        """
        annotations = load_annotations(self.ann_file)
        labels = self._labels_by_category(annotations.categories)
        by_image = annotations.by_image()
        records = [
            {"img_id": image.id, "img_path": str(image_path(image, self.data_prefix["img"])), "height": image.height,
             "width": image.width, "instances": [
                 {"bbox": _xyxy(ann.bbox), "bbox_label": labels[ann.category_id], "ignore_flag": int(bool(ann.iscrowd)),
                  "mask": bytes(ann.segmentation or b"null")}
                 for ann in by_image[image.id] if ann.category_id in labels and min(ann.bbox[2:]) >= 1]}
            for image in annotations.images
        ]
        self._check_instances(records)
        _check_images_exist(records, self.ann_file)
        return records

    def _labels_by_category(self, categories: list[Category]) -> dict[int, int]:
        known = (category for category in categories if category.name in self.split)
        by_id = {category.id: self.split.label(category.name) for category in known}
        needed = self.split.classes if self.test_mode else self.split.base
        missing = [name for label, name in enumerate(needed) if label not in by_id.values()]
        if missing:
            raise UserError(f"{self.ann_file}: no category for {len(missing)} of {len(needed)} classes of split "
                            f"{self.split.name}, the first is {missing[0]!r}; is it a file of another dataset?")
        return by_id

    def _check_instances(self, records: list[dict]) -> None:
        """Novel classes must not be trained on, and masks must be there where the pipeline wants them."""
        with_mask = any(getattr(step, "with_mask", False) for step in self.pipeline.transforms)
        for record in records:
            for instance in record["instances"]:
                if not self.test_mode and instance["bbox_label"] >= self.split.num_base:
                    name = self.split.classes[instance["bbox_label"]]
                    raise UserError(f"{self.ann_file}: image {record['img_id']} has an annotation of the novel class "
                                    f"{name!r}; train on the base-only file that ovd build-zsl writes")
                if with_mask and instance["mask"] == b"null":
                    raise UserError(f"{self.ann_file}: image {record['img_id']} has an annotation without a mask; set "
                                    "with_mask=False in LoadAnnotations and mask_head=None in the model, or add masks")

    def filter_data(self) -> list[dict]:
        """In training, drop images by ``filter_cfg``; the rest must have regions where there is a store."""
        records = self.data_list
        if not self.test_mode and self.filter_cfg:
            need_gt, min_size = self.filter_cfg.get("filter_empty_gt", False), self.filter_cfg.get("min_size", 0)
            records = [record for record in records
                       if (record["instances"] or not need_gt) and min(record["width"], record["height"]) >= min_size]
        if not records:
            raise UserError(f"{self.ann_file}: no image of {len(self.data_list)} is left (filter_cfg "
                            f"{self.filter_cfg}); does it have annotations of split {self.split.name}?")
        self._check_regions(records)
        return records

    def _check_regions(self, records: list[dict]) -> None:
        for key, store in self.stores.items():
            if store.kind != "regions":
                raise UserError(f"{store.path}: a store of {store.kind} has no embeddings; run "
                                f"ovd embed-regions and set {key} to its output")
            level, wanted = store.manifest.config.get("what", "objects"), LEVEL_OF[key]
            if level != wanted:
                raise UserError(f"{store.path}: is a store of {level}, and {key} needs {wanted}; make one with "
                                f"ovd embed-regions --what {wanted}")
            missing = [record["img_id"] for record in records if record["img_id"] not in store]
            if missing:
                raise UserError(f"{self.ann_file}: {len(missing)} of {len(records)} images are not in its "
                                f"{key.replace('_', ' ')}, the first is {missing[0]}; run ovd embed-regions "
                                "for this annotation file")

    def get_data_info(self, idx: int) -> dict:
        """An image's record with its masks decoded, and the region stores for ``LoadRegions``.

        Raises:
            UserError: The image file is cut off or no image.
        """
        record = super().get_data_info(idx)
        check_image_file(record["img_path"])
        for instance in record["instances"]:
            instance["mask"] = msgspec.json.decode(instance["mask"])
        return {**record, "region_store": self.stores.get("region_store"), **self.stores}

    def prepare_data(self, idx: int) -> dict | None:
        """An image through the pipeline (:meth:`process`)."""
        return self.process(self.get_data_info(idx))

    def process(self, record: dict, pipeline: Callable[[dict], dict | None] | None = None) -> dict | None:
        """A record of :meth:`get_data_info` (some of its instances, perhaps) through the pipeline, or another one.

        Raises:
            UserError: The decoded image has another size than its annotations say (the boxes would not fit it).
        """
        stated, path = (record["height"], record["width"]), record["img_path"]
        packed = (pipeline or self.pipeline)(record)
        found = packed["data_samples"].get("ori_shape", stated) if packed and "data_samples" in packed else stated
        if tuple(found[:2]) != stated:
            raise UserError(f"{path}: is {found[1]} x {found[0]} as decoded, {self.ann_file} says {stated[1]} x "
                            f"{stated[0]}; correct one of them, or, if its EXIF data turn it, load it with "
                            'LoadImageFromFile(color_type="color_ignore_orientation")')
        return packed

    def get_cat_ids(self, idx: int) -> list[int]:
        """Labels in the image, for repeat factor sampling."""
        return [instance["bbox_label"] for instance in self.get_instances(idx)]

    def get_instances(self, idx: int) -> list[dict]:
        """The image's instances as :meth:`load_data_list` made them, without a look at its file."""
        return super().get_data_info(idx)["instances"]


def _check_images_exist(records: list[dict], ann_file: str) -> None:
    """Refuse a dataset with missing image files; each folder is listed once."""
    present: dict[str, set[str]] = {}
    for record in records:
        folder, name = os.path.split(record["img_path"])
        if folder not in present:
            present[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        if name not in present[folder]:
            raise UserError(f"{record['img_path']}: no such image (image {record['img_id']} of {ann_file}); check "
                            "data_root and data_prefix")


def _xyxy(box) -> list[float]:
    x, y, width, height = box
    return [x, y, x + width, y + height]


def _palette(count: int) -> list[tuple[int, int, int]]:
    """Distinct RGB colours: golden-ratio steps around the hue circle."""
    return [tuple(round(255 * c) for c in colorsys.hsv_to_rgb(i * 0.618034 % 1, 0.75, 0.95)) for i in range(count)]
