"""The operators of ovd.ops give on a GPU what they give on the CPU."""

import mmcv.ops
import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("needs a GPU", allow_module_level=True)

GEOMETRY = (2, 1, 1, 2, 2)  # stride, padding, dilation, groups, deform groups


def boxes(random, count):
    corner = torch.rand(count, 2, generator=random) * 60
    return torch.cat([corner, corner + torch.rand(count, 2, generator=random) * 40], dim=1)


def value_and_gradients(function, *tensors):
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    output = function(*leaves)
    weights = torch.rand(output.shape, generator=torch.Generator().manual_seed(1)).to(output)
    (output * weights).sum().backward()
    return [output.detach(), *(leaf.grad for leaf in leaves)]


def assert_same_on_both(function, *tensors, dtype=torch.float32):
    tolerance = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}[dtype]
    expected = value_and_gradients(function, *(tensor.to(dtype) for tensor in tensors))
    result = value_and_gradients(function, *(tensor.to("cuda", dtype) for tensor in tensors))
    for one, other in zip(result, expected, strict=True):
        assert one.is_cuda
        torch.testing.assert_close(one.cpu(), other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("offset", [0, 1])
def test_nms(random, offset):
    for count in (0, 1, 500):
        box, score = boxes(random, count), torch.rand(count, generator=random)
        _, kept = mmcv.ops.nms(box.cuda(), score.cuda(), 0.5, offset=offset)
        assert kept.tolist() == mmcv.ops.nms(box, score, 0.5, offset=offset)[1].tolist()
        _, kept = mmcv.ops.soft_nms(box.cuda(), score.cuda(), 0.5, offset=offset)
        assert kept.is_cuda
        assert kept.tolist() == mmcv.ops.soft_nms(box, score, 0.5, offset=offset)[1].tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("mode", ["avg", "max", "pool"])
def test_roi_operators(random, dtype, mode):
    rois = torch.cat([torch.randint(0, 2, (20, 1), generator=random), boxes(random, 20) * 1.3 - 10], dim=1)

    def pool(x):
        if mode == "pool":
            return mmcv.ops.roi_pool(x, rois.to(x.device), (3, 4), 0.25)
        return mmcv.ops.roi_align(x, rois.to(x.device), (3, 4), 0.25, 0, mode)

    assert_same_on_both(pool, torch.randn(2, 3, 12, 15, generator=random), dtype=dtype)


def test_roi_align_is_deterministic_on_request(random):
    rois = torch.cat([torch.zeros(300, 1), boxes(random, 300)], dim=1).cuda()
    features = torch.randn(1, 8, 24, 24, generator=random).cuda()
    expected = value_and_gradients(lambda x: mmcv.ops.roi_align(x, rois, (7, 7), 0.25), features)
    torch.use_deterministic_algorithms(True)
    try:
        runs = [value_and_gradients(lambda x: mmcv.ops.roi_align(x, rois, (7, 7), 0.25), features) for _ in range(2)]
    finally:
        torch.use_deterministic_algorithms(False)
    for one, other, reference in zip(*runs, expected, strict=True):
        assert torch.equal(one, other)
        torch.testing.assert_close(one, reference, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_focal_losses(random, dtype):
    logits, target = torch.randn(9, 5, generator=random), torch.randint(0, 5, (9,), generator=random)
    for loss in (mmcv.ops.sigmoid_focal_loss, mmcv.ops.softmax_focal_loss):
        assert_same_on_both(lambda x: loss(x, target.to(x.device), 2.0, 0.25, None, "sum"), logits, dtype=dtype)  # noqa: B023


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_deformable_convolutions(random, dtype):
    shapes = [(2, 4, 10, 11), (2, 36, 5, 6), (2, 18, 5, 6), (6, 2, 3, 3), (6,)]
    tensors = [torch.randn(shape, generator=random) for shape in shapes]
    assert_same_on_both(lambda *t: mmcv.ops.modulated_deform_conv2d(*t, *GEOMETRY), *tensors, dtype=dtype)
    assert_same_on_both(
        lambda x, offset, weight: mmcv.ops.deform_conv2d(x, offset, weight, *GEOMETRY),
        *(tensors[i] for i in (0, 1, 3)),
        dtype=dtype,
    )


def test_under_autocast(random):
    features = torch.randn(1, 4, 12, 12, generator=random).cuda()
    rois = torch.tensor([[0.0, 4, 4, 40, 30]]).cuda()
    layer = mmcv.ops.ModulatedDeformConv2dPack(4, 6, 3, padding=1).cuda()
    for dtype in (torch.float16, torch.bfloat16):
        with torch.autocast("cuda", dtype):
            convolved = layer(features.requires_grad_())
            pooled = mmcv.ops.roi_align(convolved, rois, (3, 3), 0.25)
        assert pooled.dtype == dtype
        pooled.float().sum().backward()
        assert features.grad.isfinite().all()
