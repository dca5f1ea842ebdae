"""mmcv's public operators, computed by ovd.ops also where a compiled mmcv is installed."""

import sys

import pytest
import torch

import ovd  # noqa: F401  (lets mmcv.ops be imported)


@pytest.fixture(autouse=True)
def torchvision_operators(monkeypatch):
    """Every function of ``mmcv.ops`` runs on the operators of ``ovd.ops``."""
    import mmcv.ops  # noqa: F401

    from ovd.ops.extension import build_extension

    extension = build_extension()
    for name, module in list(sys.modules.items()):
        if name.startswith("mmcv.ops.") and hasattr(module, "ext_module"):
            monkeypatch.setattr(module, "ext_module", extension)


@pytest.fixture
def random() -> torch.Generator:
    return torch.Generator().manual_seed(0)
