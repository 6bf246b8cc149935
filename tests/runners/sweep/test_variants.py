from __future__ import annotations

import pathlib

import pytest

from torchbeast.runners.checks import ConfigError
from torchbeast.runners.sweep.variants import Variant, axis, grid, read_variants


def test_values_of_a_flag() -> None:
    assert axis("learning_rate=1e-3, 0.1") == [
        Variant("learning_rate=1e-3", {"learning_rate": "1e-3"}),
        Variant("learning_rate=0.1", {"learning_rate": "0.1"}),
    ]
    assert axis("--hidden_sizes=64 64,8") == [
        Variant("hidden_sizes=64_64", {"hidden_sizes": "64 64"}),
        Variant("hidden_sizes=8", {"hidden_sizes": "8"}),
    ]
    # Values may have signs that no directory may have.
    (only,) = axis("env=a/b.py:make")
    assert only == Variant("env=a_b.py_make", {"env": "a/b.py:make"})


def test_a_grid_has_every_combination() -> None:
    variants = grid([axis("a=1,2"), axis("b=x,y,z")], alone="ppo")
    assert len(variants) == 6
    assert variants[1] == Variant("a=1,b=y", {"a": "1", "b": "y"})
    assert grid([], alone="ppo") == [Variant("ppo", {})]


def test_variants_of_a_file(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "v.yaml"
    path.write_text("small net: {hidden_sizes: [32, 32], use_lstm: false}\nplain: {}\n")
    small, plain = read_variants(path)
    assert small == Variant("small_net", {"hidden_sizes": "32 32", "use_lstm": "false"})
    assert plain == Variant("plain", {})
    assert [v.name for v in grid([[small, plain], axis("a=1")], "")] == [
        "small_net,a=1",
        "plain,a=1",
    ]
    with pytest.raises(ConfigError, match="use_lstm"):
        grid([[small, plain], axis("use_lstm=true")], "")
    for text, words in [("[1, 2]", "names of variants"), ("a: 3", "under 'a'"), ("[", "read")]:
        path.write_text(text)
        with pytest.raises(ConfigError, match=words):
            read_variants(path)
    path.write_text("a b: {}\na_b: {}\n")
    with pytest.raises(ConfigError, match="a_b twice"):
        read_variants(path)
