"""Frames to a file that plays."""

from __future__ import annotations

from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np


def write_video(path: Path | str, frames: list[np.ndarray[Any, Any]], fps: float) -> Path:
    """Returns the file written: MP4 with PyAV, else (or for a path that ends in .gif) a GIF.

    Raises:
        ValueError: ``frames`` are not a list of [H, W, 3] uint8 of one size.
        ModuleNotFoundError: neither PyAV nor Pillow is installed.
    """
    path = Path(path)
    _check(frames)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() != ".gif" and find_spec("av") is not None:
        path = path.with_suffix(".mp4")
        _write_mp4(path, frames, fps)
        return path
    if find_spec("PIL") is None:
        raise ModuleNotFoundError(
            "expected PyAV (for .mp4) or Pillow (for .gif), got neither; "
            "pip install 'torchbeast[video]'"
        )
    path = path.with_suffix(".gif")
    _write_gif(path, frames, fps)
    return path


def _check(frames: list[np.ndarray[Any, Any]]) -> None:
    if not frames:
        raise ValueError("expected frames, got none; does the environment draw (render_mode)?")
    shape = frames[0].shape
    for i, frame in enumerate(frames):
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
            raise ValueError(
                f"expected frames [H, W, 3] of uint8, got {list(frame.shape)} of {frame.dtype} "
                f"at frame {i}; an environment draws them with render_mode='rgb_array'"
            )
        if frame.shape != shape:
            raise ValueError(
                f"expected frames of one size, got {list(frame.shape)} at frame {i} after "
                f"{list(shape)}; write them to two videos"
            )


def _write_mp4(path: Path, frames: list[np.ndarray[Any, Any]], fps: float) -> None:
    import av

    height, width = (size + size % 2 for size in frames[0].shape[:2])  # the format wants even ones
    padding = [(0, height - frames[0].shape[0]), (0, width - frames[0].shape[1]), (0, 0)]
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1000))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in frames:
            padded = np.ascontiguousarray(np.pad(frame, padding, mode="edge"))
            for packet in stream.encode(av.VideoFrame.from_ndarray(padded, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def _write_gif(path: Path, frames: list[np.ndarray[Any, Any]], fps: float) -> None:
    from PIL import Image

    images = [Image.fromarray(frame) for frame in frames]
    # Browsers slow down what is faster than 50 pictures a second.
    milliseconds = max(20, round(1000 / fps))
    images[0].save(path, save_all=True, append_images=images[1:], duration=milliseconds, loop=0)
