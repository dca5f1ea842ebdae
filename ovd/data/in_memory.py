"""A picture that is in memory, through a config's pipeline."""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from ovd.errors import UserError


def prepared_image(steps: Callable[[dict], dict], bgr: np.ndarray) -> dict[str, Any]:
    """What a pipeline, less the step that loads a file, makes of a picture: ``inputs`` and ``data_samples``.

    Args:
        bgr: uint8 ``[H, W, 3]``.

    Raises:
        UserError: A picture of which the pipeline would leave no pixel.
    """
    height, width = bgr.shape[:2]
    try:
        packed = steps({"img": bgr, "img_id": 0, "img_path": None, "img_shape": (height, width),
                        "ori_shape": (height, width)})
    except cv2.error:  # a side that would have no pixel
        packed = None
    if packed is None or min(packed["inputs"].shape[-2:]) < 1:
        raise UserError(f"an image of {width} x {height} pixels is too narrow")
    return packed
