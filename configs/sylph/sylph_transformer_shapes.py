"""Meta-training on the embedded benchmark with the transformer over shots as code generator.

    ovd train configs/sylph/sylph_transformer_shapes.py

Otherwise as sylph_fa_shapes.py.
"""

from mmengine.config import read_base

with read_base():
    from .sylph_fa_shapes import *

transformer.update(
    in_channels=width, out_channels=code_width, norm_groups=8, token_channels=code_width, heads=4, tokenizer_fcs=1,
    head_channels=2 * code_width)
model["code_generator"] = transformer
