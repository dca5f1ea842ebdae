"""What the sessions of a detector share: weights, what prepares images, the model's own classes, words, lessons."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ovd.apis.lessons import Lessons
from ovd.apis.words import Words
from ovd.stores.class_heads import ClassHead


@dataclass(frozen=True, eq=False)
class Parts:
    """A loaded model.

    Attributes:
        model: In eval mode, on its device; nobody changes it.
        pipeline: Steps that prepare an image, after it is loaded.
        own: The model's own classes; None for a model without any.
        trained: Those of them that it was trained on, where they are in CLIP's space.
        words: Makes classes of words; None for a detector without a CLIP's space.
        lessons: How classes from boxes and names compare, as base classes taught.
        name: For messages.
    """

    model: nn.Module
    pipeline: list[dict[str, Any]]
    own: ClassHead | None
    trained: ClassHead | None
    words: Words | None
    lessons: Lessons
    name: str = "detector"

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device


def twin(model: nn.Module) -> nn.Module:
    """The same modules once more, with the same tensors: weights are shared, a vocabulary is not."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared)
