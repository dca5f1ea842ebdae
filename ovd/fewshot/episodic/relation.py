"""RelationNet's relation module on cached embeddings: a learned score of a query and a class's mean.

Sung et al., "Learning to Compare" (CVPR 2018), sec. 3.2 and eq. 1 and 2, with a perceptron in place of convolutions,
since a cached embedding has no map. The backbone is frozen: only the relation module learns, on episodes of base
classes. Shapes: E episodes, N classes, Q queries, D width, H hidden units.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovd.fewshot.episodic.episodes import sample_episodes
from ovd.fewshot.episodic.objects import EmbeddedObjects
from ovd.fewshot.episodic.tasks import Tasks, blocks


class RelationModule(nn.Module):
    """``sigmoid(g(concat(q, mean_c)))``, g a perceptron with two hidden layers."""

    def __init__(self, dim: int, hidden: int = 256) -> None:
        super().__init__()
        self.of_query = nn.Linear(dim, hidden)  # the two halves of a layer on the concatenation: each row goes through
        self.of_class = nn.Linear(dim, hidden, bias=False)  # it once, not once a pair
        self.second = nn.Linear(hidden, 64)
        self.last = nn.Linear(64, 1)

    def forward(self, query_EQD: Tensor, means_END: Tensor) -> Tensor:
        """Relations in 0 ... 1, ``[E, Q, N]``."""
        scale = query_EQD.shape[-1] ** 0.5  # entries of unit rows are small; layers are made for those around 1
        pairs_EQNH = (self.of_query(scale * query_EQD)[:, :, None] + self.of_class(scale * means_END)[:, None]).relu()
        return self.last(self.second(pairs_EQNH).relu()).squeeze(-1).sigmoid()


def train_on_base(base: EmbeddedObjects, *, way: int, shot: int, query: int, seed: int, iterations: int = 600,
                  batch: int = 4, lr: float = 0.001) -> Callable[[Tasks], Tensor]:
    """Learn relations: mean squared error to 1 for a query's class and 0 for the others, by Adam.

    Args:
        base: Objects of base classes.
        batch: Episodes of a step.

    Returns:
        The scores of tasks.
    """
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        module = RelationModule(base.dim)
    optimizer = torch.optim.Adam(module.parameters(), lr=lr)
    drawn = sample_episodes(base.labels_N, base.names, way=way, shot=shot, query=query, episodes=iterations * batch,
                            seed=seed)
    for tasks in blocks(base, drawn, size=batch):
        relations_EQN = module(tasks.query_EQD, tasks.support_ENKD.mean(dim=2))
        target_QN = F.one_hot(tasks.label_Q, way).float()
        loss = F.mse_loss(relations_EQN, target_QN.expand_as(relations_EQN))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    @torch.no_grad()
    def scores(tasks: Tasks) -> Tensor:
        return module(tasks.query_EQD, tasks.support_ENKD.mean(dim=2))

    return scores
