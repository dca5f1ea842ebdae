"""Embeddings in a file per image, ``<id:012d>.pth``, as DetPro's and OADP's code writes and reads them.

    detpro  a float32 tensor [n, D]; the boxes are elsewhere, in the same order
    oadp    {"embeddings": float16 [n, D], "bboxes": float16 [n, 4] xyxy, "objectness": float16 [n, 1]}

Rows may be of any length. float16 keeps coordinates from 256 to 512 to a quarter of a pixel, from 512 to 1024 to half
of one, and so on.
"""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ovd.errors import UserError
from ovd.stores.atomic import write_bytes
from ovd.stores.layout import Regions
from ovd.stores.manifest import fingerprint

LAYOUTS = ("detpro", "oadp")
_OADP = {"embeddings": None, "bboxes": 4, "objectness": 1}  # key -> columns


def file_name(image_id: int) -> str:
    """Name of an image's file."""
    return f"{image_id:012d}.pth"


def save_image(path: Path, regions: Regions, layout: str) -> None:
    """Write the regions of an image, atomically; the same regions give the same bytes.

    Raises:
        UserError: a coordinate that float16 does not hold (oadp), a full disk, a folder that cannot be written to.
    """
    arrays = regions.embeddings, regions.boxes, regions.scores
    embeddings, boxes, scores = (torch.from_numpy(np.ascontiguousarray(array)) for array in arrays)
    if layout == "detpro":
        content: Any = embeddings.float()
    else:
        boxes = boxes.half()
        if not boxes.isfinite().all():
            raise UserError(f"{path}: has a box beyond 65504 pixels, which float16 of --layout oadp does not hold")
        content = {"embeddings": embeddings, "bboxes": boxes, "objectness": scores.half()[:, None]}
    buffer = io.BytesIO()  # a file's own name would be part of its content
    torch.save(content, buffer)
    write_bytes(path, buffer.getbuffer())


def is_whole(path: Path) -> bool:
    """Whether a file that :func:`save_image` wrote is there to its end."""
    return zipfile.is_zipfile(path)


def checksum(path: Path) -> Any:
    """What changes with the content of a file, without reading it where it has checksums itself.

    Raises:
        UserError: the file is cut, or cannot be read.
    """
    try:
        with open(path, "rb") as file:
            if file.read(2) != b"PK":
                return fingerprint(path)  # written by a torch before 1.6
        with zipfile.ZipFile(path) as archive:
            return [[entry.filename.partition("/")[2], entry.file_size, entry.CRC] for entry in archive.infolist()]
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: cannot be read ({error}); it is cut or not a .pth file") from error


def load_image(path: Path, layout: str) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Embeddings [n, D] (float16 or float32), boxes [n, 4] and scores [n] (float32; None for detpro) of an image.

    Nothing but tensors is unpickled.

    Raises:
        UserError: that names the file, for one that is cut, of another layout, or whose parts do not fit each other.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except Exception as error:  # a damaged file raises nearly anything
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise UserError(f"{path}: cannot be read ({reason}); it is cut, or holds other things than tensors") from error
    if layout == "detpro":
        return _rows(path, "the tensor", content, None), None, None
    if not isinstance(content, dict) or not _OADP.keys() <= content.keys():
        held = f"a dict of {', '.join(map(str, content))}" if isinstance(content, dict) else f"a {_type(content)}"
        raise UserError(f"{path}: holds {held}, expected a dict of {', '.join(_OADP)}; is it of another --layout?")
    embeddings, boxes, scores = (_rows(path, key, content[key], columns) for key, columns in _OADP.items())
    if not len(embeddings) == len(boxes) == len(scores):
        raise UserError(f"{path}: has {len(embeddings)} embeddings, {len(boxes)} bboxes and {len(scores)} objectness, "
                        "expected as many of each")
    return embeddings, boxes.astype(np.float32), scores[:, 0].astype(np.float32)


def _rows(path: Path, what: str, tensor: Any, columns: int | None) -> np.ndarray:
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
        raise UserError(f"{path}: {what} is a {_type(tensor)}, expected a tensor of floating-point numbers; is it of "
                        "another --layout?")
    if tensor.ndim != 2 or columns not in (None, tensor.shape[1]):
        raise UserError(f"{path}: {what} has shape {list(tensor.shape)}, expected [n, {columns or 'width'}]")
    return (tensor if tensor.dtype in (torch.float16, torch.float32) else tensor.float()).contiguous().numpy()


def _type(value: Any) -> str:
    return type(value).__name__.lower()
