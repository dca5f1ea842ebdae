"""Rows predicted from names: a ridge regression, its strength chosen on base classes left out."""

import pytest
import torch

from ovd.engine.head_surgery import find_class_layers, operate
from ovd.engine.rows_from_names import STRENGTHS, PredictedRows, combine
from ovd.errors import UserError
from ovd.stores.class_heads import ClassHead


def ridge(inputs_NE, targets_NF, strength):
    """Weights and intercept from the normal equations."""
    mean_E, mean_F = inputs_NE.mean(0), targets_NF.mean(0)
    x, y = inputs_NE - mean_E, targets_NF - mean_F
    weights_EF = torch.linalg.solve(x.T @ x + strength * torch.eye(x.shape[1], dtype=x.dtype), x.T @ y)
    return lambda new: (new - mean_E) @ weights_EF + mean_F


@pytest.mark.parametrize("noise", [0.01, 3.0])
def test_prediction_is_the_ridge_regression_whose_left_out_error_is_least(noise):
    torch.manual_seed(0)
    base, new = torch.randn(9, 5).double(), torch.randn(4, 5).double()
    targets = base @ torch.randn(5, 7).double() + noise * torch.randn(9, 7).double()
    scale = float(((base - base.mean(0)) ** 2).sum(1).mean())

    def left_out(strength):
        rest = [[i for i in range(9) if i != out] for out in range(9)]
        return sum(float((ridge(base[kept], targets[kept], strength * scale)(base[out]) - targets[out]).square().sum())
                   for out, kept in enumerate(rest))

    best = min(STRENGTHS, key=left_out)
    weights = combine(base, new, targets)
    torch.testing.assert_close(weights @ targets, ridge(base, targets, best * scale)(new))
    torch.testing.assert_close(weights.sum(1), torch.ones(4).double())


def test_a_new_class_named_between_two_gets_rows_between_theirs():
    torch.manual_seed(0)
    embeddings = torch.eye(4)[:, None]
    middle = torch.nn.functional.normalize(torch.tensor([[1.0, 1.0, 0, 0]]), dim=-1)[:, None]
    head = ClassHead(names=("a", "b", "c", "d", "ab"), weights=torch.cat([embeddings, middle]))
    checkpoint = {"state_dict": {"fc_cls.weight": torch.cat([3 * torch.eye(4, 6), torch.zeros(1, 6)])},
                  "meta": {"classes": ["a", "b", "c", "d"]}}
    layers = find_class_layers(checkpoint)
    operation = operate(layers, ("a", "ab"), PredictedRows(layers, head))
    row = operation.weights["fc_cls.weight"][1]
    assert row[0].item() == pytest.approx(row[1].item()) and row[0] > 2 * row[2].abs()
    assert operation.weights["fc_cls.weight"].dtype == torch.float32


def test_one_base_class_predicts_nothing():
    with pytest.raises(UserError, match="at least two"):
        combine(torch.ones(1, 3).double(), torch.ones(1, 3).double(), torch.ones(1, 3).double())
