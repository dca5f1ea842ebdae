"""The detector: a trained ViLD with a network beside it that makes classes from boxes.

Shapes: S shots, N query regions, E classes of an episode, C classes, D embedding width, h x w size of RoI features.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmdet.models.utils import unpack_gt_instances
from mmdet.registry import MODELS
from mmdet.structures import SampleList
from mmdet.structures.bbox import bbox2roi
from torch import Tensor

from ovd.engine.freezing import FreezesParts, freeze
from ovd.errors import UserError
from ovd.models.hyper_roi.codes import ResidualCodes
from ovd.models.hyper_roi.episode_loss import EpisodeLoss, detector_targets
from ovd.models.region_detection import full_precision
from ovd.models.vild import ViLD
from ovd.models.vild_roi_head import ViLDRoIHead
from ovd.stores.class_heads import ClassHead

DETECTOR = ("backbone", "neck", "rpn_head", "roi_head")


@MODELS.register_module()
class HyperViLD(FreezesParts, ViLD):
    """ViLD whose added classes may be made from support boxes by a hypernetwork (Sylph's idea, over a RoI head and in
    CLIP's space): a class's code is a unit vector that stands beside text rows and is blended with them.

    Episodes (:class:`~ovd.data.episodes.EpisodeDataset`) over base classes train the network alone; the detector is
    that of the checkpoint which training starts from (``load_from``) and detects as it did. Of the queries, regions are
    sampled as in ViLD's training, background included; the loss is :class:`EpisodeLoss`.

    Args:
        code_generator: Config of :class:`ResidualCodes` without ``embed_dim``; None for its defaults.
        episode_loss: Config of :class:`EpisodeLoss`; None for its defaults.
        distillation: Weight of the codes' mean distance ``1 - cos`` from the text rows of their classes.
        kwargs: As for :class:`ViLD`.

    Raises:
        UserError: A detector of several heads (an ensemble, a cascade), whose embeddings a code cannot be all alike.
    """

    def __init__(self, *, code_generator: dict | None = None, episode_loss: dict | None = None,
                 distillation: float = 0.0, frozen: Sequence[str] = DETECTOR, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if len(self.roi_head.text_heads) != 1 or self.roi_head.image_heads:
            raise UserError("model: a code is a row of one classifier: train the hypernetwork over a ViLD with one box "
                            "head (mode both, text or image, no cascade)")
        width = self.roi_head.classifier.embed_dim
        self.code_generator = MODELS.build({"type": ResidualCodes, **(code_generator or {}), "embed_dim": width})
        self.episode_loss = MODELS.build(episode_loss or {"type": EpisodeLoss})
        self.distillation = distillation
        self.freezing = freeze(self, frozen)

    roi_head: ViLDRoIHead

    def loss(self, batch_inputs: Tensor, batch_data_samples: SampleList) -> dict[str, Tensor]:
        """``loss_cls`` of an episode, ``loss_distill`` where asked for, and ``code_accuracy``: of the regions on the
        episode's objects, the share (per cent) that the right code is nearest to among all columns.

        Raises:
            UserError: A batch that is no episode, or one whose queries miss boxes that the loss needs.
        """
        info = batch_data_samples[0].metainfo
        if "role" not in info:
            raise UserError("HyperViLD learns from episodes: let the train_dataloader's dataset be an EpisodeDataset "
                            "(ovd/data/episodes.py) with collate_fn one_episode")
        if self.episode_loss.kind == "softmax" and info["others"] != "keep":
            raise UserError("HyperViLD's softmax is over all base classes: set others='keep' in the EpisodeDataset, or "
                            "episode_loss.kind='focal'")
        is_query = torch.tensor([sample.metainfo["role"] == "query" for sample in batch_data_samples])
        queries, supports = is_query.nonzero()[:, 0], (~is_query).nonzero()[:, 0]
        with torch.no_grad():
            x = full_precision(self.extract_feat(batch_inputs))
            regions_ND, labels_N = self._regions(_of(x, queries), [batch_data_samples[i] for i in queries.tolist()])
            shots = [batch_data_samples[i] for i in supports.tolist()]
            features_SChw = self._roi_features(_of(x, supports), shots)
            embeddings_SD = self._embed(features_SChw)
        class_of_S = torch.cat([sample.gt_instances.labels for sample in shots])
        columns_E = torch.tensor(info["episode_labels"], device=labels_N.device)
        codes = self.code_generator(features_SChw, embeddings_SD, class_of_S, len(columns_E))
        with torch.autocast(regions_ND.device.type, enabled=False):  # as the classifier's
            code_logits_NE = regions_ND @ codes.weights_CD.float().T / self.roi_head.classifier.temperature_train
        known_NK = self.roi_head.classifier(regions_ND)
        targets_N = detector_targets(labels_N, columns_E, background=self.roi_head.classifier.num_classes)
        if self.roi_head.classifier.background is None:  # ViLD-image knows no background
            objects = targets_N < known_NK.shape[1]
            code_logits_NE, known_NK, targets_N = code_logits_NE[objects], known_NK[objects], targets_N[objects]
        losses = {"loss_cls": self.episode_loss(code_logits_NE, known_NK, targets_N, columns_E), **codes.losses,
                  "code_accuracy": _accuracy(code_logits_NE, known_NK, targets_N, columns_E)}
        if self.distillation:
            rows_ED = F.normalize(self.roi_head.classifier.classes_CMD[columns_E].sum(dim=1), dim=1)
            losses["loss_distill"] = self.distillation * (1 - (codes.weights_CD * rows_ED).sum(dim=1)).mean()
        return losses

    def _regions(self, x: tuple[Tensor], queries: SampleList) -> tuple[Tensor, Tensor]:
        """Embeddings ``[N, D]`` of sampled regions of the queries, and their labels in the episode (-1: background)."""
        proposals = self.rpn_head.predict_by_feat(
            *self.rpn_head(x), batch_img_metas=[sample.metainfo for sample in queries],
            cfg=self.train_cfg.get("rpn_proposal", self.test_cfg.rpn))
        boxes, labels = [], []
        for found, gt, ignored in zip(proposals, *unpack_gt_instances(queries)[:2]):
            found.priors = found.pop("bboxes")
            assigned = self.roi_head.bbox_assigner.assign(found, gt, ignored)
            sampled = self.roi_head.bbox_sampler.sample(assigned, found, gt)
            boxes.append(sampled.priors)
            labels += [sampled.pos_gt_labels, sampled.pos_gt_labels.new_full((len(sampled.neg_inds),), -1)]
        features = self.roi_head.bbox_roi_extractor(x[:self.roi_head.bbox_roi_extractor.num_inputs], bbox2roi(boxes))
        return self._embed(features), torch.cat(labels)

    def _roi_features(self, x: tuple[Tensor], batch_data_samples: SampleList) -> Tensor:
        rois_S5 = bbox2roi([sample.gt_instances.bboxes for sample in batch_data_samples])
        return self.roi_head.bbox_roi_extractor(x[:self.roi_head.bbox_roi_extractor.num_inputs], rois_S5)

    def _embed(self, features_SChw: Tensor) -> Tensor:
        return self.roi_head.bbox_head.embed(self.roi_head.bbox_head.trunk(features_SChw))

    @torch.no_grad()
    def support_features(self, batch_inputs: Tensor, batch_data_samples: SampleList) -> Tensor:
        """RoI features ``[S, channels, h, w]`` of the boxes in ``gt_instances``, image after image: what the box head
        sees.

        Args:
            batch_inputs: Preprocessed images.
            batch_data_samples: Their ``gt_instances.bboxes`` are in input pixels, as training pipelines give them.
        """
        return self._roi_features(full_precision(self.extract_feat(batch_inputs)), batch_data_samples)

    @torch.no_grad()
    def code_head(self, features_SChw: Tensor, class_of_S: Tensor, names: Sequence[str],
                  provenance: Sequence[Mapping[str, Any]] | None = None) -> ClassHead:
        """Classes from the features of their support boxes, in the space of the detector's class head; nothing is
        trained.

        A class's row depends on its own boxes only: made with others or alone, it is the same to the bit on a CPU.

        Args:
            features_SChw: As :meth:`support_features` gives them.
            class_of_S: Long, each box's class: an index into ``names``.
            names: Of the classes.
            provenance: For each class, where its boxes are from (and the checkpoint, the seed, ...).

        Raises:
            UserError: A class has no box; the detector has no class head yet, so its space is not known.
        """
        base = self.roi_head.classifier.head
        if base is None:
            raise UserError("the detector has no class head, so nothing says whose space its codes are in: set "
                            "class_head in the config")
        class_of_S, device = class_of_S.to(features_SChw.device), next(self.parameters()).device
        shots = torch.bincount(class_of_S, minlength=len(names)).tolist()
        if 0 in shots:
            raise UserError(f"class {names[shots.index(0)]!r} has no support box: draw at least one")
        was_training, rows = self.training, []
        self.eval()
        for label, k in enumerate(shots):  # each class by itself, so that others change no bit of it
            own = features_SChw[class_of_S == label].to(device)  # they may have been kept on the CPU
            labels = torch.zeros(k, dtype=torch.long, device=device)
            rows.append(self.code_generator(own, self._embed(own), labels, 1).weights_CD)
        self.train(was_training)
        source = {"source": "hypernetwork", "generator": self.code_generator.kind,
                  "weights": self.code_generator.digest()}
        stats = {key: base.stats[key] for key in ("clip", "scores", "clip_bias") if key in base.stats}
        bias = [base.clip_bias] * len(rows) if base.clip_bias else None
        return ClassHead(tuple(names), torch.stack(rows), bias, base.scale, stats=stats, provenance=tuple(
            {**source, "shots": k, **own} for k, own in zip(shots, provenance or [{} for _ in names])))


def _of(x: tuple[Tensor], images: Tensor) -> tuple[Tensor]:
    """Levels of some images of the batch."""
    return tuple(level[images.to(level.device)] for level in x)


def _accuracy(code_logits_NE: Tensor, known_NK: Tensor, targets_N: Tensor, columns_E: Tensor) -> Tensor:
    """Per cent of the regions of the episode's classes whose own code is nearest among all columns."""
    own_N = torch.isin(targets_N, columns_E)
    found_N = known_NK.index_copy(1, columns_E, code_logits_NE.detach().to(known_NK.dtype)).argmax(dim=1)
    return 100 * (found_N == targets_N)[own_N].float().mean().nan_to_num(nan=0.0)
