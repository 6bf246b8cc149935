"""Reads the golden files: inputs and expected outputs of one operation (tests/golden/README.md)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

DEFAULT_ROOT = Path(__file__).resolve().parents[1] / "golden"
TOLERANCE = {
    torch.float64: {"rtol": 1e-8, "atol": 1e-10},
    torch.float32: {"rtol": 1e-4, "atol": 1e-5},
}


class Case(NamedTuple):
    """One golden case; `inputs` and `expected` hold lists, numbers or None, as in the file."""

    name: str
    params: dict[str, Any]
    inputs: dict[str, Any]
    expected: dict[str, Any]

    def tensors(self, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """The inputs as tensors: floats in dtype, integers int64; ragged lists left out."""
        return {
            name: _tensor(value, dtype)
            for name, value in self.inputs.items()
            if not _ragged(value) and value is not None
        }


def cases(op: str, root: str | Path | None = None) -> Iterator[Case]:
    """Yields the cases of one operation from `root` (default: tests/golden)."""
    path = Path(root or DEFAULT_ROOT) / f"{op}.json"
    for case in json.loads(path.read_text())["cases"]:
        yield Case(case["name"], case["params"], case["inputs"], case["expected"])


def check(actual: Any, expected: Any, dtype: torch.dtype, what: str) -> None:
    """Fails unless actual, computed in dtype, is expected within the tolerance of dtype."""
    if isinstance(actual, torch.Tensor):
        assert actual.dtype == dtype, f"{what} came as {actual.dtype} from {dtype} inputs"
        actual = actual.detach().numpy()
    expected = np.asarray(expected, np.float64)
    assert np.shape(actual) == expected.shape, f"{what}: {np.shape(actual)}, not {expected.shape}"
    np.testing.assert_allclose(actual, expected, **TOLERANCE[dtype], err_msg=what)


def _tensor(value: Any, dtype: torch.dtype) -> torch.Tensor:
    array = np.asarray(value)
    if array.dtype.kind in "ib":
        return torch.from_numpy(array.astype(np.int64))
    return torch.from_numpy(array.astype(np.float64)).to(dtype)


def _ragged(value: Any) -> bool:
    try:
        np.asarray(value)
    except ValueError:
        return True
    return False
