"""Image towers that look at one object of a crop, or at a whole image of any size, with the weights of a CLIP.

OADP (Wang et al., "Object-Aware Distillation Pyramid for Open-Vocabulary Object Detection", CVPR 2023, sec. 3.2) crops
a box with much context, and keeps the context out of the embedding by masked attention: the layers see all of the crop,
but the embedding is that of an extra class token, which attends to the box's patches and to itself only.

The towers work with the modules of the open_clip model as they are; nothing is trained or copied.

Shapes: M crops, h x w grid of patches, L = h * w, C width of the tower, D width of the embeddings.
"""

from typing import Protocol

import torch
import torch.nn.functional as F
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor

from ovd.clip.positions import resize_positions
from ovd.clip.regions import normalize_pixels
from ovd.clip.towers import ClipModel
from ovd.errors import UserError


class _Trunk(Protocol):
    """An image tower without a fixed size of its input, and with a say in what its last token attends to."""

    side: int
    least: int

    def __call__(self, pixels_M3HW: Tensor, foreground_MHW: Tensor | None) -> Tensor: ...


class MaskedTower:
    """Embeds the foreground of crops.

    With everything in the foreground and no upsampling the embeddings are those of ``clip.encode_image``.

    Args:
        clip: A CLIP whose image tower is open_clip's VisionTransformer or ModifiedResNet.
        upsample: The grid of patches is so many times as fine along each side, as a small box covers few of CLIP's own
            patches; positional embeddings are interpolated. A VisionTransformer's patches overlap then: its patch
            convolution has a smaller stride (OADP: 2 for ViT-B/32, so 14 x 14 patches). A ModifiedResNet has no patches
            to move closer, so its crops are made so many times as large: see ``side``.

    Attributes:
        side: Side of the crops in pixels.

    Raises:
        UserError: Another kind of image tower, or a stride that cannot be divided so.
    """

    def __init__(self, clip: ClipModel, upsample: int = 1) -> None:
        self.clip = clip
        self._trunk = _trunk(clip, upsample)
        self.side = self._trunk.side

    @torch.inference_mode()
    def __call__(self, crops_M4SS: Tensor) -> Tensor:
        """Raw (not normalised) embeddings, float32 ``[M, D]``, of uint8 RGB crops with their mask as fourth channel.

        A patch is foreground where the mask (0: background) is set at the patch's centre; of a crop without any, so a
        box smaller than a patch, the patch that holds most of the mask.
        """
        crops = crops_M4SS.to(self.clip.device)
        pixels = normalize_pixels(crops[:, :3], self.clip.mean, self.clip.std).to(self.clip.dtype)
        return self._trunk(pixels, crops[:, 3] > 0).float()


class WholeImageTower:
    """Embeds images of any size, without resizing or cropping them; positional embeddings are interpolated.

    An image of CLIP's own size has the embedding of ``clip.encode_image``.

    Attributes:
        least: Pixels that either side of an image has at least: those of a patch.

    Raises:
        UserError: An image tower that is neither open_clip's VisionTransformer nor its ModifiedResNet.
    """

    def __init__(self, clip: ClipModel) -> None:
        self.clip = clip
        self._trunk = _trunk(clip, 1)
        self.least = self._trunk.least

    @torch.inference_mode()
    def __call__(self, images_M3HW: Tensor) -> Tensor:
        """Raw embeddings, float32 ``[M, D]``, of uint8 RGB images of one size."""
        pixels = normalize_pixels(images_M3HW.to(self.clip.device), self.clip.mean, self.clip.std)
        return self._trunk(pixels.to(self.clip.dtype), None).float()


def _trunk(clip: ClipModel, upsample: int) -> _Trunk:
    tower = clip.model.visual
    if isinstance(upsample, bool) or not isinstance(upsample, int) or upsample < 1:
        raise UserError(f"upsample {upsample!r}: needs a whole number, 1 or more")
    if isinstance(tower, ModifiedResNet):
        return _ConvTrunk(tower, clip.image_size, upsample)
    if isinstance(tower, VisionTransformer):
        return _ViTTrunk(tower, clip.name, clip.image_size, upsample)
    raise UserError(f"{clip.name}: its image tower is a {type(tower).__name__}; masked attention and whole images need "
                    "open_clip's VisionTransformer or ModifiedResNet (ViT-B/32, RN50, ...)")


