"""RoI features of several pyramid levels become one, by attention over channels.

Shapes: S shots, L levels, C channels.
"""

import torch
from torch import Tensor, nn


class ChannelAttention(nn.Module):
    """How much of each of two feature maps to take, per channel and place (multi-scale channel attention, Dai et al.,
    "Attentional Feature Fusion", WACV 2021, eq. 1 and 2): a bottleneck over channels at every place, plus one of the
    map's average, through a sigmoid.

    Args:
        channels: C.
        reduction: The bottleneck has C / reduction channels.
    """

    def __init__(self, channels: int, reduction: int = 4) -> None:
        super().__init__()
        self.places = _bottleneck(channels, max(1, channels // reduction))
        self.average = nn.Sequential(nn.AdaptiveAvgPool2d(1), *_bottleneck(channels, max(1, channels // reduction)))

    def forward(self, x_SChw: Tensor) -> Tensor:
        """The share, ``[S, C, h, w]`` in (0, 1)."""
        return torch.sigmoid(self.places(x_SChw) + self.average(x_SChw))


class ScaledConvs(nn.Module):
    """3x3 convolutions one after another, whose outputs are summed with learned scales, at first equal.

    Args:
        channels: C.
        convs: How many.
        groups: Of the group normalisation after each.
    """

    def __init__(self, channels: int, convs: int, groups: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(conv_norm_relu(channels, channels, groups) for _ in range(convs))
        self.scales = nn.Parameter(torch.full((convs,), 1 / convs))

    def forward(self, x_SChw: Tensor) -> Tensor:
        """``[S, C, h, w]`` to the same shape."""
        total = 0
        for conv, scale in zip(self.convs, self.scales):
            x_SChw = conv(x_SChw)
            total = total + scale * x_SChw
        return total


class LevelFusion(nn.Module):
    """``g * a + (1 - g) * b`` with ``g`` the channel attention to ``a + b``, level after level.

    A single level is fused with what two convolutions make of it.

    Args:
        channels: C, of each level.
        levels: L; their channels come one level after the other.
        groups: Of the group normalisation in the convolutions.
        reduction: See :class:`ChannelAttention`.
    """

    def __init__(self, channels: int, levels: int, groups: int = 32, reduction: int = 4) -> None:
        super().__init__()
        self.levels = levels
        self.convs = ScaledConvs(channels, 2, groups) if levels == 1 else None
        self.attention = nn.ModuleList(ChannelAttention(channels, reduction) for _ in range(max(1, levels - 1)))

    def forward(self, features: Tensor) -> Tensor:
        """``[S, L * C, h, w]`` to ``[S, C, h, w]``."""
        fused, *others = features.chunk(self.levels, dim=1)
        if self.convs is not None:
            others = [self.convs(fused)]
        for attention, other in zip(self.attention, others):
            share = attention(fused + other)
            fused = share * fused + (1 - share) * other
        return fused


def conv_norm_relu(in_channels: int, out_channels: int, groups: int | None, relu: bool = True) -> nn.Sequential:
    """A 3x3 convolution, group normalisation (``groups=None``: none) and ReLU (if wanted)."""
    layers: list[nn.Module] = [nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=groups is None)]
    if groups is not None:
        layers.append(nn.GroupNorm(groups, out_channels))
    if relu:
        layers.append(nn.ReLU())
    return nn.Sequential(*layers)


def _bottleneck(channels: int, narrow: int) -> nn.Sequential:
    """1x1 convolutions down and up; normalised over all channels, as a map's average has one place only."""
    return nn.Sequential(nn.Conv2d(channels, narrow, 1), nn.GroupNorm(1, narrow), nn.ReLU(),
                         nn.Conv2d(narrow, channels, 1), nn.GroupNorm(1, channels))
