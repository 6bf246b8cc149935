"""Pictures are moved as a slow loop moves them, each on its own, and everything else stays."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from torchbeast.data.replay import FrameStack
from torchbeast.nets import RandomShift
from torchbeast.nets.augment import shifted

T, B, P = 2, 5, 3
SHAPES = {
    "first": ((3, 16, 18), 1),  # and where the height lies
    "last": ((16, 18, 3), 0),
    "square_last": ((17, 17, 3), 0),
    "grey": ((16, 19), 0),
}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def picture_space(shape, dtype=np.uint8):
    return spaces.Box(0, 255, shape, dtype)


def pictures(shape, count=(T, B)):
    return torch.randint(0, 256, (*count, *shape), dtype=torch.uint8)


def moved(picture, height_dim, down, right):
    """The pixel at (h, w) comes from (h - down, w - right), or from the nearest on the edge."""
    x = np.moveaxis(picture.numpy(), (height_dim, height_dim + 1), (0, 1))
    out = np.empty_like(x)
    height, width = x.shape[:2]
    for h in range(height):
        for w in range(width):
            out[h, w] = x[min(max(h - down, 0), height - 1), min(max(w - right, 0), width - 1)]
    return torch.from_numpy(np.moveaxis(out, (0, 1), (height_dim, height_dim + 1)).copy())


def found(before, after, height_dim, pixels):
    """The shifts [(down, right)] that make ``after`` of ``before``."""
    every = range(-pixels, pixels + 1)
    ways = [(down, right) for down in every for right in every]
    return [way for way in ways if torch.equal(moved(before, height_dim, *way), after)]


@pytest.mark.parametrize("name", SHAPES)
def test_shifts_are_those_of_a_slow_loop(name):
    shape, height_dim = SHAPES[name]
    ways = [
        (0, 0),
        (1, 0),
        (0, -1),
        (-3, 3),
        (2, -20),
        (17, 2),
        (-1, -1),
        (40, 40),
        (-4, 0),
        (0, 5),
    ]
    x = pictures(shape)
    by = torch.tensor(ways).t().reshape(2, T, B)
    out = shifted(x, height_dim, by)
    assert (out.shape, out.dtype) == (x.shape, x.dtype)
    for i, way in enumerate(ways):
        t, b = divmod(i, B)
        assert torch.equal(out[t, b], moved(x[t, b], height_dim, *way)), way


@pytest.mark.parametrize(
    ("name", "dtype"), [*((name, np.uint8) for name in SHAPES), ("first", np.float32)]
)
def test_each_picture_is_moved_on_its_own(name, dtype):
    shape, height_dim = SHAPES[name]
    x = torch.from_numpy(pictures(shape).numpy().astype(dtype))
    space = picture_space(shape, dtype)
    before = x.clone()
    out = RandomShift(space, P)(x)
    assert torch.equal(x, before)
    ways = [found(x[t, b], out[t, b], height_dim, P) for t in range(T) for b in range(B)]
    assert all(len(way) == 1 for way in ways)
    assert len({way[0] for way in ways}) > 5


@pytest.mark.parametrize("pixels", [1, 2])
def test_shifts_are_uniform(pixels):
    """Each pixel says where it was, so the one in the middle says how far it came."""
    count, side = 20_000, 16
    x = torch.arange(side * side, dtype=torch.uint8).view(side, side, 1)
    out = RandomShift(picture_space((side, side, 1)), pixels)(x.expand(2, count, side, side, 1))
    middle = out[:, :, 8, 8, 0].long()
    down, right = 8 - middle // side, 8 - middle % side
    cells = (2 * pixels + 1) ** 2
    numbers = (down + pixels) * (2 * pixels + 1) + right + pixels
    seen = torch.bincount(numbers.flatten(), minlength=cells).double()
    assert len(seen) == cells
    expected = 2 * count / cells
    chi_square = ((seen - expected) ** 2 / expected).sum().item()
    assert chi_square < {1: 26.1, 2: 51.2}[pixels]  # of 8 and 24 degrees, one in a thousand
    # Neither rows nor neighbours move together.
    for one, other in ((numbers[0], numbers[1]), (numbers[:, :-1], numbers[:, 1:])):
        assert (one == other).double().mean().item() == pytest.approx(1 / cells, rel=0.1)


def test_no_pixels_is_the_same_object():
    x = {"view": pictures((3, 16, 16))}
    assert RandomShift(spaces.Dict({"view": picture_space((3, 16, 16))}), 0)(x) is x


@pytest.mark.parametrize("shape", [(15, 16, 3), (3, 16, 15), (7, 7, 3), (10, 10, 6)])
def test_small_pictures_stay(shape):
    x = pictures(shape)
    assert RandomShift(picture_space(shape), P)(x) is x


def test_only_the_pictures_of_a_tree_move():
    space = spaces.Dict(
        {
            "view": picture_space((3, 16, 16)),
            "speed": spaces.Box(-9, 9, (20,)),
            "pair": spaces.Tuple(
                [spaces.Discrete(4), picture_space((20, 20, 3)), spaces.Box(0, 1, (20, 20))]
            ),
        }
    )
    obs = {
        "view": pictures((3, 16, 16)),
        "speed": torch.randn(T, B, 20),
        "pair": (torch.ones(T, B), pictures((20, 20, 3)), torch.randn(T, B, 20, 20)),
    }
    out = RandomShift(space, P)(obs)
    assert out.keys() == obs.keys()
    assert out["speed"] is obs["speed"]
    for i in (0, 2):
        assert out["pair"][i] is obs["pair"][i]
    pairs = [
        (obs["view"], out["view"], 1),
        (obs["pair"][1], out["pair"][1], 0),
    ]
    ways = [found(x[0, b], y[0, b], dim, P) for x, y, dim in pairs for b in range(B)]
    assert all(len(way) == 1 for way in ways)
    assert ways[:B] != ways[B:], "pictures of one observation move on their own, too"


def test_the_frames_of_a_stack_move_together():
    frames = pictures((17, 18), (9,))
    index = torch.randint(0, 9, (T, B, 4))
    out = RandomShift(picture_space((4, 17, 18)), P)(FrameStack(frames, index))
    assert out.shape == (T, B, 4, 17, 18)
    whole = frames[index]
    for t, b in np.ndindex(T, B):
        assert len(found(whole[t, b], out[t, b], 1, P)) == 1
