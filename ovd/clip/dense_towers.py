"""CLIP image towers cut in two: what runs once over an image of any size, and what turns a box's cells into a vector.

Shapes: N images, K boxes, C channels, P prefix tokens (class token, registers), G cells a side, D embedding width.

Where the cut is, by tower; weights are shared with the CLIP and stay as they are:

- ModifiedResNet (RN50, ..., shapes): before the attention pooling, as in F-VLM (Kuo et al., ICLR 2023, sec. 3.3), or
  one or more stages earlier, which then run for each box, as a detector's res5 head does;
- ViT that reads its class token: after the projection. In the last block each patch token attends to itself alone
  (values and output projection; residual and MLP are kept), so that it says what is at its place, as in MaskCLIP (Zhou
  et al., ECCV 2022) and CLIPSelf (Wu et al., ICLR 2024); a box is the mean of its cells;
- towers that pool all tokens or a map (SigLIP, CoCa, ConvNeXt, ...): before that pooling, which then sees the box's
  cells in place of the image's.

Except for the second kind, the cells of a whole image of CLIP's own size give its ``encode_image``.
"""

import copy
import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from ovd.clip.towers import ClipModel
from ovd.errors import UserError


class DenseTower(ABC):
    """An image tower, cut.

    Attributes:
        stride: Pixels that one cell of the map stands for; images have a multiple of ``multiple`` pixels a side.
        grid: G, the cells a side that :meth:`embed` takes: those of an image of CLIP's own size.
    """

    stride: int
    multiple: int
    grid: int

    @abstractmethod
    def features(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Map ``[N, C, height / stride, width / stride]`` and prefix tokens ``[N, P, C]`` (None: the tower has none).

        Args:
            pixels: ``[N, 3, height, width]``, normalised as the CLIP wants it.
        """

    @abstractmethod
    def embed(self, cells_KCGG: Tensor, prefix_KPC: Tensor | None) -> Tensor:
        """Raw embeddings ``[K, D]``."""


def cut_tower(clip: ClipModel, box_stages: int | None = None) -> DenseTower:
    """The cut image tower of a CLIP.

    Args:
        box_stages: Last stages of a ModifiedResNet that run for each box (F-VLM: 0); None for one, where there are
            stages.

    Raises:
        UserError: A tower that knows only images of its own size, or stages where there are none.
    """
    visual = clip.model.visual
    if isinstance(visual, ModifiedResNet):
        return ResNetTower(visual, 1 if box_stages is None else box_stages)
    if box_stages:
        raise UserError(f"{clip.name}: its image tower is a {type(visual).__name__}, which has no stages to run for "
                        "each box; set box_stages=0")
    tower = None
    if isinstance(visual, VisionTransformer):
        tower = VitTower(visual) if visual.attn_pool is None and visual.pool_type == "tok" else PooledVitTower(visual)
    elif isinstance(visual, TimmModel):
        tower = TimmTower(visual, clip.image_size)
    if tower is None or not _takes_any_size(tower, clip):
        raise UserError(f"{clip.name}: its image tower gives no feature map of images of any size; take another CLIP "
                        "for dense scores (RN50, ViT-B/16, a ConvNeXt, SigLIP), or score crops")
    return tower


class ResNetTower(DenseTower):
    """ModifiedResNet; with ``box_stages`` its last stages belong to the second part."""

    def __init__(self, visual: ModifiedResNet, box_stages: int) -> None:
        if box_stages not in (0, 1, 2, 3):
            raise UserError(f"box_stages={box_stages}: 0 to 3 of the four stages can run for each box")
        stages = [visual.layer1, visual.layer2, visual.layer3, visual.layer4]
        self.image_part = nn.Sequential(*stages[:4 - box_stages])
        self.box_part = nn.Sequential(*stages[4 - box_stages:], visual.attnpool)
        self.stem = visual.stem
        self.stride, self.multiple = 32 >> box_stages, 32
        self.grid = math.isqrt(len(visual.attnpool.positional_embedding) - 1) << box_stages

    def features(self, pixels: Tensor) -> tuple[Tensor, None]:
        return self.image_part(self.stem(pixels)), None

    def embed(self, cells_KCGG: Tensor, prefix_KPC: None) -> Tensor:
        return self.box_part(cells_KCGG)


class VitTower(DenseTower):
    """open_clip's ViT that reads its class token."""

    def __init__(self, visual: VisionTransformer) -> None:
        self.visual, self.tokens = visual, _shared_copy(visual)
        self.tokens.transformer = _shared_copy(visual.transformer)
        self.tokens.transformer.resblocks = _with_values_only(visual.transformer.resblocks)
        _set_patches(self, visual)

    def features(self, pixels: Tensor) -> tuple[Tensor, None]:
        tokens = _vit_tokens(self.tokens, pixels)[:, 1:]
        tokens = self.visual.ln_post(tokens)
        projected = tokens if self.visual.proj is None else tokens @ self.visual.proj
        return _as_map(projected, pixels, self.stride), None

    def embed(self, cells_KCGG: Tensor, prefix_KPC: None) -> Tensor:
        return cells_KCGG.mean(dim=(2, 3))


class PooledVitTower(DenseTower):
    """open_clip's ViT that pools all its tokens (mean: CLIPA; attention: CoCa)."""

    def __init__(self, visual: VisionTransformer) -> None:
        self.visual, self.tokens = visual, _shared_copy(visual)
        _set_patches(self, visual)

    def features(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        tokens = _vit_tokens(self.tokens, pixels)
        return _as_map(tokens[:, 1:], pixels, self.stride), tokens[:, :1]

    def embed(self, cells_KCGG: Tensor, prefix_KPC: Tensor) -> Tensor:
        tokens = torch.cat([prefix_KPC, cells_KCGG.flatten(2).transpose(1, 2)], dim=1)
        pooled = self.visual._pool(tokens)[0]
        return pooled if self.visual.proj is None else pooled @ self.visual.proj


class TimmTower(DenseTower):
    """timm's transformers (SigLIP, EVA, PE, ...) and convolutional networks (ConvNeXt, FastViT, ...)."""

    def __init__(self, visual: TimmModel, image_size: int) -> None:
        trunk = _shared_copy(visual.trunk)
        self.visual, self.trunk, self.stride = visual, trunk, 32
        self.prefix = None
        if hasattr(trunk, "blocks") and hasattr(trunk, "patch_embed"):
            self.prefix = getattr(trunk, "num_prefix_tokens", 0)
            self.stride = trunk.patch_embed.patch_size[0]
            if not getattr(trunk, "dynamic_img_size", True):  # of its own size it computes as before
                trunk.dynamic_img_size = True
                trunk.patch_embed = _shared_copy(trunk.patch_embed)
                trunk.patch_embed.strict_img_size, trunk.patch_embed.flatten = False, False
                trunk.patch_embed.output_fmt = "NHWC"
                if hasattr(getattr(trunk, "rope", None), "_use_cached_embed"):
                    trunk.rope = _shared_copy(trunk.rope)
                    trunk.rope._use_cached_embed = False
            if getattr(trunk, "attn_pool", None) is None and getattr(trunk, "global_pool", "") == "token":
                trunk.blocks = _with_values_only(trunk.blocks)
                trunk.global_pool = "avg"
        self.multiple = self.stride
        self.grid = image_size // self.stride

    def features(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        features = self.trunk.forward_features(pixels)
        if self.prefix is None:
            return features, None
        return _as_map(features[:, self.prefix:], pixels, self.stride), features[:, :self.prefix]

    def embed(self, cells_KCGG: Tensor, prefix_KPC: Tensor | None) -> Tensor:
        if self.prefix is not None:
            cells_KCGG = torch.cat([prefix_KPC, cells_KCGG.flatten(2).transpose(1, 2)], dim=1)
        return self.visual.head(self.trunk.forward_head(cells_KCGG))


class _ValuesOnly(nn.Module):
    """Attention of each token to itself: values, then the output projection."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        fused = getattr(attention, "in_proj_weight", None)  # torch's
        if fused is None and getattr(attention, "qkv", None) is not None:  # timm's
            fused = attention.qkv.weight
        self.project = getattr(attention, "out_proj", None) or getattr(attention, "proj", None)
        if self.project is None or (fused is None and getattr(attention, "v_proj", None) is None) \
                or getattr(attention, "gate", None) is not None:
            raise UserError(f"attention of the kind {type(attention).__name__} gives no dense features; take another "
                            "CLIP for dense scores (RN50, ViT-B/16, a ConvNeXt, SigLIP), or score crops")
        self.returns_pair = isinstance(attention, nn.MultiheadAttention)
        self.norm = nn.Identity() if self.returns_pair else getattr(attention, "norm", nn.Identity())
        if fused is None:
            self.weight, self.bias = attention.v_proj.weight, attention.v_proj.bias
        else:
            bias = next((b for b in (getattr(attention, "in_proj_bias", None), getattr(attention, "v_bias", None),
                                     getattr(getattr(attention, "qkv", None), "bias", None)) if b is not None), None)
            self.weight = nn.Parameter(fused.chunk(3)[2], requires_grad=False)
            self.bias = None if bias is None else nn.Parameter(bias if len(bias) == len(self.weight)
                                                               else bias.chunk(3)[2], requires_grad=False)

    def forward(self, x: Tensor, *args, **kwargs) -> Tensor | tuple[Tensor, None]:
        values = self.project(self.norm(F.linear(x, self.weight, self.bias)))
        return (values, None) if self.returns_pair else values


def _with_values_only(blocks: nn.Module) -> nn.Module:
    """The blocks, the last one with each token attending to itself."""
    last = _shared_copy(blocks[-1])
    last.attn = _ValuesOnly(last.attn)
    return type(blocks)([*blocks[:-1], last]) if isinstance(blocks, nn.ModuleList) else type(blocks)(*blocks[:-1], last)


def _shared_copy(module: nn.Module) -> nn.Module:
    """A module of its own attributes and children, with the original's weights."""
    shared = copy.copy(module)
    for name in ("_modules", "_parameters", "_buffers"):
        shared.__dict__[name] = dict(getattr(module, name))
    return shared


def _set_patches(tower: DenseTower, visual: VisionTransformer) -> None:
    tower.stride = tower.multiple = visual.patch_size[0]
    tower.grid = visual.grid_size[0]


def _vit_tokens(visual: VisionTransformer, pixels: Tensor) -> Tensor:
    """Tokens ``[N, 1 + h * w, C]`` after the blocks; ``visual`` is a copy, whose positions are set to the size."""
    own = visual.__dict__.setdefault("own_positions", visual.positional_embedding)
    size = pixels.shape[2] // visual.patch_size[0], pixels.shape[3] // visual.patch_size[1]
    if size == visual.grid_size:
        visual.positional_embedding = own
    else:
        grid = own[1:].T.reshape(1, -1, *visual.grid_size)
        grid = F.interpolate(grid.float(), size, mode="bicubic", antialias=True, align_corners=False).to(own)
        visual.positional_embedding = nn.Parameter(torch.cat([own[:1], grid[0].flatten(1).T]), requires_grad=False)
    return visual.transformer(visual._embeds(pixels))


def _as_map(tokens: Tensor, pixels: Tensor, stride: int) -> Tensor:
    height, width = pixels.shape[2] // stride, pixels.shape[3] // stride
    return tokens.transpose(1, 2).reshape(len(tokens), -1, height, width)


@torch.inference_mode()
def _takes_any_size(tower: DenseTower, clip: ClipModel) -> bool:
    """Whether a map comes out of an image that is a cell wider than CLIP's own."""
    side = tower.grid * tower.stride
    pixels = torch.zeros(1, 3, side, side + tower.multiple, device=clip.device, dtype=clip.dtype)
    try:
        features, _ = tower.features(pixels)
    except (RuntimeError, AssertionError, TypeError, ValueError, AttributeError):
        return False
    return features.ndim == 4 and features.shape[2:] == (tower.grid, tower.grid + tower.multiple // tower.stride)
