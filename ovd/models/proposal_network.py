"""A trained class-agnostic proposal network (RPN; Ren et al. 2015): images in, scored boxes in original pixels out."""

import copy
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from mmcv.transforms import Compose
from mmdet.datasets.transforms import PackDetInputs
from mmdet.models import RPN
from mmdet.registry import MODELS, TRANSFORMS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import Tensor, nn

from ovd.data.images import Photo, check_image_file
from ovd.engine.checkpoints import load_exactly
from ovd.errors import UserError

PARTS = ("backbone", "neck", "rpn_head", "data_preprocessor")
META_KEYS = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")


@dataclass(frozen=True)
class Prepared:
    """A photo that went through the config's test pipeline, as the model's data preprocessor takes it."""

    photo: Photo
    inputs: Tensor
    data_sample: object


class ProposalNetwork:
    """Backbone, neck and RPN head of a config's model, whether that is an RPN alone or a two-stage detector.

    The rest of a detector (its RoI head, class head, masks) is not built, so its files need not be there.

    Args:
        cfg: has ``model`` and ``test_dataloader.dataset.pipeline``.
        checkpoint: as :func:`ovd.engine.checkpoints.read_checkpoint` returns it.
        source: the checkpoint's file, for messages.
        max_per_image: boxes to keep of an image.
        device: where the network computes.

    Raises:
        UserError: the config has no RPN, or the checkpoint does not fit it.
    """

    def __init__(self, cfg: Config, checkpoint: dict, source: str | os.PathLike, max_per_image: int = 300,
                 device: torch.device | str = "cpu") -> None:
        init_default_scope(cfg.get("default_scope", "mmdet"))
        self.max_per_image = max_per_image
        self.device = torch.device(device)
        self.rpn = _build_rpn(cfg, max_per_image)
        weights = _rpn_weights(checkpoint["state_dict"])
        load_exactly(self.rpn, weights, source)
        _check_finite(weights, source)
        self.rpn.to(self.device).eval()
        self.pipeline = _build_pipeline(cfg)

    def prepare(self, photo: Photo) -> Prepared:
        """Read a photo and bring it to the model's size; may run in a thread.

        Raises:
            UserError: the file is missing, cut off or no image, or has another size than the annotations say.
        """
        check_image_file(photo.path)
        try:
            packed = self.pipeline({"img_path": photo.path, "img_id": photo.image_id, "height": photo.height,
                                    "width": photo.width})
        except (AssertionError, OSError, ValueError) as error:
            raise UserError(f"{photo.path}: cannot be decoded ({error})") from error
        height, width = packed["data_samples"].ori_shape
        if (height, width) != (photo.height, photo.width):
            raise UserError(f"{photo.path}: is {width} x {height} pixels, but the annotations say {photo.width} x "
                            f"{photo.height}; are these the images that were annotated (and rotated likewise)?")
        return Prepared(photo, packed["inputs"], packed["data_samples"])

    def padded_shape(self, prepared: Prepared) -> tuple[int, int]:
        """Height and width with which the photo enters the network. Photos of one shape can share a batch without
        padding one another, so that what a photo gives does not depend on its batch."""
        divisor = self.rpn.data_preprocessor.pad_size_divisor
        height, width = prepared.inputs.shape[-2:]
        return -(-height // divisor) * divisor, -(-width // divisor) * divisor

    @torch.inference_mode()
    def propose(self, batch: Sequence[Prepared]) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each photo, boxes float32 ``[n, 4]`` (xyxy, original pixels, inside it), scores ``[n]``, descending."""
        data = self.rpn.data_preprocessor({"inputs": [item.inputs for item in batch],
                                           "data_samples": [item.data_sample for item in batch]})
        features = self.rpn.extract_feat(data["inputs"])
        results = self.rpn.bbox_head.predict(features, data["data_samples"], rescale=True)
        return [self._tidy(item.photo, found.bboxes, found.scores) for item, found in zip(batch, results)]

    def _tidy(self, photo: Photo, boxes_N4: Tensor, scores_N: Tensor) -> tuple[np.ndarray, np.ndarray]:
        boxes_N4 = boxes_N4.float().cpu().numpy()
        scores_N = scores_N.float().cpu().numpy()
        boxes_N4 = boxes_N4.clip(0, np.float32([photo.width, photo.height] * 2))
        kept = np.flatnonzero((boxes_N4[:, 2] > boxes_N4[:, 0]) & (boxes_N4[:, 3] > boxes_N4[:, 1]))
        kept = kept[np.argsort(-scores_N[kept], kind="stable")][: self.max_per_image]
        return boxes_N4[kept], scores_N[kept]


def trained_classes(checkpoint: dict) -> tuple[str, ...] | None:
    """Names of the classes whose boxes a checkpoint was trained on, or None where it does not say.

    Training data of this project has base annotations only, whatever the vocabulary; other projects' checkpoints name
    the classes of their data.
    """
    meta = checkpoint.get("meta") or {}
    data = meta.get("dataset_meta") or meta
    names = data.get("classes") or data.get("CLASSES")
    if not names or isinstance(names, str):
        return None
    bases = data.get("num_base")
    return tuple(names if bases is None else names[:bases])


def _build_rpn(cfg: Config, max_per_image: int) -> nn.Module:
    model = cfg.get("model") or {}
    missing = [part for part in ("backbone", "rpn_head") if part not in model]
    rpn_cfg = (model.get("test_cfg") or {}).get("rpn")
    if rpn_cfg is None:
        missing.append("test_cfg.rpn")
    if missing:
        raise UserError(f"{cfg.filename}: its model has no {missing[0]}; give the config of an RPN or of a two-stage "
                        "detector, the one that the checkpoint was trained with")
    parts = {part: copy.deepcopy(model[part]) for part in PARTS if part in model}
    parts["backbone"].pop("init_cfg", None)  # all weights come from the checkpoint
    rpn_cfg = {**rpn_cfg, "max_per_img": max_per_image, "nms_pre": max(rpn_cfg.get("nms_pre", 0), max_per_image)}
    return MODELS.build({"type": RPN, "neck": None, **parts, "train_cfg": None, "test_cfg": {"rpn": rpn_cfg}})


def _rpn_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The proposal network's part of a detector's weights, under the names that mmdet's RPN has for them."""
    head = "rpn_head." if any(name.startswith("rpn_head.") for name in weights) else "bbox_head."
    renamed = {}
    for name, value in weights.items():
        if name.startswith(("backbone.", "neck.")):
            renamed[name] = value
        elif name.startswith(head):
            renamed["bbox_head." + name[len(head):]] = value
    return renamed


def _check_finite(weights: dict[str, Tensor], source: str | os.PathLike) -> None:
    """Refuse weights of a training that diverged: their boxes would be dropped without a word."""
    for name, value in weights.items():
        if not torch.isfinite(value).all():
            raise UserError(f"{source}: {name} holds values that are not finite; its training diverged, train it again")


def _build_pipeline(cfg: Config) -> Compose:
    """The config's test pipeline without what reads annotations."""
    steps = ((cfg.get("test_dataloader") or {}).get("dataset") or {}).get("pipeline")
    if not steps:
        raise UserError(f"{cfg.filename}: no test_dataloader.dataset.pipeline says how images come to the model's size")
    names = [kind if isinstance(kind, str) else kind.__name__ for kind in (step["type"] for step in steps)]
    reads_image = [step for step, name in zip(steps, names)
                   if not name.startswith(("LoadAnnotations", "LoadRegions", "LoadProposals", "Pack"))]
    return Compose([TRANSFORMS.build(step) for step in reads_image] + [PackDetInputs(meta_keys=META_KEYS)])
