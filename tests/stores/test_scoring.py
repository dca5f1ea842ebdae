"""The functions between cosines and scores: a class's bits do not depend on where it lies."""

from collections.abc import Iterator

import pytest
import torch

from ovd.stores.class_heads import ClassHead
from ovd.stores.scoring import independent_probabilities, sigmoid


@pytest.fixture
def three_threads() -> Iterator[None]:
    """Shares of memory that end in the middle of what PyTorch computes at once."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_removing_a_class_changes_no_bit_of_many_regions_logits(three_threads):
    rng = torch.Generator().manual_seed(0)
    head = ClassHead(tuple(f"class {i}" for i in range(64)), torch.randn(64, 3, 8, generator=rng), scale=10.0,
                     reduce="log_mean_exp")
    x = torch.randn(1300, 8, generator=rng)
    logits = head.logits(x)
    for gone in range(1, 20):
        fewer = head.remove(head.names[:gone])
        assert torch.equal(fewer.logits(x), logits[:, gone:]), gone
        assert torch.equal(fewer.as_mixed().logits(x), logits[:, gone:]), gone


def test_sigmoid_is_the_function_of_that_name():
    x = torch.cat([torch.linspace(-60, 60, 241), torch.tensor([-1000.0, 1000.0])])
    torch.testing.assert_close(sigmoid(x), torch.sigmoid(x), rtol=1e-6, atol=0)
    torch.testing.assert_close(sigmoid(x.double()), torch.sigmoid(x.double()), rtol=1e-14, atol=0)


@pytest.mark.parametrize("threads", [1, 3])
def test_independent_probabilities_of_all_columns_know_nothing_of_others_that_are_added(threads, three_threads):
    torch.set_num_threads(threads)
    rng = torch.Generator().manual_seed(1)
    logits = torch.randn(700, 130, generator=rng) * 10
    is_reference = torch.arange(130) < 48
    every = independent_probabilities(logits, is_reference)
    for columns in [*range(48, 130, 3), 130]:
        fewer = independent_probabilities(logits[:, :columns].contiguous(), is_reference[:columns])
        assert torch.equal(fewer, every[:, :columns]), columns
