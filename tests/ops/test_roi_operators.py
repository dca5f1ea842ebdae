"""mmcv.ops.roi_align and roi_pool against torchvision and plain loops written from their definitions."""

import math

import pytest
import torch
import torchvision
from mmcv.ops import RoIAlign, RoIPool, roi_align, roi_pool

from ovd.ops.bilinear import SampleGrid
from ovd.ops.roi_align import average_backward

BATCH, CHANNELS, HEIGHT, WIDTH = 2, 3, 9, 11
SCALE = 0.25
# image, x1, y1, x2, y2 in image pixels of a 44 x 36 image: inside, on the border, reaching out on each side, off the
# image, of one pixel, without extent, larger than the image
ROIS = torch.tensor(
    [
        [0, 3.2, 4.1, 30.7, 29.3],
        [1, 0, 0, 44, 36],
        [1, -9.5, -6.5, 12.5, 14.1],
        [0, 30.1, 20.3, 60.2, 50.4],
        [1, 70, 60, 90, 80],
        [0, 8, 8, 9, 9],
        [0, 12.4, 12.4, 12.4, 12.4],
        [1, -20.2, -20.6, 70.3, 60.8],
    ]
)


def bilinear(plane, y, x):
    """Value of a [H, W] plane at (y, x); the border continues for one pixel, then comes 0."""
    height, width = plane.shape
    if y < -1 or y > height or x < -1 or x > width:
        return plane.new_zeros(())
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    top, left = math.floor(y), math.floor(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    y, x = y - top, x - left
    return (
        plane[top, left] * (1 - y) * (1 - x)
        + plane[top, right] * (1 - y) * x
        + plane[bottom, left] * y * (1 - x)
        + plane[bottom, right] * y * x
    )


def plain_roi_align(features, rois, size, scale, sampling_ratio, mode, aligned):
    output = []
    for image, *corners in rois.tolist():
        x1, y1, x2, y2 = (value * scale - (0.5 if aligned else 0.0) for value in corners)
        w, h = x2 - x1, y2 - y1
        if not aligned:
            w, h = max(w, 1.0), max(h, 1.0)
        w, h = w / size[1], h / size[0]
        rows = sampling_ratio if sampling_ratio > 0 else math.ceil(h)
        columns = sampling_ratio if sampling_ratio > 0 else math.ceil(w)
        for plane in features[int(image)]:
            for p in range(size[0]):
                for q in range(size[1]):
                    samples = [
                        bilinear(plane, y1 + (p + (i + 0.5) / rows) * h, x1 + (q + (j + 0.5) / columns) * w)
                        for i in range(rows)
                        for j in range(columns)
                    ]
                    samples = torch.stack(samples) if samples else plane.new_zeros(1)
                    output.append(samples.max() if mode == "max" else samples.mean())
    return torch.stack(output).reshape(len(rois), CHANNELS, *size)


def clipped(start, end, limit):
    return slice(*(min(max(value, 0), limit) for value in (math.floor(start), math.ceil(end))))


def plain_roi_pool(features, rois, size, scale):
    height, width = features.shape[2:]
    output = []
    for image, *corners in rois.tolist():
        x1, y1 = corners[0] * scale, corners[1] * scale
        w, h = ((corners[2] + 1) * scale - x1) / size[1], ((corners[3] + 1) * scale - y1) / size[0]
        for plane in features[int(image)]:
            for p in range(size[0]):
                for q in range(size[1]):
                    rows = clipped(y1 + p * h, y1 + (p + 1) * h, height)
                    columns = clipped(x1 + q * w, x1 + (q + 1) * w, width)
                    pixels = plane[rows, columns] if w > 0 and h > 0 else plane[:0]
                    output.append(pixels.max() if pixels.numel() else plane.new_zeros(()))
    return torch.stack(output).reshape(len(rois), CHANNELS, *size)


@pytest.fixture
def features(random):
    return torch.randn(BATCH, CHANNELS, HEIGHT, WIDTH, generator=random, dtype=torch.float64)


def assert_same_value_and_gradient(random, ours, theirs, features, atol=1e-9):
    results = []
    weights = None
    for function in (ours, theirs):
        leaf = features.clone().requires_grad_()
        output = function(leaf)
        if weights is None:
            weights = torch.randn(output.shape, generator=random, dtype=torch.float64).to(output.dtype)
        (output * weights).sum().backward()
        results.append((output.detach(), leaf.grad))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=atol)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
@pytest.mark.parametrize("mode", ["avg", "max"])
def test_roi_align_equals_the_plain_version(random, features, mode, sampling_ratio, aligned):
    rois = ROIS.double()
    assert_same_value_and_gradient(
        random,
        lambda x: roi_align(x, rois, (2, 3), SCALE, sampling_ratio, mode, aligned),
        lambda x: plain_roi_align(x, rois, (2, 3), SCALE, sampling_ratio, mode, aligned),
        features,
    )


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling_ratio", [0, 3])
def test_roi_align_average_equals_torchvision(random, features, sampling_ratio, aligned):
    rois = ROIS.double()
    layer = RoIAlign((4, 5), SCALE, sampling_ratio, aligned=aligned)
    assert_same_value_and_gradient(
        random,
        lambda x: layer(x, rois),
        lambda x: torchvision.ops.roi_align(x, rois, (4, 5), SCALE, sampling_ratio, aligned),
        features,
    )


