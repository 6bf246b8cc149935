"""The environment servers of PolyBeast, by the flags of 2019.

python -m torchbeast.polybeast_env --num_servers 10

`torchbeast serve` under the ancestor's flags. The servers wait for a learner (polybeast_learner),
also for one that comes back, and end when it says that training is over.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence

from torchbeast.commands.ancestor import life_loss
from torchbeast.commands.errors import UsageError, ending
from torchbeast.commands.flags import parse
from torchbeast.commands.serve import run
from torchbeast.commands.servers import Serving, address_of
from torchbeast.envs import EnvConfig


@dataclasses.dataclass(frozen=True)
class Served:
    """What is served, and by how many."""

    num_servers: int = 4
    """Number of environment servers: processes, of which each actor needs one."""
    env: str = "PongNoFrameskip-v4"
    """Environment of Gymnasium, module:function, or Mock (zeros, for measuring)."""


@dataclasses.dataclass(frozen=True)
class Flags:
    """Environment servers, with the flags of PolyBeast."""

    served: Served = dataclasses.field(default_factory=Served)
    pipes_basename: str = "unix:/tmp/polybeast"
    """`unix:/path`, for this user only, or `host:port`. Server i listens at the path with .i behind
    it, or at port + i."""
    token: str | None = None
    """A file with the token that learners must show; other machines may connect only with one."""
    certificate: str | None = None
    """A file (PEM) that proves the servers; with --key the connection is encrypted."""
    key: str | None = None
    """The file (PEM) with the key of --certificate."""


def serving(env: str, **access: str | None) -> Serving:
    """Returns how PolyBeast serves environments: a lost life ends an episode."""
    return Serving(EnvConfig(env=env, life_loss=life_loss(env)), **access)  # type: ignore[arg-type]


def addresses(pipes_basename: str, num_servers: int) -> list[str]:
    """Returns the address of each server.

    Raises:
        UsageError: there is none.
    """
    if num_servers < 1:
        raise UsageError(f"expected --num_servers of at least 1, got {num_servers}")
    return [address_of(pipes_basename, i, "--pipes_basename") for i in range(num_servers)]


def serve(flags: Flags) -> int:
    """Returns the exit code: 0 if training is over, else after an interruption."""
    where = addresses(flags.pipes_basename, flags.served.num_servers)
    access = {"token": flags.token, "certificate": flags.certificate, "key": flags.key}
    return run(serving(flags.served.env, **access), where, "--pipes_basename", once=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code of `python -m torchbeast.polybeast_env`."""
    flags = parse(Flags(), "polybeast_env", sys.argv[1:] if arguments is None else arguments)
    return ending("polybeast_env", lambda: serve(flags))


if __name__ == "__main__":
    sys.exit(main())
