"""Deformable convolution, v1 (Dai et al., 2017) and v2 with a mask (Zhu et al., 2019), by torchvision.

mmcv's work buffers (``columns``, ``ones``) stay as they are: torchvision has its own.
"""

import torch
from torch import Tensor

from ovd.ops.precision import at_least_float32


def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Fill ``output`` with the convolution of ``input`` at displaced positions.

    Args:
        input: [B, C, H, W].
        weight: [D, C / group, kH, kW].
        offset: [B, 2 * deformable_group * kH * kW, H', W'], displacements y, x of each kernel position in pixels.
        output: [B, D, H', W'].
        dW, dH: strides.
        im2col_step: images at a time; of no effect.
    """
    geometry = (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
    output.copy_(_convolve(input, weight, offset, None, None, geometry))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradInput: Tensor,
    gradOffset: Tensor,
    weight: Tensor,
    columns: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Add to ``gradInput`` and ``gradOffset``; arguments as in the forward pass."""
    geometry = (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
    by_input, _, by_offset, _, _ = _gradients(gradOutput, input, weight, offset, None, None, geometry)
    gradInput.add_(by_input)
    gradOffset.add_(by_offset)


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradWeight: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    scale: float,
    im2col_step: int,
) -> None:
    """Add ``scale`` times the gradient to ``gradWeight``; arguments as in the forward pass."""
    geometry = (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
    # the gradient by the weight does not depend on its values
    _, by_weight, _, _, _ = _gradients(gradOutput, input, torch.zeros_like(gradWeight), offset, None, None, geometry)
    gradWeight.add_(by_weight, alpha=scale)


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Fill ``output`` with the convolution of ``input`` at displaced positions, each weighted by the mask.

    Args:
        input: [B, C, H, W].
        weight: [D, C / group, kernel_h, kernel_w].
        bias: [D]; of no effect without ``with_bias``.
        offset: [B, 2 * deformable_group * kernel_h * kernel_w, H', W'], displacements y, x in pixels.
        mask: [B, deformable_group * kernel_h * kernel_w, H', W'].
        output: [B, D, H', W'].
    """
    geometry = (stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group)
    output.copy_(_convolve(input, weight, offset, mask, bias if with_bias else None, geometry))


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Add to the five gradients; arguments as in the forward pass."""
    geometry = (stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group)
    gradients = _gradients(grad_output, input, weight, offset, mask, bias if with_bias else None, geometry)
    buffers = (grad_input, grad_weight, grad_offset, grad_mask, grad_bias)
    for buffer, gradient in zip(buffers, gradients, strict=True):
        if buffer is not grad_bias or with_bias:
            buffer.add_(gradient)


def _arguments(input, weight, offset, mask, bias, geometry) -> tuple:
    """What torchvision's operators take: all tensors in one format, stand-ins for those that are missing, geometry."""
    weight = at_least_float32(weight)
    dtype = weight.dtype
    return (
        at_least_float32(input).to(dtype),
        weight,
        at_least_float32(offset).to(dtype),
        weight.new_zeros(len(input), 1) if mask is None else at_least_float32(mask).to(dtype),
        weight.new_zeros(len(weight)) if bias is None else at_least_float32(bias).to(dtype),
        *geometry,
        mask is not None,
    )


def _convolve(input, weight, offset, mask, bias, geometry) -> Tensor:
    return torch.ops.torchvision.deform_conv2d(*_arguments(input, weight, offset, mask, bias, geometry))


def _gradients(grad_output, input, weight, offset, mask, bias, geometry) -> tuple[Tensor, ...]:
    """By input, weight, offset, mask and bias."""
    arguments = _arguments(input, weight, offset, mask, bias, geometry)
    return torch.ops.torchvision._deform_conv2d_backward(at_least_float32(grad_output).to(arguments[1]), *arguments)
