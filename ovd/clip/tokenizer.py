"""BPE ids remapped to the few that a small CLIP knows."""

from collections.abc import Iterable, Sequence

import open_clip
import torch
from torch import Tensor

PAD, UNKNOWN = 0, 1


class RemappedTokenizer:
    """CLIP's BPE tokenizer for a text tower with a reduced embedding table.

    Row 0 of the table is padding, row 1 stands for every BPE id that the model was not trained on, and row ``i + 2``
    for ``bpe_ids[i]``. The ids are in ascending order, so that end-of-text keeps the highest one, where open_clip's
    ``argmax`` pooling looks for it.

    Args:
        bpe_ids: The known ids of CLIP's vocabulary, ascending, start and end of text included.
        context_length: Tokens per text; longer texts are cut, their last token becomes end-of-text.
    """

    def __init__(self, bpe_ids: Sequence[int], context_length: int) -> None:
        self.base = open_clip.SimpleTokenizer(context_length=context_length)
        self.bpe_ids = list(bpe_ids)
        self.context_length = context_length
        self.table = torch.full((self.base.vocab_size,), UNKNOWN, dtype=torch.long)
        self.table[torch.tensor(self.bpe_ids)] = torch.arange(2, len(self.bpe_ids) + 2)

    @property
    def vocab_size(self) -> int:
        return len(self.bpe_ids) + 2

    def __call__(self, texts: str | list[str], context_length: int | None = None) -> Tensor:
        """Token ids, long ``[N, context_length]``, padded with 0."""
        tokens = self.base(texts, context_length=context_length or self.context_length)
        lengths = tokens.argmax(dim=1) + 1  # end-of-text has the highest id
        mapped = self.table[tokens]
        return mapped.masked_fill(torch.arange(tokens.shape[1]) >= lengths[:, None], PAD)


def used_bpe_ids(texts: Iterable[str]) -> list[int]:
    """Ascending BPE ids that occur in ``texts``, with start and end of text."""
    base = open_clip.SimpleTokenizer()
    ids = {base.sot_token_id, base.eot_token_id}
    for text in texts:
        ids.update(base.encode(text))
    return sorted(ids)
