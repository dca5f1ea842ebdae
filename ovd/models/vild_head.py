"""The box head: shared trunk, class-agnostic regression, projection to a unit embedding, cosine classifier.

Shapes: N regions, D embedding width, C classes, K logits (C + 1 with background).
"""

import torch
import torch.nn.functional as F
from mmdet.models.roi_heads.bbox_heads import ConvFCBBoxHead
from mmdet.registry import MODELS
from torch import Tensor, nn

from ovd.stores.class_heads import ClassHead


@MODELS.register_module()
class ViLDBBoxHead(ConvFCBBoxHead):
    """mmdet's box head whose last class layer is a projection to CLIP's space and a classifier there (ViLD, fig. 3).

    ``num_shared_convs`` and ``num_shared_fcs`` (4 and 1 in DetPro and OADP) and the widths are configurable as in
    mmdet; there is no separate class branch, since the same features serve classes, distillation and regression.

    Args:
        classifier: Config of :class:`~ovd.models.classifier.CosineClassifier`.
        classify: Whether the classification loss is computed (not for ViLD-image).
        kwargs: As for mmdet's ``ConvFCBBoxHead``. ``num_classes`` comes from the classifier.
    """

    def __init__(self, classifier: dict, num_shared_convs: int = 4, num_shared_fcs: int = 1, classify: bool = True,
                 **kwargs) -> None:
        classifier = MODELS.build(classifier)
        super().__init__(with_cls=False, reg_class_agnostic=True, num_classes=classifier.num_classes,
                         num_shared_convs=num_shared_convs, num_shared_fcs=num_shared_fcs, **kwargs)
        self.classifier = classifier
        self.classify = classify
        self.projection = nn.Linear(self.cls_last_dim, classifier.embed_dim)
        if kwargs.get("init_cfg") is None:
            self.init_cfg += [{"type": "Xavier", "distribution": "uniform", "override": {"name": "projection"}}]

    def set_class_head(self, head: ClassHead) -> None:
        """Replace the vocabulary (:meth:`CosineClassifier.set_class_head`)."""
        self.classifier.set_class_head(head)
        self.num_classes = self.classifier.num_classes

    def trunk(self, features: Tensor) -> Tensor:
        """RoI features ``[N, channels, h, w]`` to the shared vector ``[N, cls_last_dim]``."""
        for conv in self.shared_convs:
            features = conv(features)
        if self.with_avg_pool:
            features = self.avg_pool(features)
        features = features.flatten(1)
        for fc in self.shared_fcs:
            features = self.relu(fc(features))
        return features

    def embed(self, trunk_features: Tensor) -> Tensor:
        """Unit embeddings, float32 ``[N, D]`` (normalised in full precision, also under autocast)."""
        return F.normalize(self.projection(trunk_features).float(), dim=-1)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """RoI features to logits ``[N, K]`` and box deltas ``[N, 4]``."""
        embeddings_ND, deltas_N4 = self.regions(features)
        return self.classifier(embeddings_ND), deltas_N4

    def regions(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """RoI features to unit embeddings ``[N, D]`` and box deltas ``[N, 4]``."""
        trunk = self.trunk(features)
        return self.embed(trunk), self.fc_reg(trunk)

    def decode(self, rois: Tensor, deltas_N4: Tensor, img_shape: tuple[int, int]) -> Tensor:
        """Refined boxes ``[N, 4]`` in input pixels, clipped to the image.

        Args:
            rois: ``[N, 5]`` (image index, x1, y1, x2, y2).
        """
        return self.bbox_coder.decode(rois[:, 1:], deltas_N4.float(), max_shape=img_shape)


@MODELS.register_module()
class ViLDImageHead(ViLDBBoxHead):
    """The ensemble's second head: learns embeddings from CLIP's, and neither boxes nor a background (ViLD, sec. 3.4).

    Args:
        kwargs: As for :class:`ViLDBBoxHead`; what belongs to boxes is not used.
    """

    def __init__(self, **kwargs) -> None:
        super().__init__(**{**kwargs, "reg_predictor_cfg": {"type": nn.Identity}})

    def forward(self, features: Tensor) -> Tensor:
        """RoI features to logits ``[N, C]``."""
        return self.classifier(self.embed(self.trunk(features)))


def one_label(scores_NC: Tensor) -> Tensor:
    """Scores where every row keeps only its highest class; the others become 0, ``[N, C]``."""
    top, label = scores_NC.max(dim=1, keepdim=True)
    return torch.zeros_like(scores_NC).scatter_(1, label, top)
