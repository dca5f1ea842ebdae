"""mmcv.ops.deform_conv2d and modulated_deform_conv2d against a plain loop, F.conv2d and torchvision."""

import itertools
import math

import pytest
import torch
import torchvision
from mmcv.ops import DeformConv2dPack, ModulatedDeformConv2dPack, deform_conv2d, modulated_deform_conv2d
from torch.nn import functional as F

# stride, padding, dilation, groups, deform groups
GEOMETRIES = [(1, 1, 1, 1, 1), (2, 1, 1, 2, 1), (1, 2, 2, 1, 2), (2, 0, 1, 2, 2)]


def inputs(random, stride, padding, dilation, groups, deform_groups, batch=2, dtype=torch.float64):
    """Input, offset, mask, weight and bias of a 3 x 2 kernel."""
    height, width = 6, 7
    out = [(n + 2 * padding - dilation * (k - 1) - 1) // stride + 1 for n, k in ((height, 3), (width, 2))]
    shapes = [
        (batch, 4, height, width),
        (batch, 12 * deform_groups, *out),
        (batch, 6 * deform_groups, *out),
        (6, 4 // groups, 3, 2),
        (6,),
    ]
    tensors = [torch.randn(shape, generator=random, dtype=torch.float64) for shape in shapes]
    tensors[1] *= 1.5
    tensors[2] = tensors[2].sigmoid()
    return [tensor.to(dtype) for tensor in tensors]


def sample(plane, y, x):
    """Bilinear value of a [H, W] plane, 0 outside."""
    top, left, total = math.floor(y), math.floor(x), 0.0
    for row, column in itertools.product((top, top + 1), (left, left + 1)):
        if 0 <= row < plane.shape[0] and 0 <= column < plane.shape[1]:
            total = total + plane[row, column] * (1 - abs(y - row)) * (1 - abs(x - column))
    return total


def plain_deform_conv(x, offset, mask, weight, bias, stride, padding, dilation, groups, deform_groups):
    kernel = list(itertools.product(range(3), range(2)))
    output = torch.zeros(len(x), len(weight), *offset.shape[2:], dtype=x.dtype)
    for b, d, i, j in itertools.product(*map(range, output.shape)):
        group = d // (len(weight) // groups)
        for c in range(weight.shape[1]):
            channel = group * weight.shape[1] + c
            deform_group = channel // (x.shape[1] // deform_groups)
            for k, (u, v) in enumerate(kernel):
                at = deform_group * len(kernel) + k
                y = i * stride - padding + u * dilation + float(offset[b, 2 * at, i, j])
                xx = j * stride - padding + v * dilation + float(offset[b, 2 * at + 1, i, j])
                output[b, d, i, j] += weight[d, c, u, v] * mask[b, at, i, j] * sample(x[b, channel], y, xx)
    return output + bias[:, None, None]


def value_and_gradients(function, tensors):
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    output = function(*leaves)
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(output)
    (output * weights).sum().backward()
    return [output.detach(), *(leaf.grad for leaf in leaves)]


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_deformable_convolutions_equal_the_plain_version(random, geometry):
    x, offset, mask, weight, bias = inputs(random, *geometry)
    plain = plain_deform_conv(x, offset, mask, weight, bias, *geometry)
    torch.testing.assert_close(modulated_deform_conv2d(x, offset, mask, weight, bias, *geometry), plain)
    plain = plain_deform_conv(x, offset, torch.ones_like(mask), weight, torch.zeros_like(bias), *geometry)
    torch.testing.assert_close(deform_conv2d(x, offset, weight, *geometry), plain)
    torch.testing.assert_close(
        modulated_deform_conv2d(x, offset, torch.ones_like(mask), weight, None, *geometry), plain
    )


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_deformable_convolutions_equal_torchvision_in_value_and_gradients(random, geometry):
    x, offset, mask, weight, bias = inputs(random, *geometry)
    stride, padding, dilation, *_ = geometry

    def torchvisions(x, offset, weight, bias=None, mask=None):
        return torchvision.ops.deform_conv2d(x, offset, weight, bias, stride, padding, dilation, mask)

    pairs = [
        (
            value_and_gradients(lambda x, o, w: deform_conv2d(x, o, w, *geometry), (x, offset, weight)),
            value_and_gradients(torchvisions, (x, offset, weight)),
        ),
        (
            value_and_gradients(
                lambda x, o, w, b, m: modulated_deform_conv2d(x, o, m, w, b, *geometry), (x, offset, weight, bias, mask)
            ),
            value_and_gradients(torchvisions, (x, offset, weight, bias, mask)),
        ),
    ]
    for ours, theirs in pairs:
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other)


def test_deformable_convolutions_gradcheck(random):
    geometry = (1, 1, 1, 1, 1)
    x, offset, mask, weight, bias = inputs(random, *geometry, batch=1)
    # differentiable only between pixels
    offset = offset.floor() + 0.25 + 0.5 * torch.rand(offset.shape, generator=random, dtype=torch.float64)
    leaves = [tensor.requires_grad_() for tensor in (x, offset, mask, weight, bias)]
    assert torch.autograd.gradcheck(lambda *t: modulated_deform_conv2d(*t, *geometry), leaves, fast_mode=True)
    assert torch.autograd.gradcheck(
        lambda x, o, w: deform_conv2d(x, o, w, *geometry), (leaves[0], leaves[1], leaves[3]), fast_mode=True
    )


def test_without_displacement_it_is_an_ordinary_convolution(random):
    x = torch.randn(2, 4, 8, 9, generator=random)
    for layer in (DeformConv2dPack(4, 6, 3, padding=1), ModulatedDeformConv2dPack(4, 6, 3, padding=1)):
        scale = 1 if layer.__class__ is DeformConv2dPack else 0.5  # a fresh mask is sigmoid(0)
        torch.testing.assert_close(layer(x), F.conv2d(x, layer.weight, padding=1) * scale, rtol=1e-4, atol=1e-5)


def test_a_batch_larger_than_the_im2col_step(random):
    geometry = (1, 1, 1, 1, 1)
    x, offset, _, weight, _ = inputs(random, *geometry, batch=4)
    torch.testing.assert_close(
        deform_conv2d(x, offset, weight, *geometry, False, 2), deform_conv2d(x, offset, weight, *geometry)
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
def test_deformable_convolutions_in_half_precision(random, dtype, autocast):
    geometry = (1, 1, 1, 1, 1)
    tensors = inputs(random, *geometry, dtype=dtype)
    expected = value_and_gradients(
        lambda *t: modulated_deform_conv2d(*t, *geometry), [tensor.float() for tensor in tensors]
    )
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        result = value_and_gradients(lambda *t: modulated_deform_conv2d(*t, *geometry), tensors)
    for one, other in zip(result, expected, strict=True):
        assert one.dtype == dtype
        torch.testing.assert_close(one.float(), other, rtol=0.02, atol=0.05)
