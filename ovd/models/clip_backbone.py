"""CLIP's convolutional image tower as a detection backbone."""

from collections.abc import Sequence

from mmdet.registry import MODELS
from mmengine.model import BaseModule
from open_clip.modified_resnet import ModifiedResNet
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ovd.clip.towers import load_clip
from ovd.errors import UserError


@MODELS.register_module()
class ClipResNet(BaseModule):
    """The ModifiedResNet of a CLIP (Radford et al. 2021, sec. 2.4) without its attention pooling.

    Stage ``i`` has ``4 * width * 2**i`` channels and stride ``4 * 2**i``: 64, 128, 256, 512 for a tower of width 16,
    and 256 to 2048 for RN50 (width 64). Inputs are RGB, normalised with CLIP's mean and standard deviation: see
    :func:`clip_normalisation` for the ``data_preprocessor``.

    Args:
        pretrained: As in :func:`ovd.clip.towers.load_clip`: ``"shapes"``, ``"RN50"``, a file, ...
        model: Architecture of a plain weights file.
        out_indices: Stages (0 to 3) to return.
        frozen_stages: The stem (0) and stages 1 to this number get no gradient and stay in evaluation mode; -1: none.
        norm_eval: Keep batch normalisation at the statistics of CLIP's training. Detection batches are small and their
            images larger than those statistics come from; training them anew (False) needs SyncBN or large batches.

    Raises:
        UserError: The CLIP's image tower is not a ModifiedResNet.
    """

    def __init__(self, pretrained: str = "shapes", model: str | None = None, out_indices: Sequence[int] = (0, 1, 2, 3),
                 frozen_stages: int = -1, norm_eval: bool = True) -> None:
        super().__init__()
        tower = load_clip(pretrained, model=model).model.visual
        if not isinstance(tower, ModifiedResNet):
            raise UserError(f"{pretrained}: its image tower is a {type(tower).__name__}; ClipResNet needs a "
                            "ModifiedResNet (RN50, RN101, ..., or the shapes CLIP)")
        self.stem = nn.Sequential(tower.conv1, tower.bn1, tower.act1, tower.conv2, tower.bn2, tower.act2, tower.conv3,
                                  tower.bn3, tower.act3, tower.avgpool)
        self.stages = nn.ModuleList([tower.layer1, tower.layer2, tower.layer3, tower.layer4])
        self.requires_grad_(True)
        self.out_indices = tuple(out_indices)
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        for frozen in self._frozen():
            frozen.requires_grad_(False)

    def _frozen(self) -> list[nn.Module]:
        return [self.stem, *self.stages][:self.frozen_stages + 1]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Feature maps of the stages in ``out_indices``.

        Args:
            images: ``[N, 3, H, W]`` normalised RGB.
        """
        features = self.stem(images)
        maps = []
        for stage in self.stages:
            features = stage(features)
            maps.append(features)
        return tuple(maps[index] for index in self.out_indices)

    def train(self, mode: bool = True) -> "ClipResNet":
        """Training mode, except for what is frozen and, with ``norm_eval``, batch normalisation."""
        super().train(mode)
        for frozen in self._frozen():
            frozen.eval()
        if self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self


# CLIP's channel statistics (open_clip's OPENAI_DATASET_MEAN / STD) in the 0..255 units of a data_preprocessor
CLIP_MEAN_255 = [122.7709383, 116.7460125, 104.09373615]
CLIP_STD_255 = [68.5005327, 66.6321579, 70.32316305]


def clip_normalisation() -> dict:
    """Arguments of mmdet's ``DetDataPreprocessor`` for a tower of CLIP: its statistics in 0..255 units, RGB order."""
    return {"mean": CLIP_MEAN_255, "std": CLIP_STD_255, "bgr_to_rgb": True}
