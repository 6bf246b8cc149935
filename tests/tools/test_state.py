import argparse
import dataclasses
import enum
import json
from collections import OrderedDict, deque
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from torchbeast.tools.archive import from_torch_bytes, torch_bytes
from torchbeast.tools.checkpoint import plain


class Colour(enum.IntEnum):
    RED = 3


class Pair(NamedTuple):
    a: int
    b: object


@dataclasses.dataclass
class Config:
    rate: float
    path: Path


CASES = [
    (np.float64(0.5), 0.5),
    (np.float32(0.5), 0.5),
    (np.int64(3), 3),
    (np.bool_(True), True),
    (np.str_("a"), "a"),
    (deque([1, np.int8(2)], maxlen=5), [1, 2]),
    (Path("a/b"), "a/b"),
    (argparse.Namespace(x=np.float32(1)), {"x": 1.0}),
    (Config(np.float64(1), Path("p")), {"rate": 1.0, "path": "p"}),
    (Colour.RED, 3),
    (Pair(1, deque([2])), (1, [2])),
    (OrderedDict(a=1), {"a": 1}),
    (torch.device("cpu"), "cpu"),
    (torch.float32, "torch.float32"),
    ({np.int64(1): None}, {1: None}),
    ({3}, [3]),
    (b"\0", b"\0"),
    (2**130, 2**130),
]


def types(x):
    if isinstance(x, dict):
        return (type(x), {types(k): types(v) for k, v in x.items()}.items().__repr__())
    if isinstance(x, list | tuple):
        return (type(x), tuple(map(types, x)))
    return type(x)


@pytest.mark.parametrize(("value", "expected"), CASES, ids=lambda x: type(x).__name__)
def test_plain_values_load_without_trust(value, expected):
    got = plain(value)
    assert got == expected
    assert types(got) == types(expected)
    assert from_torch_bytes(torch_bytes(got)) == expected


def test_arrays_become_tensors_or_lists():
    for array in (np.arange(6.0)[::-2], np.arange(3, dtype=np.uint8), np.array([True])):
        got = plain({"x": array})["x"]
        assert isinstance(got, torch.Tensor)
        assert got.tolist() == array.tolist()
        assert json.loads(json.dumps(plain(array, arrays_to_lists=True))) == array.tolist()
    assert plain(np.array(["a", "b"])) == ["a", "b"]
    assert plain((torch.ones(2), 1), arrays_to_lists=True) == [[1.0, 1.0], 1]
    tensor = plain(torch.ones(2, requires_grad=True))
    assert not tensor.requires_grad


def test_what_is_not_data_is_named():
    with pytest.raises(TypeError, match=r"state\['a'\]\[1\].*builtins.object"):
        plain({"a": [1, object()]})
    with pytest.raises(TypeError, match="keys that are strings"):
        plain({1: 2}, arrays_to_lists=True)
    with pytest.raises(TypeError, match="bytes"):
        plain({"a": b""}, arrays_to_lists=True)
