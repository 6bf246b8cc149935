"""From a space to the module that turns its samples into features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from torchbeast.data import Tree

UNBOUNDED = 1e30  # some spaces say "unbounded" with the largest float
Path = tuple[Any, ...]  # dict keys and tuple indices that lead to a leaf
Torso = Callable[[int, int, int], nn.Module]  # (channels, height, width) -> [N, C, H, W] -> [N, F]


class TreeEncoder(nn.Module):
    """Features of an observation tree: those of its leaves, side by side.

    Args:
        space: of the observations.
        torso: builds the convolutions for images; None treats images as vectors.
        is_image: which leaves go through ``torso``.
        actions: they are actions: integers count from 0, numbers are in the units of the head.
    """

    def __init__(
        self,
        space: spaces.Space[Any],
        torso: Torso | None = None,
        is_image: Callable[[spaces.Space[Any]], bool] = lambda space: False,
        actions: bool = False,
    ) -> None:
        super().__init__()
        found = leaves(space)
        self.paths = [path for path, _ in found]
        self.leaves = nn.ModuleList(
            ImageEncoder(leaf, torso) if torso and is_image(leaf) else leaf_encoder(leaf, actions)
            for _, leaf in found
        )
        self.out_features: int = sum(encoder.out_features for encoder in self.leaves)  # type: ignore

    def forward(self, tree: Tree) -> Tensor:
        """Returns features [T, B, F] of a tree of [T, B, ...]."""
        features = [
            encoder(follow(tree, path))
            for path, encoder in zip(self.paths, self.leaves, strict=True)
        ]
        return features[0] if len(features) == 1 else torch.cat(features, -1)

    def alone(self) -> nn.Module:
        """Returns the encoder of the leaf where the tree is one, else itself: a call saved."""
        return self.leaves[0] if self.paths == [()] else self


class ImageEncoder(nn.Module):
    """Features of images by a convolutional torso; recognises channels that come last."""

    def __init__(self, space: spaces.Space[Any], torso: Torso) -> None:
        super().__init__()
        channels, height, width = image_shape(space)
        assert space.shape is not None
        self.rank = len(space.shape)
        self.channels_last = tuple(space.shape) == (height, width, channels)
        self.torso = torso(channels, height, width)
        self.out_features = int(self.torso.out_features)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Returns features [T, B, F] of images [T, B, C, H, W], [T, B, H, W, C] or [T, B, H, W]."""
        frames = x.flatten(0, 1)
        if self.rank == 2:
            frames = frames.unsqueeze(1)
        elif self.channels_last:
            frames = frames.permute(0, 3, 1, 2)
        return self.torso(frames).unflatten(0, x.shape[:2])


class VectorEncoder(nn.Module):
    """Numbers as they are, flat; bytes are divided by 255.

    Small grids of bytes (MiniGrid's 7x7x3 codes, of which the largest is 10) are standardised
    instead, each by its own mean and deviation: divided by 255 they would be lost.
    """

    def __init__(self, space: spaces.Space[Any]) -> None:
        super().__init__()
        assert space.shape is not None
        self.out_features = int(np.prod(space.shape))
        is_bytes = space.dtype == np.uint8
        self.scale = 1 / 255 if is_bytes else 1.0
        self.standardise = is_bytes and len(space.shape) == 3

    def forward(self, x: Tensor) -> Tensor:
        """Returns float features [T, B, F] of numbers [T, B, ...]."""
        flat = x.float() if x.dim() == 3 else x.reshape(*x.shape[:2], self.out_features).float()
        if self.standardise:
            return nn.functional.layer_norm(flat, flat.shape[-1:])
        return flat if self.scale == 1 else flat * self.scale


class OneHotEncoder(nn.Module):
    """One-hot vectors of integers, side by side.

    Args:
        nvec: how many values each integer takes.
        start: the smallest value of each.
    """

    def __init__(self, nvec: list[int], start: list[int]) -> None:
        super().__init__()
        self.out_features = sum(nvec)
        values = [s + i for n, s in zip(nvec, start, strict=True) for i in range(n)]
        source = [k for k, n in enumerate(nvec) for _ in range(n)]
        self.register_buffer("values", torch.tensor(values), persistent=False)
        self.register_buffer("source", torch.tensor(source), persistent=False)
        self.single = len(nvec) == 1

    def forward(self, x: Tensor) -> Tensor:
        """Returns float features [T, B, sum(nvec)] of integers [T, B, ...]."""
        flat = x.reshape(*x.shape[:2], -1)
        # A comparison, not functional.one_hot: that one reads the values first, and a GPU waits.
        if not self.single:
            flat = flat.index_select(-1, self.source)  # type: ignore[arg-type]
        return flat.eq(self.values).float()  # type: ignore[arg-type]


