"""Sylph's code generators at full size, settings for ``model["code_generator"]`` and ``model["support_extractor"]``.

Convolutional: two 3x3 convolutions with GN and ReLU, mean over shots, GN, L2 norm, learned scale, bias. Transformer:
one token a shot, two layers of attention over them. Once: a plain mean.
"""

from mmdet.models import SingleRoIExtractor

from ovd.fewshot.hypernetworks import ConvolutionalCodeGenerator, OnceCodeGenerator, TransformerCodeGenerator

support_extractor = dict(
    type=SingleRoIExtractor, roi_layer=dict(type="RoIAlign", output_size=7, sampling_ratio=0), out_channels=256,
    featmap_strides=[8, 16, 32, 64, 128], finest_scale=56)
convolutional = dict(
    type=ConvolutionalCodeGenerator, in_channels=256, out_channels=256, tower_convs=2, norm_groups=32, post_norm=True,
    l2_norm=True, scale=1.0, predict_bias=True, prior=0.01)
transformer = dict(
    type=TransformerCodeGenerator, in_channels=256, out_channels=256, roi_size=7, tokenizer_convs=2, tokenizer_fcs=2,
    token_channels=256, norm_groups=32, layers=2, heads=8, dropout=0.1, head_fcs=2, head_channels=512)
once = dict(type=OnceCodeGenerator, in_channels=256, out_channels=256, tower_convs=2)
