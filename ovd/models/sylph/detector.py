"""The detector: FCOS that learns base classes, learns to make classes from boxes, and detects both in one pass.

Shapes: B images, S shots, N locations, C classes, D width of class features, h x w size of RoI features.
"""

import hashlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from mmdet.models.detectors import FCOS
from mmdet.registry import MODELS
from mmdet.structures import SampleList
from mmdet.structures.bbox import bbox2roi
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ovd.engine.freezing import FreezesParts
from ovd.errors import UserError
from ovd.fewshot.hypernetworks.auxiliary_losses import distillation_loss
from ovd.models.region_detection import full_precision
from ovd.models.sylph.evidence import Evidence, relabelled
from ovd.models.sylph.head import CodeFCOSHead
from ovd.stores.class_heads import ClassHead
from ovd.vocabulary.classes import canonical

# what decides the features that rows are compared with; rows of detectors that agree in it go side by side
SPACE_PARTS = ("backbone.", "neck.", "bbox_head.cls_convs.")
_OUTGROWN = "meta-training changed (model.trainable)"


class CodeFCOS(FCOS):
    """FCOS that detects the classes of a class head: its own rows, rows made from boxes, or both.

    Classes that the detector was trained on and all others ("added" ones) are detected apart, each with its own number
    of candidates and detections: whatever is added, detections of base classes stay the same, to the bit on a CPU.

    Args:
        code_generator: Config of a :class:`~ovd.fewshot.hypernetworks.CodeGenerator` whose codes have the tower's
            width; None for a detector of base classes.
        support_extractor: Config of a RoI extractor over the pyramid, whose features the generator reads.
        kwargs: As for mmdet's ``FCOS``. ``test_cfg`` has ``score_thr``, ``nms_pre``, ``nms.iou_threshold`` and
            ``max_per_img``.

    Raises:
        UserError: A generator without extractor, or of another width than the tower's.
    """

    bbox_head: CodeFCOSHead

    def __init__(self, *, code_generator: dict | None = None, support_extractor: dict | None = None,
                 **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if (code_generator is None) != (support_extractor is None):
            raise UserError("model: code_generator and support_extractor go together: give both, or neither")
        self.code_generator = None if code_generator is None else MODELS.build(code_generator)
        self.support_extractor = None if support_extractor is None else MODELS.build(support_extractor)
        width = self.bbox_head.feat_channels
        if self.code_generator is not None and self.code_generator.out_channels != width:
            raise UserError(f"model.code_generator: codes of width {self.code_generator.out_channels} for a "
                            f"classification tower of width {width}: set out_channels={width}")
        self._vocabulary: ClassHead | None = self.bbox_head.class_head
        self._groups: list[tuple[ClassHead, Tensor]] | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        """The current vocabulary; a detection's label is an index into it."""
        return self.bbox_head.base_names if self._vocabulary is None else self._vocabulary.names

    def set_class_head(self, head: ClassHead | None) -> None:
        """Detect the classes of ``head`` from now on; None for the classes of training.

        Raises:
            UserError: Rows of another width, or for another detector's features (:meth:`space`).
        """
        self._groups = None if head is None else self._split(head)
        self._vocabulary = head

    def _split(self, head: ClassHead) -> list[tuple[ClassHead, Tensor]]:
        """Base classes and added ones, with their labels in the whole vocabulary."""
        head.check(dim=self.bbox_head.feat_channels, space=self.space())
        trained = set(map(canonical, self.bbox_head.base_names))
        groups = [[], []]
        for label, name in enumerate(head.names):
            groups[canonical(name) not in trained].append(label)
        return [(head.select([head.names[label] for label in labels]), torch.tensor(labels))
                for labels in groups if labels]

    def space(self) -> str:
        """Which features rows are compared with: a digest of the weights that make them."""
        sha = hashlib.sha256()
        for name, value in sorted(self.state_dict().items()):
            if name.startswith(SPACE_PARTS) and not name.endswith("num_batches_tracked"):
                sha.update(name.encode())
                sha.update(value.detach().float().cpu().contiguous().numpy().tobytes())
        return f"fcos:{sha.hexdigest()}"

    def _own_rows(self) -> ClassHead:
        return self.bbox_head.own_head()

    def base_head(self) -> ClassHead:
        """The rows of the base classes that training gave, as a class head that others can be put beside."""
        space = self.space()
        own = self.bbox_head.own_head()
        return ClassHead(own.names, own.weights, bias=own.bias, norm=own.norm,
                         provenance=tuple({"source": "detector", "space": space} for _ in own.names),
                         stats={"space": space})

    def support_features(self, batch_inputs: Tensor, batch_data_samples: SampleList) -> Tensor:
        """RoI features of the ground-truth boxes, image by image: ``[S, levels * channels, h, w]``.

        Args:
            batch_inputs: Preprocessed images.
            batch_data_samples: Their ``gt_instances.bboxes`` are in input pixels, as training pipelines give them.

        Raises:
            UserError: The detector has no code generator.
        """
        self._need_generator()
        return self._roi_features(self.extract_feat(batch_inputs), batch_data_samples)

    def _roi_features(self, levels: Sequence[Tensor], batch_data_samples: SampleList) -> Tensor:
        rois_S5 = bbox2roi([sample.gt_instances.bboxes for sample in batch_data_samples])
        return self.support_extractor(full_precision(levels[:self.support_extractor.num_inputs]), rois_S5)

    @torch.no_grad()
    def code_head(self, features_SChw: Tensor, class_of_S: Tensor, names: Sequence[str],
                  provenance: Sequence[Mapping[str, Any]] | None = None) -> ClassHead:
        """Classes from the features of their support boxes; nothing is trained.

        A class's row depends on its own boxes only: made with others or alone, it is the same to the bit on a CPU.

        Args:
            features_SChw: As :meth:`support_features` gives them.
            class_of_S: Long, each box's class: an index into ``names``.
            names: Of the classes.
            provenance: For each class, where its boxes are from.

        Raises:
            UserError: The detector has no code generator; a class has no box.
        """
        self._need_generator()
        device = next(self.parameters()).device  # the features may have been kept on the CPU
        shots = torch.bincount(class_of_S, minlength=len(names)).tolist()
        if 0 in shots:
            raise UserError(f"class {names[shots.index(0)]!r} has no support box: draw at least one")
        with _evaluating(self.code_generator) as generator:
            codes = generator(features_SChw.to(device), class_of_S.to(device), len(names))
        space = self.space()
        provenance = provenance or [{} for _ in names]
        source = {"source": "hypernetwork", "generator": type(generator).__name__, "space": space}
        return ClassHead(tuple(names), codes.weights_CD[:, None], bias=codes.bias_C, norm="linear",
                         provenance=tuple({**source, "shots": k, **p} for k, p in zip(shots, provenance)),
                         stats={"space": space})

    def _need_generator(self) -> None:
        if self.code_generator is None:
            raise UserError("this detector makes no classes from boxes: it has no code generator; use a config that "
                            "trains one (configs/sylph/sylph_*.py) and its checkpoint")

    @torch.no_grad()
    def evidence(self, batch_inputs: Tensor, batch_data_samples: SampleList) -> Evidence:
        """All about a batch that does not depend on the vocabulary: one pass serves any number of them."""
        metas = [sample.metainfo for sample in batch_data_samples]
        return self.bbox_head.evidence(self.extract_feat(batch_inputs), metas)

    def detect(self, evidence: Evidence, batch_data_samples: SampleList) -> list[InstanceData]:
        """Detections of the current vocabulary per image: ``bboxes`` (xyxy, original pixels), ``scores``, ``labels``.

        Raises:
            UserError: A class head that the config names is for another detector's features.
        """
        return self._detect(evidence, batch_data_samples, rescale=True)

    @torch.no_grad()
    def _detect(self, evidence: Evidence, batch_data_samples: SampleList, rescale: bool) -> list[InstanceData]:
        if self._vocabulary is not None and self._groups is None:  # from a config, before the weights were there
            self._groups = self._split(self._vocabulary)
        cfg = self.test_cfg
        groups = self._groups
        if groups is None:
            own = self._own_rows()
            groups = [(own, torch.arange(len(own)))]
        results = []
        for image, sample in enumerate(batch_data_samples):
            parts = []
            for head, labels in groups:
                found = evidence.detect(image, head, score_thr=cfg["score_thr"], nms_pre=cfg["nms_pre"],
                                        iou_threshold=cfg["nms"]["iou_threshold"], max_per_img=cfg["max_per_img"])
                parts.append((found, labels.to(found.labels.device)))
            found = relabelled(parts)
            if rescale:
                found.bboxes = found.bboxes / found.bboxes.new_tensor(sample.metainfo["scale_factor"]).repeat(2)
            results.append(found)
        return results

    def predict(self, batch_inputs: Tensor, batch_data_samples: SampleList, rescale: bool = True) -> SampleList:
        """The data samples with ``pred_instances``, as :meth:`detect` gives them."""
        evidence = self.evidence(batch_inputs, batch_data_samples)
        return self.add_pred_to_datasample(batch_data_samples, self._detect(evidence, batch_data_samples, rescale))


@MODELS.register_module()
class SylphFCOS(FreezesParts, CodeFCOS):
    """Incremental few-shot detection without training on new classes (Yin, Perez-Rua, Liang, "Sylph", CVPR 2022).

    A batch of plain images trains FCOS; an episode (:mod:`ovd.data.episodes`) trains the code generator, by the focal
    loss of the classes that it makes from the supports, on the queries. What else an episode trains is said by
    ``frozen``: ``["backbone", "neck", "bbox_head"]`` leaves the generator alone, with
    ``trainable=["bbox_head.cls_convs"]`` the classification tower is trained too. Boxes have no loss in an episode.

    Args:
        distillation: Weight of the difference between codes and the base classifier's rows of the same classes.
        frozen, trainable: See :class:`~ovd.engine.freezing.FreezesParts`.
        kwargs: See :class:`CodeFCOS`.
    """

    def __init__(self, *, distillation: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.distillation = distillation

    @property
    def outgrew_rows(self) -> bool:
        """Whether episodes train the features that the base classes' rows are compared with, and not the rows."""
        kept = self.freezing
        return (self.code_generator is not None and kept is not None and "bbox_head.cls_logits.weight" in kept.frozen
                and any(name.startswith(SPACE_PARTS) for name in kept.trainable))

    def base_head(self) -> ClassHead:
        """As :meth:`CodeFCOS.base_head`.

        Raises:
            UserError: The rows are those of the features before meta-training (:attr:`outgrew_rows`).
        """
        if self.outgrew_rows:
            raise UserError(f"the rows of the base classes are not of this detector's features, which "
                            f"{_OUTGROWN}: make base classes of boxes too, with --base-shots 10")
        return super().base_head()

    def _own_rows(self) -> ClassHead:
        if self.outgrew_rows:
            warnings.warn(f"detecting with rows of base classes that are not of the features, which {_OUTGROWN}: give "
                          "a class head (ovd class-codes --with-base --base-shots 10)", stacklevel=2)
        return super()._own_rows()

    def loss(self, batch_inputs: Tensor, batch_data_samples: SampleList) -> dict[str, Tensor]:
        """Losses of a batch of images, or of an episode, whose samples have a ``role``.

        Raises:
            UserError: An episode for a detector without code generator.
        """
        if "role" not in batch_data_samples[0].metainfo:
            return super().loss(batch_inputs, batch_data_samples)
        self._need_generator()
        levels = self.extract_feat(batch_inputs)
        is_query = torch.tensor([sample.metainfo["role"] == "query" for sample in batch_data_samples])
        queries, supports = is_query.nonzero()[:, 0], (~is_query).nonzero()[:, 0]
        names = batch_data_samples[0].metainfo["episode_classes"]
        shots = [batch_data_samples[image] for image in supports.tolist()]
        features_SChw = self._roi_features([level[supports] for level in levels], shots)
        class_of_S = torch.cat([sample.gt_instances.labels for sample in shots])
        codes = self.code_generator(features_SChw, class_of_S, len(names))
        truth = [batch_data_samples[image].gt_instances for image in queries.tolist()]
        losses = {"loss_cls": self.bbox_head.code_loss([level[queries] for level in levels], codes.weights_CD,
                                                       codes.bias_C, truth), **codes.losses}
        if self.distillation:
            row_of = {canonical(name): row for row, name in enumerate(self.bbox_head.base_names)}
            rows = [row_of[canonical(name)] for name in names]
            trained = self.bbox_head.cls_logits
            losses["loss_distill"] = self.distillation * distillation_loss(
                codes.weights_CD, codes.bias_C, trained.weight[rows, :, 0, 0].detach(), trained.bias[rows].detach())
        return losses


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[nn.Module]:
    """The module in evaluation mode, for a while."""
    training = module.training
    module.eval()
    try:
        yield module
    finally:
        module.train(training)
