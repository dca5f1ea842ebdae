"""Where RoIAlign takes its samples, and which pixels each sample is made of.

Shapes: K regions on a feature map [B, C, H, W], each cut into P x Q bins, with a grid of samples in every bin that may
be of another size in each region. Positions are in feature pixels and broadcast to [K, C, P, Q].
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor


class Axis(NamedTuple):
    """The bins and samples of K regions along one axis."""

    start: Tensor  # [K, 1, 1, 1] where a region begins
    bin_size: Tensor  # [K, 1, 1, 1]
    samples: Tensor  # [K, 1, 1, 1] in a bin; 0 in a region without extent
    bins: Tensor  # 0 .. P-1 as [P, 1], or 0 .. Q-1 as [Q]

    def position(self, sample: Tensor | int) -> Tensor:
        """Where the ``sample``-th of each bin's samples lies."""
        return self.start + (self.bins + (sample + 0.5) / self.samples.clamp(min=1)) * self.bin_size


class SampleGrid(NamedTuple):
    """The samples of K regions."""

    y: Axis
    x: Axis

    @classmethod
    def of(
        cls, rois: Tensor, height: int, width: int, spatial_scale: float, sampling_ratio: int, aligned: bool
    ) -> "SampleGrid":
        """Arguments as those of :func:`ovd.ops.roi_align.roi_align_forward`."""
        corners = (rois[:, 1:] * spatial_scale - (0.5 if aligned else 0.0)).reshape(-1, 4, 1, 1, 1)
        size = corners[:, 2:] - corners[:, :2]
        if not aligned:
            size = size.clamp(min=1)
        bins = torch.arange(height, device=rois.device)[:, None], torch.arange(width, device=rois.device)
        axes = []
        for axis in (1, 0):
            bin_size = size[:, axis] / bins[1 - axis].numel()
            samples = bin_size.ceil().clamp(min=0)
            if sampling_ratio > 0:
                samples = torch.full_like(samples, sampling_ratio)
            axes.append(Axis(corners[:, axis], bin_size, samples, bins[1 - axis]))
        return cls(*axes)

    def steps(self) -> Iterator[tuple[int, int, Tensor]]:
        """Row and column of every sample in the largest grid, and in which regions it exists, [K, 1, 1, 1]."""
        rows, columns = self.y.samples, self.x.samples
        largest = torch.stack([rows.max(), columns.max()]).int().tolist() if len(rows) else (0, 0)
        for iy in range(largest[0]):
            for ix in range(largest[1]):
                yield iy, ix, (iy < rows) & (ix < columns)


def corners(y: Tensor, x: Tensor, height: int, width: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The four pixels around each position: index in the plane of ``height`` x ``width`` pixels, and weight.

    Up to one pixel outside the plane its border continues; beyond, all weights are 0.
    """
    for row, weight_y in _neighbours(y, height):
        for column, weight_x in _neighbours(x, width):
            yield row * width + column, weight_y * weight_x


def planes(rois: Tensor, shape: torch.Size) -> Tensor:
    """Where the planes that each region reads begin in a flattened feature map of ``shape``, int64 [K, C, 1, 1]."""
    _, channels, height, width = shape
    channel = torch.arange(channels, device=rois.device)
    return ((rois[:, :1].long() * channels + channel) * (height * width))[:, :, None, None]


def _neighbours(position: Tensor, size: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    inside = (position >= -1) & (position <= size)
    position = torch.where(inside, position, 0).clamp(0, size - 1)
    low = position.floor()
    weight = position - low
    low = low.long()
    return (low, (1 - weight) * inside), ((low + 1).clamp(max=size - 1), weight * inside)