@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_average_in_fixed_order_equals_torchvisions_gradient(random, features, sampling_ratio):
    rois = ROIS.double()
    weights = torch.randn(len(rois), CHANNELS, 4, 5, generator=random, dtype=torch.float64)
    leaf = features.clone().requires_grad_()
    (roi_align(leaf, rois, (4, 5), SCALE, sampling_ratio) * weights).sum().backward()
    grid = SampleGrid.of(rois, 4, 5, SCALE, sampling_ratio, aligned=True)
    torch.testing.assert_close(average_backward(weights, rois, grid, leaf.shape), leaf.grad)


@pytest.mark.parametrize("mode", ["avg", "max"])
def test_roi_align_gradcheck(features, mode):
    rois = ROIS[:5].double()
    leaf = features[:, :1].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: roi_align(x, rois, (2, 2), SCALE, 2, mode), (leaf,), fast_mode=True)


def test_roi_align_reads_the_image_that_the_roi_names(features):
    rois = torch.tensor([[1.0, 4, 4, 30, 30], [0, 4, 4, 30, 30]], dtype=torch.float64)
    both = roi_align(features, rois, 2, SCALE)
    for row, image in enumerate((1, 0)):
        alone = roi_align(features[image : image + 1], rois[:1] * rois.new_tensor([0, 1, 1, 1, 1]), 2, SCALE)
        torch.testing.assert_close(both[row : row + 1], alone)


@pytest.mark.parametrize(
    "pool",
    [
        lambda x, rois: roi_align(x, rois, (2, 3), SCALE),
        lambda x, rois: roi_align(x, rois, (2, 3), SCALE, 0, "max"),
        lambda x, rois: roi_pool(x, rois, (2, 3), SCALE),
    ],
)
def test_no_regions_give_an_empty_output_and_no_gradient(features, pool):
    leaf = features.float().requires_grad_()
    output = pool(leaf, torch.zeros(0, 5))
    assert output.shape == (0, CHANNELS, 2, 3)
    output.sum().backward()
    assert not leaf.grad.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("autocast", [False, True])
def test_roi_align_in_half_precision_computes_in_float32(features, dtype, mode, autocast):
    """Regions may stay in float32 beside half-precision features, which keeps their coordinates exact."""
    half = features.to(dtype)
    exact = roi_align(half.float(), ROIS, (2, 3), SCALE, 0, mode)
    leaf = half.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output = roi_align(leaf, ROIS, (2, 3), SCALE, 0, mode)
    assert output.dtype == dtype
    assert torch.equal(output, exact.to(dtype))
    output.sum().backward()
    full = half.float().requires_grad_()
    roi_align(full, ROIS, (2, 3), SCALE, 0, mode).sum().backward()
    assert torch.equal(leaf.grad, full.grad.to(dtype))


def test_roi_align_of_channels_last_features(features):
    for mode in ("avg", "max"):
        expected = roi_align(features.float(), ROIS, (2, 3), SCALE, 0, mode)
        last = features.float().to(memory_format=torch.channels_last)
        assert torch.equal(roi_align(last, ROIS, (2, 3), SCALE, 0, mode), expected)


def test_roi_pool_equals_the_plain_version(random, features):
    rois = torch.cat([ROIS.double(), torch.tensor([[0, 20.0, 20, 10, 10]], dtype=torch.float64)])  # one inverted
    assert_same_value_and_gradient(
        random,
        lambda x: RoIPool((2, 3), SCALE)(x, rois),
        lambda x: plain_roi_pool(x, rois, (2, 3), SCALE),
        features,
    )


def test_roi_pool_equals_torchvision_where_their_bins_agree(random, features):
    """On whole feature pixels mmcv's ``(x2 + 1) * scale`` is torchvision's ``round(x2 * scale) + 1`` at scale 1."""
    rois = torch.tensor([[0.0, 1, 1, 8, 7], [1, 0, 0, 10, 8], [1, 3, 2, 3, 2]], dtype=torch.float64)
    assert_same_value_and_gradient(
        random,
        lambda x: roi_pool(x, rois, (2, 3), 1.0),
        lambda x: torchvision.ops.roi_pool(x, rois, (2, 3), 1.0),
        features,
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_roi_pool_in_half_precision(features, dtype):
    half = features.to(dtype)
    output = roi_pool(half, ROIS, (2, 3), SCALE)
    assert torch.equal(output, roi_pool(half.float(), ROIS, (2, 3), SCALE).to(dtype))
