"""The learner: one step is one step down the slope of the formula, the schedule is the cosine, settings are checked."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ovd.clip.prompts.batches import PairReader
from ovd.clip.prompts.context import PromptContext
from ovd.clip.prompts.learner import INITIAL_STD, learn_context
from ovd.clip.prompts.pairs import RECORD, PairFile
from ovd.clip.prompts.settings import RANGES, PromptSettings
from ovd.clip.prompts.tower import PromptTower
from ovd.clip.towers import load_clip
from ovd.errors import UserError
from ovd.stores.manifest import Manifest
from ovd.stores.shards import Regions, RegionStore

NAMES = ["red star", "blue ring", "green cross"]


@pytest.fixture(scope="module")
def tower():
    return PromptTower(load_clip("shapes"))


@pytest.fixture
def reader(tmp_path):
    """Twelve regions: three of each class from IoU 0.5 on, and three of background."""
    rows = F.normalize(torch.randn(12, 128, generator=torch.Generator().manual_seed(0)), dim=1).numpy()
    writer = RegionStore.create(tmp_path / "store", "regions", [4], dim=128)
    writer.write(0, {4: Regions(np.tile(np.float32([0, 0, 5, 5]), (12, 1)), np.ones(12), rows.astype(np.float16))})
    writer.finish("embed-regions", {}, {})
    pairs = np.zeros(12, RECORD)
    pairs["row"], pairs["label"] = np.arange(12), np.arange(12) % 4 - 1
    pairs["iou"] = np.where(pairs["label"] < 0, 0.3, 0.55)
    (tmp_path / "pairs.bin").write_bytes(pairs.tobytes())
    return PairReader(PairFile(tmp_path / "pairs.bin"), RegionStore(tmp_path / "store"), None)


def test_a_step_goes_down_the_slope_of_the_soft_loss(tower, reader):
    settings = PromptSettings(context=2, epochs=1, lr=0.05, temperature=0.2, negatives_kept=1.0, seed=3)
    outcome = learn_context(tower, NAMES, reader, settings, RANGES[0])
    assert (outcome.positives, outcome.negatives) == (9, 3)
    generator = torch.Generator().manual_seed(settings.range_seed(RANGES[0]))
    start_KW = torch.randn(2, tower.width, generator=generator) * INITIAL_STD
    regions_ND = torch.from_numpy(reader.stores[0][4].embeddings.astype(np.float32))
    regions_ND /= regions_ND.norm(dim=1, keepdim=True)

    def loss(context_KW):
        """Every class has 3 of 12 pairs, so weighs 12 / (3 * 3); background 12 / (2 * 3)."""
        texts_CD = tower(tower.sentences(NAMES, 2), context_KW)
        logits = (regions_ND @ (texts_CD / texts_CD.norm(dim=1, keepdim=True)).T / 0.2).log_softmax(dim=1).double()
        foreground = -sum(logits[row, row % 4 - 1] for row in range(12) if row % 4)
        background = -sum(logits[row].mean() for row in range(0, 12, 4))
        return (4 / 3 * foreground + 2 * background) / (9 * 4 / 3 + 3 * 2)

    assert outcome.losses[0] == pytest.approx(float(loss(start_KW)), rel=1e-5)
    gradient = (start_KW - outcome.context.vectors_KW) / 0.05
    for vector, place in ((0, 5), (1, 40)):
        up, down = start_KW.clone(), start_KW.clone()
        up[vector, place] += 1e-2
        down[vector, place] -= 1e-2
        slope = float(loss(up) - loss(down)) / 2e-2
        assert gradient[vector, place] == pytest.approx(slope, rel=0.05, abs=2e-3)
    assert gradient.abs().max() > 0.02


def test_learning_lowers_the_loss_and_repeats_to_the_bit(tower, reader):
    settings = PromptSettings(epochs=20, lr=0.5, temperature=0.1, negatives_kept=1.0, batch_size=5)
    first, second = (learn_context(tower, NAMES, reader, settings, RANGES[0]) for _ in range(2))
    assert first.losses[-1] < first.losses[0] and first.losses == second.losses
    assert torch.equal(first.context.vectors_KW, second.context.vectors_KW)


def test_the_rate_is_half_a_cosine_over_epochs():
    settings = PromptSettings(epochs=6, lr=2e-3)
    assert [settings.rate(epoch) for epoch in range(6)] == pytest.approx(
        [1e-3 * (1 + math.cos(math.pi * epoch / 6)) for epoch in range(6)])
    assert settings.rate(0) == 2e-3


def test_defaults_are_the_papers():
    settings = PromptSettings.read({}, "config")
    assert (settings.context, settings.position, settings.mode) == (8, "end", "soft")
    assert (settings.epochs, settings.lr, settings.batch_size, settings.temperature) == (6, 2e-3, 512, 0.01)
    assert settings.ranges == ((0.5, 0.6), (0.6, 0.7), (0.7, 0.8), (0.8, 0.9), (0.9, 1.1))
    assert settings.selection(RANGES[0]).negatives == (0.1, 0.5) and settings.negatives_kept == 0.1
    assert PromptSettings.read({"mode": "fg_only"}, "config").selection(RANGES[0]).keep == 0


def test_a_context_is_read_back_and_wrong_files_are_refused(tmp_path):
    path = tmp_path / "context.safetensors"
    context = PromptContext(torch.randn(4, 8), "front", "sha256:a", torch.randn(2, 8), {"seed": 1})
    context.save(path, Manifest("prompt_context", "learn-prompts"))
    back = PromptContext.load(path)
    assert torch.equal(back.vectors_KW, context.vectors_KW) and torch.equal(back.background_KW, context.background_KW)
    assert (back.position, back.clip, back.notes) == ("front", "sha256:a", {"seed": 1})
    with pytest.raises(UserError, match="at the front, not end"):
        PromptContext.load(path, "end")
    torch.save({"a": torch.zeros(2)}, tmp_path / "dict.pth")
    torch.save(torch.full((2, 8), float("nan")), tmp_path / "nan.pth")
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "garbage.pth").write_bytes(b"hello")
    for name, message in (("empty.pth", "is cut"), ("garbage.pth", "is cut"), ("dict.pth", "expected a tensor"),
                          ("nan.pth", "NaN"), ("none.safetensors", "no such file")):
        with pytest.raises(UserError, match=message):
            PromptContext.load(tmp_path / name)
