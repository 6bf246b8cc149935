"""Pictures of environments, for videos."""

from __future__ import annotations

from typing import Any

import numpy as np

SIDE = 336  # pixels that the shorter side of an enlarged picture has at least


def enlarged(picture: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Returns a picture [H, W] or [H, W, 3], of bytes or of numbers from 0 to 1, as large bytes.

    The result is [H', W', 3]; each pixel becomes a square.
    """
    if picture.dtype.kind == "f":
        picture = (picture * 255).round().astype(np.uint8)
    if picture.ndim == 2:
        picture = np.repeat(picture[:, :, None], 3, 2)
    times = -(-SIDE // min(picture.shape[:2]))
    return picture.repeat(times, 0).repeat(times, 1)
