"""What the model of a config wants to load."""

from mmengine.config import Config
from mmengine.registry import DefaultScope

from ovd.engine.config import walk
from ovd.engine.conversion.convert import Wanted
from ovd.engine.conversion.layouts import LAYOUTS


def wanted_by(cfg: Config) -> dict[str, Wanted]:
    """The tensors of the config's model, by our names.

    The model is built with random weights. Class heads are not read: classes are no part of a checkpoint, and a
    checkpoint may be converted before the class head is made.

    Args:
        cfg: as from :func:`ovd.engine.config.load_config`, types resolved.
    """
    from mmdet.registry import MODELS

    import ovd.models  # noqa: F401 (registers the models)

    for _, part in walk(cfg.model):
        if part.get("class_head") is not None:
            part.update(class_head=None, split=None, embed_dim=part.get("embed_dim") or 512)
    with DefaultScope.overwrite_default_scope("mmdet"):
        model = MODELS.build(cfg.model)
    tensors = {name: Wanted(tuple(value.shape), value.ndim == 0 and not value.is_floating_point())
               for name, value in model.state_dict().items()}
    if not any(name.startswith("roi_head.") for name in tensors):
        alone = LAYOUTS["ovd-rpn"]
        tensors = {alone.to_ours(name) or name: tensor for name, tensor in tensors.items()}
    return tensors
