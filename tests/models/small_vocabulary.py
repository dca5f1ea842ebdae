"""Six classes, four of them base, with random embeddings: the vocabulary of the model tests."""

import torch
import torch.nn.functional as F

from ovd.stores.class_heads import ClassHead
from ovd.vocabulary.splits import Split

WIDTH = 8
NAMES = tuple(f"class {letter}" for letter in "abcdef")
SPLIT = Split("letters", "custom", base=NAMES[:4], novel=NAMES[4:])


def make_head(names=NAMES, width=WIDTH, seed=0) -> ClassHead:
    """A cosine class head whose row for a name does not depend on the other names."""
    rows = [torch.randn(width, generator=torch.Generator().manual_seed(seed + sum(map(ord, name)))) for name in names]
    weights = F.normalize(torch.stack(rows), dim=-1)[:, None]
    return ClassHead(names=tuple(names), weights=weights)
