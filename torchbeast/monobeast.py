"""MonoBeast: IMPALA on one machine, by the flags of 2019.

python -m torchbeast.monobeast --env PongNoFrameskip-v4
python -m torchbeast.monobeast --mode test --xpid example

The flags, their defaults and meaning are the ancestor's; a translation to `torchbeast train
impala` is all this file does. What differs on purpose: returns are those of full games, an
actor's crash does not hang the run, the same --xpid continues it, test mode takes LSTMs, and theirs
has 256 units in each of its two layers, not 519.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from typing import Annotated

import tyro

from torchbeast.commands.ancestor import ImpalaFlags, impala, life_loss, test
from torchbeast.commands.errors import UsageError, ending
from torchbeast.commands.flags import parse
from torchbeast.envs import EnvConfig
from torchbeast.runners.config import RunConfig


@dataclasses.dataclass(frozen=True)
class Flags(ImpalaFlags):
    """IMPALA on one machine, with the flags of MonoBeast."""

    env: str = "PongNoFrameskip-v4"
    """Environment of Gymnasium, or module:function."""
    num_buffers: int | None = None
    """Number of shared-memory rollouts; by default max(2 * num_actors, batch_size)."""
    num_learner_threads: Annotated[int, tyro.conf.arg(aliases=["--num_threads"])] = 2
    """Threads of the learner: here, those that PyTorch computes with."""


def run_config(flags: Flags) -> RunConfig:
    """Returns the config of `torchbeast train impala` that the flags mean.

    Raises:
        UsageError: the buffers are too few.
    """
    num_buffers = flags.num_buffers
    if num_buffers is None:
        num_buffers = max(2 * flags.num_actors, flags.batch_size)
    if flags.num_actors >= num_buffers:
        raise UsageError(
            f"expected --num_buffers larger than the {flags.num_actors} actors, got {num_buffers}"
        )
    if num_buffers < flags.batch_size:
        raise UsageError(
            f"expected --num_buffers of at least the batch size {flags.batch_size}, got "
            f"{num_buffers}"
        )
    return impala(
        flags,
        EnvConfig(env=flags.env, life_loss=life_loss(flags.env)),
        network={"lstm_layers": 2},
        system={"num_buffers": num_buffers, "torch_threads": flags.num_learner_threads},
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code of `python -m torchbeast.monobeast`."""
    from torchbeast.commands.train import launch

    flags = parse(Flags(), "monobeast", sys.argv[1:] if arguments is None else arguments)
    return ending(
        "monobeast", lambda: launch(run_config(flags)) if flags.mode == "train" else test(flags)
    )


if __name__ == "__main__":
    sys.exit(main())
