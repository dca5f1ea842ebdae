"""MAML on cached embeddings: an adapter and a linear head whose start is learned so that few steps suffice.

Finn et al., "Model-Agnostic Meta-Learning" (ICML 2017), alg. 1 and sec. 3.1, second order. The paper adapts the whole
backbone; here the backbone is frozen and its embeddings are cached, and what adapts is a perceptron on them. Shapes: E
episodes, N classes, S supports, Q queries, D width, H hidden units.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovd.fewshot.episodic.episodes import sample_episodes
from ovd.fewshot.episodic.objects import EmbeddedObjects
from ovd.fewshot.episodic.tasks import Tasks, blocks

TRAIN_STEPS, TEST_STEPS = 2, 5


class Adapter(nn.Module):
    """The start of every episode: a hidden layer and a head of N classes."""

    def __init__(self, dim: int, way: int, hidden: int) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(dim, hidden), nn.Linear(hidden, way)

    def start(self, episodes: int) -> list[Tensor]:
        """A copy of the parameters for each episode, ``[E, ...]``, through which gradients reach these."""
        return [parameter.expand(episodes, *parameter.shape) for parameter in self.parameters()]


def logits(parameters: list[Tensor], x_EBD: Tensor) -> Tensor:
    """``[E, B, N]``, each episode by its own parameters."""
    weight_EHD, bias_EH, head_ENH, bias_EN = parameters
    scale = x_EBD.shape[-1] ** 0.5  # entries of unit rows are small; layers are made for those around 1
    hidden_EBH = torch.baddbmm(bias_EH[:, None], scale * x_EBD, weight_EHD.mT).relu()
    return torch.baddbmm(bias_EN[:, None], hidden_EBH, head_ENH.mT)


def adapted(start: list[Tensor], tasks: Tasks, steps: int, lr: float, second_order: bool) -> list[Tensor]:
    """The parameters after ``steps`` of gradient descent on each episode's supports."""
    parameters, support_ESD, label_S = start, tasks.support_ESD, tasks.label_S
    for _ in range(steps):
        loss = _loss(logits(parameters, support_ESD), label_S)
        gradients = torch.autograd.grad(loss, parameters, create_graph=second_order)
        parameters = [parameter - lr * gradient for parameter, gradient in zip(parameters, gradients)]
    return parameters


def train_on_base(base: EmbeddedObjects, *, way: int, shot: int, query: int, seed: int, iterations: int = 600,
                  batch: int = 8, lr: float = 0.001, inner_lr: float = 0.01, hidden: int = 128,
                  test_steps: int = TEST_STEPS) -> Callable[[Tasks], Tensor]:
    """Learn the start: the queries' loss after 2 steps on the supports, by Adam; an episode is then adapted by 5.

    Args:
        base: Objects of base classes.
        batch: Episodes of a step.

    Returns:
        The scores of tasks, which must be of ``way`` classes.
    """
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        adapter = Adapter(base.dim, way, hidden)
    optimizer = torch.optim.Adam(adapter.parameters(), lr=lr)
    drawn = sample_episodes(base.labels_N, base.names, way=way, shot=shot, query=query, episodes=iterations * batch,
                            seed=seed)
    for tasks in blocks(base, drawn, size=batch):
        parameters = adapted(adapter.start(batch), tasks, TRAIN_STEPS, inner_lr, second_order=True)
        loss = _loss(logits(parameters, tasks.query_EQD), tasks.label_Q) / batch
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def scores(tasks: Tasks) -> Tensor:
        start = [parameter.detach().requires_grad_() for parameter in adapter.start(len(tasks.numbers))]
        return logits(adapted(start, tasks, test_steps, inner_lr, second_order=False), tasks.query_EQD).detach()

    return scores


def _loss(logits_EBN: Tensor, label_B: Tensor) -> Tensor:
    """The sum over episodes of each one's mean cross-entropy: an episode's gradient is what it would be alone."""
    labels = label_B.repeat(len(logits_EBN))
    return F.cross_entropy(logits_EBN.flatten(0, 1), labels, reduction="sum") / len(label_B)
