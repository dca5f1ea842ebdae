"""What CLIP says of a region: a probability for each class, from the region's embedding and a class head.

Shapes: N regions, C classes, D embedding width.
"""

from dataclasses import replace

from torch import Tensor

from ovd.errors import UserError
from ovd.stores.class_heads import ClassHead


def class_probabilities(head: ClassHead, embeddings_ND: Tensor, temperature: float | None = None) -> Tensor:
    """Probabilities ``[N, C]``: softmax over all classes of ``cos / T``, without a background (ViLD, sec. 3.1).

    A head with bias comes from a CLIP that was trained with a sigmoid (SigLIP): each class is then judged by itself, by
    ``sigmoid(cos / T + bias)``, and rows do not add up to 1.

    Args:
        embeddings_ND: Unit rows, float32.
        temperature: T; by default the inverse of the head's scale, which is the CLIP's own (0.01 for OpenAI's).
    """
    if temperature is not None:
        if not temperature > 0:
            raise UserError(f"temperature {temperature}: needs a number above 0")
        head = replace(head, scale=1 / temperature)
    logits = head.logits(embeddings_ND)
    return logits.softmax(dim=1) if head.bias is None else logits.sigmoid()
