"""The convolutional code generator: per shot a small tower and a mean over places; per class a normalised mean.

Shapes: S shots, C classes, K most shots of a class, D code width.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from torch import Tensor, nn

from ovd.errors import UserError
from ovd.fewshot.hypernetworks.generator import CodeGenerator, Codes, RawCodes, bias_of_probability, init_normal
from ovd.fewshot.hypernetworks.level_fusion import LevelFusion, conv_norm_relu
from ovd.fewshot.hypernetworks.shot_layout import ShotLayout


@MODELS.register_module()
class ConvolutionalCodeGenerator(CodeGenerator):
    """Codes as in Sylph (Yin, Perez-Rua, Liang, "Sylph", CVPR 2022).

    Of shot s, features ``f_s`` go through a tower of 3x3 convolutions; a further convolution and the mean over places
    give ``z_s`` (and, the same way, a bias ``b_s``, a weight ``u_s``, a length ``n_s``). Of class c:

    - ``a = softmax(u)`` over its shots, or ``1 / k``; ``z = sum_s a_s z_s``;
    - with ``max_mix``, ``z = m_0 z + m_1 max_s z_s`` with learned ``m``, at first 0.5 and 0.5;
    - ``w_c = gamma exp(n) L2(GN(z))``, each part as asked for, with ``n = sum_s a_s n_s`` and ``gamma`` learned;
    - ``b_c = beta sum_s a_s b_s + prior`` with ``beta`` learned, at first 1.

    Args:
        in_channels, out_channels, levels, unit, contrastive: See :class:`CodeGenerator`; several levels are fused by
            channel attention.
        tower_convs: Convolutions of the tower, each with group normalisation and ReLU.
        tower_relu: Whether there are ReLUs.
        norm_groups: Groups of all group normalisations; None for a tower without them.
        shot_weights: Whether shots count by learned weights.
        class_norm: Whether the length of a class's code is learned.
        max_mix: See above.
        post_norm: Group normalisation of the mean.
        l2_norm: L2 normalisation of the code.
        scale: What gamma is at first; None for none. Needs ``l2_norm``.
        bias: Whether classes have a bias at all; ``unit`` codes never have.
        predict_bias: Whether it depends on the shots; otherwise it is the prior.
        prior: The probability that a zero logit stands for.
        learn_prior: Whether the prior's logit is learned.
        bias_l2_norm: L2 normalisation of the bias's map before the mean over places.

    Raises:
        UserError: Options that exclude one another.
    """

    def __init__(self, in_channels: int, out_channels: int, levels: int = 1, unit: bool = False,
                 contrastive: Mapping[str, float] | None = None, *, tower_convs: int = 2, tower_relu: bool = True,
                 norm_groups: int | None = 32, shot_weights: bool = False, class_norm: bool = False,
                 max_mix: bool = False, post_norm: bool = True, l2_norm: bool = True, scale: float | None = 1.0,
                 bias: bool = True, predict_bias: bool = True, prior: float = 0.01, learn_prior: bool = False,
                 bias_l2_norm: bool = False) -> None:
        super().__init__(in_channels, out_channels, levels, unit, contrastive)
        if unit:
            if not l2_norm or class_norm:
                raise UserError("code generator: unit codes have length 1: leave l2_norm on and class_norm off")
            scale, bias = None, False
        if scale is not None and not l2_norm:
            raise UserError("code generator: a scale is for codes of length 1: set l2_norm, or scale=None")
        if post_norm and norm_groups is None:
            raise UserError("code generator: post_norm needs norm_groups")
        self.l2_norm, self.bias_l2_norm = l2_norm, bias_l2_norm
        self.fusion = LevelFusion(in_channels, levels, norm_groups or 1) if levels > 1 else None
        self.tower = nn.Sequential(*(conv_norm_relu(in_channels, in_channels, norm_groups, tower_relu)
                                     for _ in range(tower_convs)))

        def number() -> nn.Conv2d:
            return nn.Conv2d(in_channels, 1, 3, padding=1)

        self.code = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.bias = number() if bias and predict_bias else None
        self.shot_weight = number() if shot_weights else None
        self.norm = number() if class_norm else None
        self.mix = nn.Parameter(torch.full((2,), 0.5)) if max_mix else None
        self.post_norm = nn.GroupNorm(norm_groups, out_channels) if post_norm else None
        self.scale = None if scale is None else nn.Parameter(torch.tensor(float(scale)))
        self.bias_scale = nn.Parameter(torch.tensor(1.0)) if self.bias is not None else None
        prior = torch.tensor(bias_of_probability(prior))
        if bias and learn_prior:
            self.prior = nn.Parameter(prior)
        else:
            self.register_buffer("prior", prior if bias else None, persistent=False)
        init_normal(self)

    def raw(self, features_SChw: Tensor) -> RawCodes:
        """What each shot says by itself; see :meth:`CodeGenerator.raw`."""
        if self.fusion is not None:
            features_SChw = self.fusion(features_SChw)
        x_SChw = self.tower(features_SChw)
        bias_S = None
        if self.bias is not None:
            map_SP = self.bias(x_SChw).flatten(1)
            bias_S = (F.normalize(map_SP, dim=1) if self.bias_l2_norm else map_SP).mean(dim=1)
        return RawCodes(self.code(x_SChw).mean(dim=(2, 3)), bias_S, _number(self.shot_weight, x_SChw),
                        _number(self.norm, x_SChw))

    def process(self, raw: RawCodes, class_of_S: Tensor, num_classes: int) -> Codes:
        """From shots to classes; see :meth:`CodeGenerator.process`."""
        shots = ShotLayout(class_of_S, num_classes)
        share_CK = shots.even_weights() if raw.shot_weight_S is None else shots.softmax(raw.shot_weight_S)
        weights_CD = (share_CK[..., None] * shots.table(raw.codes_SD)).sum(dim=1)
        if self.mix is not None:
            weights_CD = self.mix[0] * weights_CD + self.mix[1] * shots.maximum(raw.codes_SD)
        if self.post_norm is not None:
            weights_CD = self.post_norm(weights_CD)
        if self.l2_norm:
            weights_CD = F.normalize(weights_CD, dim=1)
        if raw.norm_S is not None:
            weights_CD = weights_CD * (share_CK * shots.table(raw.norm_S)).sum(dim=1).exp()[:, None]
        if self.scale is not None:
            weights_CD = self.scale * weights_CD
        if self.prior is None:
            return Codes(weights_CD)
        bias_C = self.prior.expand(num_classes)
        if raw.bias_S is not None:
            bias_C = bias_C + self.bias_scale * (share_CK * shots.table(raw.bias_S)).sum(dim=1)
        return Codes(weights_CD, bias_C)


def _number(conv: nn.Conv2d | None, x_SChw: Tensor) -> Tensor | None:
    """One number a shot: the mean of the convolution's map."""
    return None if conv is None else conv(x_SChw).mean(dim=(1, 2, 3))
