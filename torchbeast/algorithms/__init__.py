"""One algorithm a file, to be read top to bottom; all keep the contract of ``base.py``."""

from __future__ import annotations

import dataclasses
import difflib
from typing import Any

from torchbeast import user_code
from torchbeast.algorithms.a2c import A2C
from torchbeast.algorithms.apex import ApeX
from torchbeast.algorithms.base import Algorithm
from torchbeast.algorithms.c51 import C51
from torchbeast.algorithms.d4pg import D4PG
from torchbeast.algorithms.ddpg import DDPG
from torchbeast.algorithms.dqn import DQN
from torchbeast.algorithms.impala import Impala
from torchbeast.algorithms.iqn import IQN
from torchbeast.algorithms.ppo import PPO
from torchbeast.algorithms.pqn import PQN
from torchbeast.algorithms.qrdqn import QRDQN
from torchbeast.algorithms.r2d2 import R2D2
from torchbeast.algorithms.rainbow import Rainbow
from torchbeast.algorithms.sac import SAC
from torchbeast.algorithms.sac_discrete import SACDiscrete
from torchbeast.algorithms.td3 import TD3

__all__ = [
    "A2C",
    "ALGORITHMS",
    "C51",
    "D4PG",
    "DDPG",
    "DQN",
    "IQN",
    "PPO",
    "PQN",
    "QRDQN",
    "R2D2",
    "SAC",
    "TD3",
    "Algorithm",
    "ApeX",
    "Impala",
    "Rainbow",
    "SACDiscrete",
    "find",
    "name_of",
]

ALGORITHMS: dict[str, type[Algorithm]] = {
    "a2c": A2C,
    "apex": ApeX,
    "c51": C51,
    "d4pg": D4PG,
    "ddpg": DDPG,
    "dqn": DQN,
    "impala": Impala,
    "iqn": IQN,
    "ppo": PPO,
    "pqn": PQN,
    "qrdqn": QRDQN,
    "r2d2": R2D2,
    "rainbow": Rainbow,
    "sac": SAC,
    "sac_discrete": SACDiscrete,
    "td3": TD3,
}


def find(name: str) -> type[Algorithm]:
    """Returns the algorithm called ``name``, or the class that ``file.py:Class`` names.

    Raises:
        ValueError: there is none, or it does not keep the contract.
    """
    if name in ALGORITHMS:
        return ALGORITHMS[name]
    if not user_code.is_reference(name):
        nearest = difflib.get_close_matches(name, ALGORITHMS, 1, cutoff=0)[0]
        raise ValueError(
            f"expected an algorithm ({', '.join(ALGORITHMS)}) or path/to/file.py:Class, got "
            f"'{name}'; did you mean {nearest}?"
        )
    found = user_code.load(name)
    if not (isinstance(found, type) and issubclass(found, Algorithm)):
        raise ValueError(
            f"expected {name} to be a subclass of torchbeast.algorithms.Algorithm, got {found!r}"
        )
    _check_config(name, getattr(found, "config_type", None))
    return found


def name_of(config: Any) -> str:
    """Returns the name of the built-in algorithm with these settings.

    Raises:
        ValueError: no built-in algorithm has settings of this type.
    """
    for name, algorithm in ALGORITHMS.items():
        if algorithm.config_type is type(config):
            return name
    raise ValueError(
        f"expected settings of {', '.join(ALGORITHMS)}, got {type(config).__qualname__}; say "
        f"RunConfig(algo='path/to/file.py:Class', ...) for an algorithm of your own"
    )


def _check_config(name: str, config: Any) -> None:
    fields = {f.name: f for f in dataclasses.fields(config)} if _is_dataclass(config) else {}
    if not {"unroll_length", "batch_size"} <= fields.keys():
        raise ValueError(
            f"expected {name} to name a dataclass with unroll_length and batch_size, got "
            f"{config!r} with {sorted(fields)}; write `config_type = Config` into the class"
        )
    for field in fields.values():
        missing = dataclasses.MISSING
        if field.default is missing and field.default_factory is missing:
            raise ValueError(f"expected a default for {field.name} in the settings of {name}")


def _is_dataclass(config: Any) -> bool:
    return isinstance(config, type) and dataclasses.is_dataclass(config)
