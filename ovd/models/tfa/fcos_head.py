"""The FCOS head of TFA-FCOS: rows for other classes than the base ones."""

from mmdet.registry import MODELS

from ovd.data.fine_tuning import part_of
from ovd.models.sylph import CodeFCOSHead
from ovd.vocabulary.splits import Split, get_split


@MODELS.register_module()
class FineTunedFCOSHead(CodeFCOSHead):
    """:class:`~ovd.models.sylph.CodeFCOSHead` whose classifier has rows for a part of the split's classes.

    Args:
        in_channels, split, data_root, kwargs: As there.
        learn: ``all`` for TFA-FCOS, ``novel`` for its simplified form; as in
            :class:`~ovd.data.fine_tuning.FineTuningDataset`, which the training data are of.
    """

    def __init__(self, in_channels: int, split: str | Split, learn: str = "all", data_root: str = "",
                 **kwargs) -> None:
        if not isinstance(split, Split):
            split = get_split(split, data_root)
        super().__init__(in_channels=in_channels, split=part_of(split, learn), data_root=data_root, **kwargs)
