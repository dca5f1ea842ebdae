"""CLIP's frozen text tower over sentences in which some words are vectors that are learned.

Legend: C sentences (classes), K context vectors, L tokens of the longest sentence, W width of the text tower, D of the
embeddings.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import open_clip
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ovd.clip.text_tower import end_positions, project, reads_at_end, text_module
from ovd.clip.tokenizer import RemappedTokenizer
from ovd.clip.towers import ClipModel
from ovd.errors import UserError
from ovd.vocabulary.prompts import check_names, rewrite_parentheses

POSITIONS = ("end", "middle", "front")


@dataclass(frozen=True)
class Sentences:
    """Token embeddings of C sentences, and where in them the context vectors go.

    Attributes:
        embedded_CLW: Token embeddings; those at the slots are replaced.
        slots_CK: Positions of the context vectors.
        ends_C: Position of end-of-text, whose output is the sentence's.
    """

    embedded_CLW: Tensor
    slots_CK: Tensor
    ends_C: Tensor

    def __len__(self) -> int:
        return len(self.ends_C)

    def repeated(self, times: int) -> "Sentences":
        """One sentence as ``times`` equal ones, for as many contexts."""
        return Sentences(self.embedded_CLW.expand(times, -1, -1), self.slots_CK.expand(times, -1),
                         self.ends_C.expand(times))


def spoken(name: str) -> str:
    """A class name as DetPro puts it: blanks for underscores, no parentheses (``bow_(ribbons)`` is ``bow ribbons``)."""
    return " ".join(rewrite_parentheses(name, "unwrap").replace("_", " ").split())


class PromptTower:
    """The text tower of a CLIP, composed of open_clip's own modules; nothing in it is trained.

    For text transformers of CLIP's kind: causal, open_clip's BPE tokens, pooled at end-of-text. That is
    :class:`open_clip.CLIP` and a :class:`open_clip.CustomTextCLIP` around an open_clip text transformer.

    Args:
        chunk: Sentences in a forward pass. With more, each pass is computed again for its gradient, so that memory
            holds the activations of one.

    Raises:
        UserError: A text tower of another kind (SigLIP, CoCa, Hugging Face models), or one that is not in float32.
    """

    def __init__(self, clip: ClipModel, chunk: int = 256) -> None:
        self.text = text_module(clip.model)
        _check(clip.name, self.text, clip.tokenizer)
        if clip.dtype != torch.float32:
            raise UserError(f"{clip.name}: prompts are learned in fp32, the CLIP was loaded in {clip.dtype}")
        self.device, self.chunk, self.tokenizer = clip.device, chunk, clip.tokenizer
        self.context_length = int(self.text.positional_embedding.shape[0])
        self.fingerprint, self.logit_scale = clip.fingerprint, clip.logit_scale
        self.start, self.end = self.tokenizer([""])[0, :2].tolist()

    @property
    def width(self) -> int:
        """W, the width of token embeddings and context vectors."""
        return int(self.text.token_embedding.weight.shape[1])

    def tokens(self, text: str) -> list[int]:
        """Token ids of ``text``, without start and end."""
        row = self.tokenizer([text])[0].tolist()
        return row[1:row.index(self.end)]

    def words(self, text: str) -> Tensor:
        """Token embeddings of ``text``, ``[n, W]``: a context made of words."""
        return self.text.token_embedding(torch.tensor(self.tokens(text), device=self.device)).detach()

    def sentences(self, names: Sequence[str], vectors: int, position: str = "end") -> Sentences:
        """``SOS V1 ... VK name . EOT`` for every name (``end``); or the name before, or amid, the vectors.

        Args:
            names: Class names, spoken as :func:`spoken` says.
            vectors: K.
            position: Where the name stands: ``end``, ``middle`` (after K // 2 vectors) or ``front``.

        Raises:
            UserError: Names that are empty, repeated, nothing but parentheses, or too long for the tower.
        """
        check_names(names)
        if position not in POSITIONS:
            raise UserError(f"the class name stands at one of {', '.join(POSITIONS)}, not {position!r}")
        before = {"end": vectors, "middle": vectors // 2, "front": 0}[position]
        rows = []
        for name in names:
            if not (words := spoken(name)):
                raise UserError(f"class name {name!r} has no words")
            name_ids, stop = self._name_and_stop(words, before == vectors)
            rows.append(([self.start] + [self.start] * before + name_ids + [self.start] * (vectors - before) + stop
                         + [self.end], len(name_ids)))
            if len(rows[-1][0]) > self.context_length:
                raise UserError(f"class name {name!r}: with {vectors} context vectors its sentence has "
                                f"{len(rows[-1][0])} tokens, the text tower takes {self.context_length}; shorten the "
                                "name, or learn fewer vectors")
        return self._sentences(rows, before, vectors)

    def background(self, vectors: int) -> Sentences:
        """One sentence of nothing but ``vectors`` learned vectors and a full stop."""
        ids = [self.start] * (1 + vectors) + self.tokens(".") + [self.end]
        if len(ids) > self.context_length:
            raise UserError(f"{vectors} background vectors: the text tower takes {self.context_length - 3} at most")
        return self._sentences([(ids, 0)], vectors, vectors)

    def _name_and_stop(self, words: str, together: bool) -> tuple[list[int], list[int]]:
        if together:  # as one text, since BPE joins a full stop to punctuation before it
            return self.tokens(f"{words}."), []
        return self.tokens(words), self.tokens(".")

    def _sentences(self, rows: list[tuple[list[int], int]], before: int, vectors: int) -> Sentences:
        longest = max(len(ids) for ids, _ in rows)
        ids_CL = torch.full((len(rows), longest), self.end)
        slots_CK = torch.empty(len(rows), vectors, dtype=torch.long)
        for row, (ids, name_tokens) in enumerate(rows):
            ids_CL[row, :len(ids)] = torch.tensor(ids)
            slots_CK[row, :before] = torch.arange(1, 1 + before)
            slots_CK[row, before:] = torch.arange(1 + before, 1 + vectors) + name_tokens
        with torch.no_grad():
            embedded_CLW = self.text.token_embedding(ids_CL.to(self.device))
        ends_C = torch.tensor([len(ids) - 1 for ids, _ in rows])
        return Sentences(embedded_CLW, slots_CK.to(self.device), ends_C.to(self.device))

    def __call__(self, sentences: Sentences, context_KW: Tensor) -> Tensor:
        """Raw (not normalised) text embeddings ``[C, D]``; gradient flows to the context and to nothing else.

        Args:
            context_KW: The vectors, the same in every sentence; or ``[C, K, W]``.
        """
        if context_KW.ndim == 2:
            context_KW = context_KW.expand(len(sentences), -1, -1)
        if len(sentences) <= self.chunk:
            return self._encode(sentences.embedded_CLW, sentences.slots_CK, sentences.ends_C, context_KW)
        parts = [t.split(self.chunk) for t in (sentences.embedded_CLW, sentences.slots_CK, sentences.ends_C,
                                               context_KW)]
        return torch.cat([checkpoint(self._encode, *part, use_reentrant=False) for part in zip(*parts)])

    def _encode(self, embedded_CLW: Tensor, slots_CK: Tensor, ends_C: Tensor, context_CKW: Tensor) -> Tensor:
        text, length = self.text, embedded_CLW.shape[1]
        rows_C1 = torch.arange(len(embedded_CLW), device=embedded_CLW.device)[:, None]
        x_CLW = embedded_CLW.index_put((rows_C1, slots_CK), context_CKW) + text.positional_embedding[:length]
        # tokens after end-of-text change nothing before it, so the sentences are cut to the longest
        x_CLW = text.transformer(x_CLW, attn_mask=text.attn_mask[:length, :length])
        return project(text, x_CLW[rows_C1[:, 0], ends_C])


def _check(name: str, text: nn.Module, tokenizer: object) -> None:
    remedy = "learn prompts with a CLIP of OpenAI's or OpenCLIP's own kind, or use templates (ovd class-embeddings)"
    if not isinstance(text, open_clip.CLIP | open_clip.transformer.TextTransformer):
        raise UserError(f"{name}: its text tower ({type(text).__name__}) has no place for learned vectors; {remedy}")
    if not isinstance(tokenizer, open_clip.SimpleTokenizer | RemappedTokenizer):
        raise UserError(f"{name}: its tokenizer ({type(tokenizer).__name__}) is not CLIP's BPE; {remedy}")
    if not reads_at_end(text) or end_positions(text, tokenizer([""])).item() != 1:
        raise UserError(f"{name}: its text tower is not causal, or is not pooled at end-of-text (as SigLIP's and "
                        f"CoCa's); {remedy}")
