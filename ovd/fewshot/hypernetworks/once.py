"""A code generator in the manner of ONCE: the plain mean over shots, nothing normalised, no bias."""

from mmdet.registry import MODELS

from ovd.fewshot.hypernetworks.convolutional import ConvolutionalCodeGenerator


@MODELS.register_module()
class OnceCodeGenerator(ConvolutionalCodeGenerator):
    """The baseline of Sylph: ``w_c = mean_s z_s`` of convolutions with ReLUs (Perez-Rua et al., "Incremental Few-Shot
    Object Detection", CVPR 2020, sec. 3.3, whose CenterNet is replaced by this project's detector).

    Args:
        in_channels, out_channels, levels: See :class:`CodeGenerator`.
        tower_convs: Convolutions before the one that gives the code.
    """

    def __init__(self, in_channels: int, out_channels: int, levels: int = 1, tower_convs: int = 2) -> None:
        super().__init__(in_channels, out_channels, levels, tower_convs=tower_convs, norm_groups=None, post_norm=False,
                         l2_norm=False, scale=None, bias=False)
