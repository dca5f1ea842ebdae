"""Classes of a trained detector as a class head: the rows of its classifier, by name.

Shapes: C classes, D width of the features that the rows are compared with.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from ovd.engine.checkpoints import read_checkpoint
from ovd.engine.head_surgery import find_class_layers
from ovd.errors import UserError
from ovd.stores.class_heads import ClassHead
from ovd.stores.manifest import fingerprint

# what makes the features that a dense head's rows are compared with, and a box head's
_DENSE = ("backbone.", "neck.", "bbox_head.cls_convs.")
_REGIONS = ("backbone.", "neck.", "roi_head.")
_NOT_REGIONS = ("fc_cls.", "fc_reg.", "mask_head.", "mask_roi_extractor.")
TFA_SCALE = 20.0  # of a cosine classifier that does not have its own as a weight


def from_checkpoint(path: str | os.PathLike, names: Sequence[str] | None = None) -> ClassHead:
    """The rows of a checkpoint's classifier: mmdet's ``fc_cls`` (softmax, the background's last), ``cls_logits`` or
    ``conv_cls`` (sigmoids, a 1x1 convolution).

    Rows with a bias are compared by inner products; rows without one by cosines (TFA's classifier), with the scale that
    the checkpoint has, or 20. Of a softmax, the background's bias is taken from all others, so the probabilities are
    what they were.

    Args:
        path: A checkpoint that has the names of its classes (mmdet's and ours do).
        names: Which classes, and in which order; None for all.

    Returns:
        A head whose ``space`` is the detector's own features: its rows stand beside others of this detector only.

    Raises:
        UserError: No checkpoint, no classifier with a row for each class (such as a detector whose classes are a class
            head file), an unknown class, a classifier that looks at more than one place.
    """
    path = Path(path)
    checkpoint = read_checkpoint(path)
    found = find_class_layers(checkpoint, source=str(path))
    layers = [layer for layer in found.layers if layer.classifies]
    if len(layers) > 1:
        raise UserError(f"{path}: has {len(layers)} classifiers ({', '.join(layer.name for layer in layers[:3])}), as "
                        "cascades have; a class head has one row a class, so take a detector of a single stage")
    layer = layers[0]
    weights, row = found.weights, found.rows_of_classes(layer, "weight")
    weights_C1D = row.flatten(3).squeeze(3) if row.ndim > 3 and row[0, 0, 0].numel() == 1 else row
    if weights_C1D.ndim != 3:
        raise UserError(f"{path}: {layer.name} is a convolution of {' x '.join(map(str, row.shape[3:]))} places, which "
                        "is not one vector a class; train a head whose classifier is 1 x 1")
    bias = found.rows_of_classes(layer, "bias")[:, 0] if f"{layer.name}.bias" in weights else None
    scale, background = 1.0, None
    if bias is None:
        scale = float(weights.get(f"{layer.name}.scale", TFA_SCALE))
    if layer.background:
        background = weights[f"{layer.name}.weight"][-1].flatten()
        bias = None if bias is None else bias - weights[f"{layer.name}.bias"][-1]
    dense = not layer.name.startswith("roi_head.")
    space = f"fcos:{weights_digest(weights, _DENSE)}" if dense else \
        f"roi:{weights_digest(weights, _REGIONS, _NOT_REGIONS)}"
    made = {"source": "checkpoint", "file": path.name, "sha256": fingerprint(path), "layer": layer.name}
    try:
        head = ClassHead(found.names, weights_C1D, bias=bias, scale=scale, norm="cosine" if bias is None else "linear",
                         background=background, provenance=tuple({**made, "row": i} for i in range(len(found.names))),
                         stats={"space": space})
        return head if names is None else head.select(names)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def weights_digest(weights: Mapping[str, Tensor], parts: tuple[str, ...], without: tuple[str, ...] = ()) -> str:
    """SHA-256, in hex, of the tensors whose names begin with one of ``parts`` and contain none of ``without``.

    Neither the file's number format counts, as far as float32 holds its values, nor counters of batches.
    """
    sha = hashlib.sha256()
    for name, value in sorted(weights.items()):
        if name.startswith(parts) and not name.endswith("num_batches_tracked") and not any(w in name for w in without):
            sha.update(name.encode())
            sha.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()