class BoxActionEncoder(nn.Module):
    """Real actions, flat, in the units of the policy's head; far outliers count as 10 of them."""

    center: Tensor
    half_range: Tensor

    def __init__(self, space: spaces.Box) -> None:
        super().__init__()
        center, half_range = box_units(space)
        self.out_features = center.size
        self.register_buffer("center", torch.from_numpy(center).float(), persistent=False)
        self.register_buffer("half_range", torch.from_numpy(half_range).float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Returns float features [T, B, F] of actions [T, B, ...]."""
        flat = x.reshape(*x.shape[:2], self.out_features).float()
        return ((flat - self.center) / self.half_range).clamp(-10, 10)


def box_units(space: spaces.Box) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Returns center and half the range [D] of a Box; 0 and 1 where it has no two bounds."""
    low, high = (bound.astype(np.float64).reshape(-1) for bound in (space.low, space.high))
    bounded = (low > -UNBOUNDED) & (high < UNBOUNDED) & (low < high)
    low, high = np.where(bounded, (low, high), ([[-1.0], [1.0]]))
    return (low + high) / 2, (high - low) / 2


def leaf_encoder(space: spaces.Space[Any], actions: bool) -> nn.Module:
    """Returns the encoder of a leaf space, of observations or of ``actions``."""
    if isinstance(space, spaces.Discrete):
        return OneHotEncoder([int(space.n)], [0 if actions else int(space.start)])
    if isinstance(space, spaces.MultiDiscrete):
        start = np.zeros_like(space.nvec) if actions else np.asarray(space.start)
        return OneHotEncoder([int(n) for n in space.nvec.flat], [int(s) for s in start.flat])
    if actions and isinstance(space, spaces.Box):
        return BoxActionEncoder(space)
    return VectorEncoder(space)


def action_encoder(space: spaces.Space[Any]) -> TreeEncoder:
    """Returns the encoder of actions as rollouts hold them: integers count from 0."""
    return TreeEncoder(space, actions=True)


def leaves(space: spaces.Space[Any], path: Path = ()) -> list[tuple[Path, spaces.Space[Any]]]:
    """Returns the leaf spaces of a space and the way to each.

    Raises:
        ValueError: a leaf has no fixed shape.
    """
    if isinstance(space, spaces.Dict):
        return [x for key, sub in space.spaces.items() for x in leaves(sub, (*path, key))]
    if isinstance(space, spaces.Tuple):
        return [x for i, sub in enumerate(space.spaces) for x in leaves(sub, (*path, i))]
    known = spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary
    if not isinstance(space, known):
        raise ValueError(
            f"expected observations of Box, Discrete, MultiDiscrete, MultiBinary, or Dict or Tuple "
            f"of these, got {space}; wrap the environment so that it gives one of them"
        )
    return [(path, space)]


def image_shape(space: spaces.Space[Any]) -> tuple[int, int, int]:
    """Returns (channels, height, width) of an image space, wherever the channels lie.

    Two equal sides are height and width. Otherwise the smaller end is the channels; of equal ends
    the last, as in Gymnasium's own environments.
    """
    assert space.shape is not None
    shape = tuple(int(n) for n in space.shape)
    if len(shape) == 2:
        return 1, shape[0], shape[1]
    start, middle, end = shape
    if start == middle or (middle != end and end <= start):
        return end, start, middle
    return start, middle, end


def is_box_image(space: spaces.Space[Any], min_side: int = 1) -> bool:
    """Returns whether a space holds images whose sides are at least ``min_side``.

    Images are arrays [C, H, W] or [H, W, C] of any type, or [H, W] of bytes.
    """
    if not isinstance(space, spaces.Box) or space.shape is None:
        return False
    rank = len(space.shape)
    if rank != 3 and not (rank == 2 and space.dtype == np.uint8):
        return False
    return min(image_shape(space)[1:]) >= min_side


def follow(tree: Tree, path: Path) -> Any:
    """Returns the leaf of ``tree`` at ``path``."""
    for key in path:
        tree = tree[key]
    return tree
