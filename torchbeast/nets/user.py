"""Networks of the user's own: found, made, and tried once so that mistakes show before a run."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from torchbeast import user_code
from torchbeast.data import EnvSpec, tree_leaves, tree_map, zero_rows
from torchbeast.nets.config import NetworkConfig
from torchbeast.nets.policy_value import PolicyValue

ROWS, ENVS = 3, 2  # of the trial
R = TypeVar("R")


def load(name: str, spec: EnvSpec) -> nn.Module:
    """Returns the network that the class ``name`` makes for an environment.

    Raises:
        ValueError: there is no such class, or it makes no network.
    """
    make = user_code.load(name)
    if not callable(make):
        raise ValueError(f"expected a class of a network for --network {name}, got {make!r}")
    network = _run(name, "could not be made from the EnvSpec", lambda: make(spec))
    if not isinstance(network, nn.Module):
        raise ValueError(f"expected --network {name} to make an nn.Module, got {network!r}")
    return network


def is_model(network: nn.Module) -> bool:
    """Returns whether ``network`` is a whole model; one with ``out_features`` is an encoder."""
    return not hasattr(network, "out_features")


def check_encoder(encoder: nn.Module, name: str, spec: EnvSpec) -> None:
    """Raises ValueError unless ``encoder`` turns observations into features [T, B, F]."""
    rows = zero_rows(spec, ENVS, ROWS)
    features = _try(encoder, name, lambda: encoder(rows.obs))
    expected = f"float32 features [{ROWS}, {ENVS}, {encoder.out_features}]"
    hint = f"the last is its out_features, the others are those of its input [{ROWS}, {ENVS}, ...]"
    _expect_tensor(
        features, (ROWS, ENVS, encoder.out_features), f"{expected} from --network {name}", hint
    )


def check_model(model: nn.Module, name: str, spec: EnvSpec, config: NetworkConfig) -> None:
    """Raises ValueError unless ``model`` answers rows as a whole model must."""
    for flag, given in (("use_lstm", config.use_lstm), ("precision", config.precision == "bf16")):
        if given:
            raise ValueError(
                f"expected no --{flag} with the whole model {name}, whose memory and precision "
                f"are its own; give its class out_features to make it an encoder"
            )
    missing = [part for part in ("initial_state", "distribution") if not hasattr(model, part)]
    if missing:
        raise ValueError(
            f"expected --network {name} to have out_features (an encoder), or initial_state and "
            f"distribution (a whole model), got neither out_features nor {' nor '.join(missing)}"
        )
    rows = zero_rows(spec, ENVS, ROWS)
    whole: Any = model
    state = _try(model, name, lambda: whole.initial_state(ENVS))
    answer = _try(model, name, lambda: whole(rows, state))
    if not (isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[0], PolicyValue)):
        raise ValueError(
            f"expected --network {name} to return (PolicyValue(logits, value), state), got "
            f"{_described(answer)}; import PolicyValue from torchbeast.nets"
        )
    (logits, value), after = answer
    _expect_tensor(value, (ROWS, ENVS), f"value [{ROWS}, {ENVS}] from --network {name}")
    lead = logits.shape[:2] if isinstance(logits, Tensor) else logits
    if lead != (ROWS, ENVS):
        raise ValueError(
            f"expected logits [{ROWS}, {ENVS}, P] from --network {name}, got {_described(logits)}"
        )
    if _described(after) != _described(state) or not _lies_along_batch(state):
        raise ValueError(
            f"expected --network {name} to return a state like its initial_state, a tree of "
            f"[N, {ENVS}, ...] or (), got {_described(after)} after {_described(state)}"
        )
    sample = _try(model, name, lambda: whole.distribution(logits).sample())
    if _shapes(sample) != _shapes(rows.action):
        raise ValueError(
            f"expected actions {_shapes(rows.action)} from the distribution of --network {name}, "
            f"got {_described(sample)}"
        )


def _try(network: nn.Module, name: str, function: Callable[[], R]) -> R:
    """Returns what ``function`` gives on rows of zeros, and leaves no trace in ``network``."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()  # zeros must not enter statistics
    try:
        with torch.no_grad():
            what = f"failed on observations [{ROWS}, {ENVS}, ...] of zeros"
            return _run(name, what, function)
    finally:
        for module, training in modes:
            module.training = training


def _run(name: str, what: str, function: Callable[[], R]) -> R:
    try:
        return function()
    except Exception as error:
        raise ValueError(f"--network {name} {what}\n{traceback.format_exc()}") from error


def _expect_tensor(x: Any, shape: tuple[Any, ...], expected: str, hint: str = "") -> None:
    if not isinstance(x, Tensor) or x.shape != shape or not x.is_floating_point():
        raise ValueError(f"expected {expected}, got {_described(x)}{'; ' * bool(hint)}{hint}")


def _lies_along_batch(state: Any) -> bool:
    return all(isinstance(x, Tensor) and x.shape[1:2] == (ENVS,) for x in tree_leaves(state))


def _shapes(tree: Any) -> Any:
    return tree_map(lambda x: list(x.shape) if isinstance(x, Tensor) else x, tree)


def _described(tree: Any) -> str:
    return str(
        tree_map(lambda x: f"{x.dtype} {list(x.shape)}" if isinstance(x, Tensor) else repr(x), tree)
    )
