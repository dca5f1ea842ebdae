"""CLIP's text tower over many texts: what they have in common at their beginning is computed once, padding never.

In a causal tower a token's states depend on that token and on those before it, so texts that begin alike have the same
states there, and what follows end-of-text changes nothing. The texts are laid out as a tree of tokens: a node for each
different beginning, which attends to itself and to what leads to it. ViLD's 63 prompts of a class are 63 x 77 tokens
with padding, 725 without, and a tree of 370 nodes; 120 of these are the same for every class, and kept.

Legend: N nodes of a tree, S of its trunk, A = S + N that a node may attend to, T texts, L tokens with padding, H
attention heads, K width of one, W width of the tower, D embedding width.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock, Transformer, text_global_pool
from torch import Tensor, nn

from ovd.clip.token_tree import TokenTree

TREE_TOKENS = 1024  # of the texts in one tree, at most: attention in a tree costs the square of its nodes
PADDED_TEXTS = 256  # in a batch, at most


class TextEncoder:
    """Embeds texts with the text tower of an open_clip model.

    The same list of texts gives the same embeddings, to the bit; in another list a text's differ by rounding. Equal
    texts are computed once. Towers that are not causal, or are not read at end-of-text (SigLIP, CoCa, Hugging Face
    models), may see the padding, so theirs stays.

    Args:
        tokenizer: Callable ``list[str] -> long [T, L]``.
        shared: Texts whose beginnings many texts have. Their states are computed at the first call, and kept.
    """

    def __init__(self, model: nn.Module, tokenizer: Callable[[list[str]], Tensor], device: torch.device,
                 shared: Sequence[str] = ()) -> None:
        self.model, self.tokenizer, self.device, self.shared = model, tokenizer, device, list(shared)
        text = text_module(model)
        self.tower = CausalTower(text, device) if runs_as_tree(text) else None
        self.trunk: Trunk | None = None

    @torch.inference_mode()
    def __call__(self, texts: list[str]) -> Tensor:
        """Raw (not normalised) embeddings of texts, at least one, float32 ``[T, D]`` on the CPU."""
        tokens_TL = self.tokenizer(texts)
        sequences = tokens_TL.tolist() if self.tower is None else self.tower.sequences(tokens_TL)
        rows: dict[tuple[int, ...], int] = {}
        index = [rows.setdefault(tuple(tokens), len(rows)) for tokens in sequences]
        distinct = [list(tokens) for tokens in rows]
        parts = self._padded(distinct) if self.tower is None else self._as_trees(distinct)
        return torch.cat([part.float().cpu() for part in parts])[index]

    def _padded(self, sequences: list[list[int]]) -> Iterator[Tensor]:
        for tokens_TL in torch.tensor(sequences).split(PADDED_TEXTS):
            yield self.model.encode_text(tokens_TL.to(self.device), normalize=False)  # CoCa's default is True

    def _as_trees(self, sequences: list[list[int]]) -> Iterator[Tensor]:
        if self.trunk is None:
            shared = self.tower.sequences(self.tokenizer(self.shared)) if self.shared else []
            self.trunk = self.tower.grow_trunk([tokens[:-1] for tokens in shared])  # without end-of-text
        for chunk in _chunks(sequences, TREE_TOKENS):
            yield self.tower(chunk, self.trunk)


@dataclass(frozen=True)
class Trunk:
    """Beginnings that many texts share, and what later tokens need of them.

    Attributes:
        tree: S nodes, possibly none.
        states: Keys and values ``[H, S, K]`` of each layer; no layers where there are no nodes.
    """

    tree: TokenTree
    states: list[tuple[Tensor, Tensor]]


class CausalTower:
    """A causal text tower of open_clip, see :func:`runs_as_tree`, that runs over trees of tokens."""

    def __init__(self, text: nn.Module, device: torch.device) -> None:
        self.text, self.device = text, device
        self.blocks = text.transformer.resblocks
        self.heads = self.blocks[0].attn.num_heads

    def sequences(self, tokens_TL: Tensor) -> list[list[int]]:
        """The tokens of each text up to the one that it is read at."""
        ends = end_positions(self.text, tokens_TL).tolist()
        return [tokens[:end + 1] for tokens, end in zip(tokens_TL.tolist(), ends)]

    def grow_trunk(self, beginnings: list[list[int]]) -> Trunk:
        """Compute beginnings, of one token or more each; there may be none."""
        trunk = Trunk(TokenTree(), [])
        for tokens in beginnings:
            trunk.tree.add(tokens)
        if trunk.tree:
            self._run(trunk.tree, [], keep=trunk.states)
        return trunk

    def __call__(self, texts: list[list[int]], trunk: Trunk) -> Tensor:
        """Raw embeddings ``[T, D]`` of token sequences, all different, each read at its last token."""
        tree = TokenTree(trunk.tree)
        ends_T = torch.tensor([tree.add(tokens) for tokens in texts], device=self.device)
        return project(self.text, self._run(tree, trunk.states, ends_T))

    def _run(self, tree: TokenTree, trunk_states: list[tuple[Tensor, Tensor]], ends_T: Tensor | None = None,
             keep: list[tuple[Tensor, Tensor]] | None = None) -> Tensor:
        """States of a tree's own nodes after the last block; of the rows ``ends_T`` only, where these are given.

        Args:
            trunk_states: See :class:`Trunk`; empty for a tree without a trunk.
            keep: A list that gets the keys and values of each layer.
        """
        text, device, dtype = self.text, self.device, self.text.transformer.get_cast_dtype()
        tokens_N, positions_N = (torch.tensor(numbers, device=device) for numbers in (tree.tokens, tree.positions))
        x_NW = text.token_embedding(tokens_N).to(dtype) + text.positional_embedding[positions_N].to(dtype)
        hidden_NA = ~torch.from_numpy(tree.visible()).to(device)
        mask_NA = torch.zeros(hidden_NA.shape, dtype=dtype, device=device).masked_fill_(hidden_NA, float("-inf"))
        for layer, block in enumerate(self.blocks):
            attention = block.attn
            qkv = F.linear(block.ln_1(x_NW), attention.in_proj_weight, attention.in_proj_bias)
            query, keys, values = qkv.unflatten(1, (3, self.heads, -1)).permute(1, 2, 0, 3)  # each [H, N, K]
            if keep is not None:
                keep.append((keys.contiguous(), values.contiguous()))
            if trunk_states:
                keys, values = (torch.cat(pair, dim=1) for pair in zip(trunk_states[layer], (keys, values)))
            if ends_T is not None and layer == len(self.blocks) - 1:  # nothing reads the others' states after it
                x_NW, query, mask_NA = x_NW[ends_T], query[:, ends_T], mask_NA[ends_T]
            seen = F.scaled_dot_product_attention(query[None], keys[None], values[None], attn_mask=mask_NA)[0]
            x_NW = x_NW + block.ls_1(attention.out_proj(seen.transpose(0, 1).flatten(1)))
            x_NW = x_NW + block.ls_2(block.mlp(block.ln_2(x_NW)))
        return x_NW


def text_module(model: nn.Module) -> nn.Module:
    """What holds the modules of the text tower: ``model.text``, or an :class:`open_clip.CLIP` itself."""
    return getattr(model, "text", model)


def reads_at_end(text: nn.Module) -> bool:
    """Whether a text module of open_clip is causal and reads a text at end-of-text: padding changes nothing then."""
    mask = getattr(text, "attn_mask", None)
    if mask is None or _pooling(text)[0] not in ("argmax", "eos") or getattr(text, "cls_emb", None) is not None:
        return False
    return torch.equal(mask, torch.full_like(mask, float("-inf")).triu_(1))


def runs_as_tree(text: nn.Module) -> bool:
    """Whether :class:`CausalTower` computes what a text module does: it reads at the end, and its blocks are plain."""
    transformer = getattr(text, "transformer", None)
    return reads_at_end(text) and type(transformer) is Transformer and all(
        type(block) is ResidualAttentionBlock and block.attn.in_proj_weight is not None
        for block in transformer.resblocks)


def end_positions(text: nn.Module, tokens_TL: Tensor) -> Tensor:
    """Where a text module reads each text, long ``[T]``: by open_clip's own pooling, of the positions."""
    positions_TL = torch.arange(tokens_TL.shape[1]).expand_as(tokens_TL)
    return text_global_pool(positions_TL, tokens_TL, *_pooling(text))


def project(text: nn.Module, x_TW: Tensor) -> Tensor:
    """Raw embeddings ``[T, D]`` from the last block's states at the tokens that texts are read at."""
    x_TW, projection = text.ln_final(x_TW), text.text_projection
    if projection is None:
        return x_TW
    return projection(x_TW) if isinstance(projection, nn.Linear) else x_TW @ projection


def _pooling(text: nn.Module) -> tuple[str | None, int | None]:
    """How open_clip pools, and the token that it looks for: an :class:`open_clip.CLIP` has other names for them."""
    prefix = "text_" if hasattr(text, "text_pool_type") else ""
    return getattr(text, f"{prefix}pool_type", None), getattr(text, f"{prefix}eos_id", None)


def _chunks(sequences: list[list[int]], most: int) -> list[list[list[int]]]:
    """Runs of sequences, of ``most`` tokens at most unless one alone has more."""
    chunks: list[list[list[int]]] = []
    room = 0
    for tokens in sequences:
        if not chunks or len(tokens) > room:
            chunks.append([])
            room = most
        chunks[-1].append(tokens)
        room -= len(tokens)
    return chunks
