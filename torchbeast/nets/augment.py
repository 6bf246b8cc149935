"""Augmentation: pictures moved by a few pixels, so that critics do not learn them by heart."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor

from torchbeast.data import Tree, tree_map
from torchbeast.data.replay import stacked
from torchbeast.nets.encoders import image_shape, is_box_image

MIN_SIDE = 16  # pixels: smaller pictures are grids of codes, where a pixel is a place


class RandomShift:
    """Moves each picture of an observation up to ``pixels`` any way; its edge fills what is bare.

    DrQ, arXiv:2004.13649 section 3.1. Pictures of at least 16 x 16; all else stays.
    """

    def __init__(self, space: spaces.Space[Any], pixels: int) -> None:
        self.pixels = pixels
        self.places = _places(space)

    def __call__(self, obs: Tree) -> Tree:
        """Returns observations [T, B, ...] with their pictures moved, each on its own."""
        if not self.pixels:
            return obs
        return tree_map(
            lambda x, place: x if place < 0 else shifted(x, place, self._draw(x)),
            stacked(obs),
            self.places,
        )

    def _draw(self, x: Tensor) -> Tensor:
        sides = (2, *x.shape[:2])
        return torch.randint(-self.pixels, self.pixels + 1, sides, device=x.device)


def shifted(x: Tensor, height_dim: int, by: Tensor) -> Tensor:
    """Returns pictures [T, B, ...] moved by so many pixels down and right, ``by`` [2, T, B].

    ``height_dim`` of a picture is its height, and the next its width.
    """
    pictures = x.flatten(0, 1).movedim((1 + height_dim, 2 + height_dim), (1, 2))
    height, width = pictures.shape[1:3]
    down, right = by.flatten(1).unsqueeze(-1)
    rows = (torch.arange(height, device=x.device) - down).clamp(0, height - 1)
    columns = (torch.arange(width, device=x.device) - right).clamp(0, width - 1)
    which = torch.arange(len(pictures), device=x.device)[:, None, None]
    moved = pictures[which, rows[:, :, None], columns[:, None, :]]
    return moved.movedim((1, 2), (1 + height_dim, 2 + height_dim)).unflatten(0, x.shape[:2])


def _places(space: spaces.Space[Any]) -> Tree:
    """Returns the tree of where the height lies in each leaf; -1 where it is no picture."""
    if isinstance(space, spaces.Dict):
        return {key: _places(sub) for key, sub in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_places(sub) for sub in space.spaces)
    if not is_box_image(space, MIN_SIDE):
        return -1
    shape = tuple(space.shape or ())
    _, height, width = image_shape(space)
    return 0 if shape[:2] == (height, width) else 1
