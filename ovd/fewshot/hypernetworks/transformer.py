"""The transformer code generator: one token a shot, attention over the shots of a class, a code from their mean.

Shapes: S shots, C classes, K most shots of a class, T token width, D code width.
"""

from collections.abc import Mapping
from itertools import pairwise

import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from torch import Tensor, nn

from ovd.fewshot.hypernetworks.generator import CodeGenerator, Codes, RawCodes, bias_of_probability, init_normal
from ovd.fewshot.hypernetworks.level_fusion import LevelFusion, conv_norm_relu
from ovd.fewshot.hypernetworks.shot_layout import ShotLayout


@MODELS.register_module()
class TransformerCodeGenerator(CodeGenerator):
    """RoI features become a token a shot (convolutions, then linear layers), the tokens of a class look at each other,
    and linear layers make the code and the bias from their mean. ``b_c = prior + predicted``; codes are not normalised
    unless ``unit``. Tokens carry no positions: the order of shots does not matter.

    Args:
        in_channels, out_channels, levels, unit, contrastive: See :class:`CodeGenerator`.
        roi_size: h and w of the features.
        fusion: Channel attention: over the levels, or, of one level, between it and two convolutions of it.
        tokenizer_convs, tokenizer_fcs: Layers that make the token; without linear layers it is the mean over places.
        token_channels: T.
        norm_groups: Of the group normalisations.
        layers, heads, dropout: The encoder's; its inner width is 4 T.
        head_fcs, head_channels: Hidden linear layers before the code.
        bias: Whether classes have a bias; ``unit`` codes never have.
        prior: The probability that a zero logit stands for.
    """

    def __init__(self, in_channels: int, out_channels: int, levels: int = 1, unit: bool = False,
                 contrastive: Mapping[str, float] | None = None, *, roi_size: int = 7, fusion: bool = True,
                 tokenizer_convs: int = 2, tokenizer_fcs: int = 2, token_channels: int = 256, norm_groups: int = 32,
                 layers: int = 2, heads: int = 8, dropout: float = 0.1, head_fcs: int = 2, head_channels: int = 512,
                 bias: bool = True, prior: float = 0.01) -> None:
        super().__init__(in_channels, out_channels, levels, unit, contrastive)
        self.fusion = LevelFusion(in_channels, levels, norm_groups) if fusion or levels > 1 else None
        widths = [in_channels] + [token_channels] * tokenizer_convs
        self.convs = nn.Sequential(*(conv_norm_relu(a, b, norm_groups) for a, b in pairwise(widths)))
        if tokenizer_fcs:
            self.pool: nn.Module = nn.Flatten()
            self.fcs = _fcs(widths[-1] * roi_size ** 2, token_channels, tokenizer_fcs)
        else:
            self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
            self.fcs = nn.Identity() if widths[-1] == token_channels else nn.Linear(widths[-1], token_channels)
        layer = nn.TransformerEncoderLayer(token_channels, heads, 4 * token_channels, dropout, batch_first=True)
        self.head = _fcs(token_channels, head_channels, head_fcs)
        hidden = head_channels if head_fcs else token_channels
        self.code = nn.Linear(hidden, out_channels)
        self.bias = nn.Linear(hidden, 1) if bias and not unit else None
        prior = torch.tensor(bias_of_probability(prior))
        self.register_buffer("prior", None if self.bias is None else prior, persistent=False)
        for part in (self.fusion, self.convs, self.code, self.bias):
            if part is not None:
                init_normal(part)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def raw(self, features_SChw: Tensor) -> RawCodes:
        """A token a shot; see :meth:`CodeGenerator.raw`."""
        if self.fusion is not None:
            features_SChw = self.fusion(features_SChw)
        return RawCodes(self.fcs(self.pool(self.convs(features_SChw))))

    def process(self, raw: RawCodes, class_of_S: Tensor, num_classes: int) -> Codes:
        """From shots to classes; see :meth:`CodeGenerator.process`."""
        shots = ShotLayout(class_of_S, num_classes)
        tokens_CKT = self.encoder(shots.table(raw.codes_SD), src_key_padding_mask=~shots.used_CK)
        mean_CT = (shots.even_weights()[..., None] * tokens_CKT).sum(dim=1)
        hidden = self.head(mean_CT)
        weights_CD = self.code(hidden)
        if self.unit:
            weights_CD = F.normalize(weights_CD, dim=1)
        return Codes(weights_CD, None if self.bias is None else self.prior + self.bias(hidden)[:, 0])


def _fcs(width: int, hidden: int, count: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(count):
        layers += [nn.Linear(width, hidden), nn.ReLU()]
        width = hidden
    return nn.Sequential(*layers)