class _ViTTrunk:
    def __init__(self, tower: VisionTransformer, name: str, side: int, upsample: int) -> None:
        kernel = tower.conv1.kernel_size[0]
        if kernel % upsample:
            raise UserError(f"upsample {upsample}: the patches of {name} are {kernel} pixels wide; their stride cannot "
                            f"be divided by {upsample}")
        if tower.attn_pool is not None or tower.pool_type not in ("tok", "avg"):
            raise UserError(f"{name}: its image tower pools by attention; masked attention needs a class token, or the "
                            "mean of the patches")
        self.tower, self.side = tower, side
        self.kernel, self.stride = kernel, kernel // upsample
        self.least = kernel
        self.padding = (kernel - 1) // 2 if upsample > 1 else 0

    def __call__(self, pixels: Tensor, foreground_MHW: Tensor | None) -> Tensor:
        tower = self.tower
        patches = F.conv2d(pixels, tower.conv1.weight, tower.conv1.bias, self.stride, self.padding)
        num, _, height, width = patches.shape
        tokens = torch.cat([tower.class_embedding.to(patches).expand(num, 1, -1), patches.flatten(2).mT], dim=1)
        tokens = tower.ln_pre(tokens + resize_positions(tower.positional_embedding, height, width).to(tokens))
        if foreground_MHW is None:
            foreground_ML = torch.ones(num, height * width, dtype=torch.bool, device=pixels.device)
        else:
            foreground_ML = _patches_of(foreground_MHW, (height, width), self.stride, self.kernel, self.padding)
        if tower.pool_type == "avg":  # no class token to mask: the mean is taken of the foreground
            tokens = tower.transformer(tokens)[:, 1:]
            tokens = tokens if tower.final_ln_after_pool else tower.ln_post(tokens)
            weights = foreground_ML / foreground_ML.sum(dim=1, keepdim=True)
            pooled = (weights.to(tokens)[:, None] @ tokens)[:, 0]
            pooled = tower.ln_post(pooled) if tower.final_ln_after_pool else pooled
        else:
            pooled = tower.ln_post(self._object_token(tokens, foreground_ML))
        return pooled if tower.proj is None else pooled @ tower.proj

    def _object_token(self, tokens: Tensor, foreground_ML: Tensor) -> Tensor:
        """The extra class token after all layers, ``[M, C]``. It begins as the class token does; nothing sees it."""
        extra = tokens[:, :1]
        seen = F.pad(foreground_ML, (0, 1), value=True)  # by the extra token: the foreground, and itself
        for block in self.tower.transformer.resblocks:
            if isinstance(block, ResidualAttentionBlock):
                query, keys = block.ln_1(extra), block.ln_1(torch.cat([tokens[:, 1:], extra], dim=1))
                mask = torch.zeros_like(seen, dtype=tokens.dtype).masked_fill(~seen, float("-inf"))
                mask = mask[:, None].repeat_interleave(block.attn.num_heads, dim=0)
                extra = extra + block.ls_1(block.attention(query, keys, keys, attn_mask=mask))
                extra, tokens = extra + block.ls_2(block.mlp(block.ln_2(extra))), block(tokens)
            else:  # blocks with attention to themselves only: the extra token goes along as the last of the sequence
                length = tokens.shape[1] + 1
                visible = seen.new_ones(len(seen), 1, length, length)
                visible[:, :, :-1, -1] = False
                visible[:, 0, -1, 1:] = seen
                visible[:, 0, -1, 0] = False
                mask = torch.zeros_like(visible, dtype=tokens.dtype).masked_fill(~visible, float("-inf"))
                tokens, extra = block(torch.cat([tokens, extra], dim=1), attn_mask=mask).split([length - 1, 1], dim=1)
        return extra[:, 0]


class _ConvTrunk:
    """The attention pool is the only layer with attention. Its query, in the place of a class token, is the mean of the
    cells: here of the foreground's, since the mean is also one of its keys and values."""

    least = 32  # one cell of the last stage

    def __init__(self, tower: ModifiedResNet, side: int, upsample: int) -> None:
        self.tower, self.side = tower, side * upsample

    def __call__(self, pixels: Tensor, foreground_MHW: Tensor | None) -> Tensor:
        tower, pool = self.tower, self.tower.attnpool
        cells = tower.layer4(tower.layer3(tower.layer2(tower.layer1(tower.stem(pixels)))))
        height, width = cells.shape[2:]
        cells = cells.flatten(2).mT  # [M, L, C]
        if foreground_MHW is None:
            foreground_ML = torch.ones(cells.shape[:2], dtype=torch.bool, device=cells.device)
        else:
            step = foreground_MHW.shape[-1] // width
            foreground_ML = _patches_of(foreground_MHW, (height, width), step, step, 0)
        weights = (foreground_ML / foreground_ML.sum(dim=1, keepdim=True)).to(cells)
        tokens = torch.cat([weights[:, None] @ cells, cells], dim=1)
        tokens = tokens + resize_positions(pool.positional_embedding, height, width).to(tokens)
        query, keys, values = (_heads(layer(part), pool.num_heads) for layer, part in (
            (pool.q_proj, tokens[:, :1]), (pool.k_proj, tokens), (pool.v_proj, tokens)))
        seen = F.pad(foreground_ML, (1, 0), value=True)[:, None, None]
        pooled = F.scaled_dot_product_attention(query, keys, values, attn_mask=seen)
        return pool.c_proj(pooled.transpose(1, 2).flatten(2)[:, 0])


def _heads(tokens: Tensor, number: int) -> Tensor:
    return tokens.unflatten(2, (number, -1)).transpose(1, 2)


def _patches_of(mask_MHW: Tensor, grid: tuple[int, int], stride: int, kernel: int, padding: int) -> Tensor:
    """Which patches of a convolution with such a kernel are foreground, bool ``[M, h * w]``, at least one a crop."""
    rows, columns = (torch.arange(count, device=mask_MHW.device) * stride - padding + kernel // 2 for count in grid)
    height, width = mask_MHW.shape[1:]
    chosen = mask_MHW[:, rows.clamp(max=height - 1)][:, :, columns.clamp(max=width - 1)].flatten(1)
    fullest = F.adaptive_avg_pool2d(mask_MHW[:, None].float(), grid).flatten(1).argmax(dim=1)
    return chosen | (~chosen.any(dim=1, keepdim=True) & F.one_hot(fullest, chosen.shape[1]).bool())
