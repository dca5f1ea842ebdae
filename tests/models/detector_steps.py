"""A training step and a test pass of a small detector."""

import torch


def losses(detector, data: dict) -> dict[str, torch.Tensor]:
    """Losses by name, with fixed sampling of RoIs."""
    detector.train()
    torch.manual_seed(1)
    found = detector(**detector.data_preprocessor(data, True), mode="loss")
    return {name: sum(value) if isinstance(value, list) else value for name, value in found.items()}


def step(detector, data: dict) -> dict[str, float]:
    detector.zero_grad()
    found = losses(detector, data)
    sum(value for name, value in found.items() if "loss" in name).backward()
    return {name: float(value.detach()) for name, value in found.items()}


@torch.no_grad()
def detect(detector, data: dict, rescale: bool = True) -> list:
    detector.eval()
    prepared = detector.data_preprocessor(data, False)
    return detector.predict(prepared["inputs"], prepared["data_samples"], rescale=rescale)


def test_batch(batch, **kwargs) -> dict:
    """A batch as test pipelines make it: ground truth in original pixels."""
    data = batch(**kwargs)
    for sample in data["data_samples"]:
        sample.gt_instances.bboxes /= torch.tensor(sample.scale_factor).repeat(2)
    return data


test_batch.__test__ = False


def with_gradient(detector) -> set[str]:
    return {name for name, parameter in detector.named_parameters() if parameter.grad is not None}


def diagnose(config) -> None:
    """Turn the diagnostics on, as ``adapt`` of the fixture ``build``."""
    config.test_cfg.rcnn.diagnostics = True
