"""The operators of ovd.ops against those of a compiled mmcv, where one is installed."""

import importlib.util
import sys

import mmcv.ops
import pytest
import torch

from ovd.ops.extension import build_extension

if importlib.util.find_spec("mmcv._ext").origin == "ovd.ops":
    pytest.skip("mmcv is installed without its compiled operators", allow_module_level=True)

import mmcv._ext as compiled

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.fixture(params=DEVICES)
def device(request):
    return request.param


@pytest.fixture
def compare(monkeypatch):
    """Call a function with either set of operators and compare what it returns."""

    def compare(module, function, rtol=1e-4, atol=1e-4):
        results = []
        for extension in (compiled, build_extension()):
            monkeypatch.setattr(sys.modules[f"mmcv.ops.{module}"], "ext_module", extension)
            results.append(function())
        for one, other in zip(*results, strict=True):
            torch.testing.assert_close(one, other, rtol=rtol, atol=atol)

    return compare


def value_and_gradients(function, *tensors):
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    output = function(*leaves)
    weights = torch.rand(output.shape, generator=torch.Generator().manual_seed(1)).to(output)
    (output * weights).sum().backward()
    return [output.detach(), *(leaf.grad for leaf in leaves)]


def random_boxes(random, count):
    corner = torch.rand(count, 2, generator=random) * 60
    return torch.cat([corner, corner + torch.rand(count, 2, generator=random) * 40 + 0.1], dim=1)


def random_rois(random, count):
    return torch.cat([torch.randint(0, 2, (count, 1), generator=random), random_boxes(random, count) * 1.3 - 10], dim=1)


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("count", [0, 1, 200])
def test_nms(random, compare, device, count, offset):
    boxes, scores = random_boxes(random, count).to(device), torch.rand(count, generator=random).to(device)
    compare("nms", lambda: mmcv.ops.nms(boxes, scores, 0.4, offset=offset))
    for method in ("naive", "linear", "gaussian"):
        compare("nms", lambda: mmcv.ops.soft_nms(boxes, scores, 0.3, min_score=0.05, method=method, offset=offset))  # noqa: B023
    compare("nms", lambda: mmcv.ops.nms_match(torch.cat([boxes, scores[:, None]], dim=1), 0.4))


def test_soft_nms_with_ties(random, compare):
    for _ in range(20):
        boxes = random_boxes(random, 40).round() + torch.tensor([0, 0, 1, 1])
        scores = (torch.rand(40, generator=random) * 8).round() / 8
        compare("nms", lambda: mmcv.ops.soft_nms(boxes, scores, 0.3, min_score=0.05, method="linear"))  # noqa: B023


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
@pytest.mark.parametrize("mode", ["avg", "max"])
def test_roi_align(random, compare, device, mode, sampling_ratio, aligned):
    features, rois = torch.randn(2, 3, 12, 15, generator=random).to(device), random_rois(random, 20).to(device)
    compare(
        "roi_align",
        lambda: value_and_gradients(
            lambda x: mmcv.ops.roi_align(x, rois, (4, 5), 0.25, sampling_ratio, mode, aligned), features
        ),
    )


@pytest.mark.skipif("cuda" not in DEVICES, reason="mmcv compiles RoIPool for GPUs only")
def test_roi_pool(random, compare):
    features, rois = torch.randn(2, 3, 12, 15, generator=random).cuda(), random_rois(random, 20).cuda()
    compare("roi_pool", lambda: value_and_gradients(lambda x: mmcv.ops.roi_pool(x, rois, (4, 5), 0.25), features))


@pytest.mark.skipif("cuda" not in DEVICES, reason="mmcv compiles the focal losses for GPUs only")
@pytest.mark.parametrize("loss", [mmcv.ops.sigmoid_focal_loss, mmcv.ops.softmax_focal_loss])
def test_focal_losses(random, compare, loss):
    logits, target = torch.randn(9, 5, generator=random).cuda(), torch.randint(0, 5, (9,), generator=random).cuda()
    weight = torch.rand(5, generator=random).cuda()
    compare("focal_loss", lambda: value_and_gradients(lambda x: loss(x, target, 2.0, 0.25, weight, "mean"), logits))


@pytest.mark.parametrize("geometry", [(1, 1, 1, 1, 1), (2, 1, 1, 2, 1), (1, 2, 2, 1, 2), (2, 0, 1, 2, 2)])
def test_deformable_convolutions(random, compare, device, geometry):
    stride, padding, dilation, groups, deform_groups = geometry
    out = [(n + 2 * padding - dilation * 2 - 1) // stride + 1 for n in (10, 11)]
    shapes = [(2, 4, 10, 11), (2, 18 * deform_groups, *out), (2, 9 * deform_groups, *out), (6, 4 // groups, 3, 3), (6,)]
    tensors = [torch.randn(shape, generator=random).to(device) for shape in shapes]
    compare(
        "modulated_deform_conv",
        lambda: value_and_gradients(lambda *t: mmcv.ops.modulated_deform_conv2d(*t, *geometry), *tensors),
        atol=1e-3,
    )
    compare(
        "deform_conv",
        lambda: value_and_gradients(
            lambda *t: mmcv.ops.deform_conv2d(*t, *geometry), tensors[0], tensors[1], tensors[3]
        ),
        atol=1e-3,
    )
