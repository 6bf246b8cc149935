"""`torchbeast serve`: environments for runs in other processes or on other machines."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from torchbeast import envs
from torchbeast.commands.errors import UsageError
from torchbeast.commands.flags import parse
from torchbeast.commands.servers import Servers, Serving, address_of, check
from torchbeast.tools.signals import StopFlag


@dataclasses.dataclass(frozen=True)
class Flags:
    """Which environments are served, and where."""

    serving: Serving
    address: str = "unix:/tmp/torchbeast"
    """`unix:/path`, for this user only, or `host:port`. Of several servers the path gets .0, .1,
    ... behind it, the port counts up."""
    num_servers: int = 1
    """Processes that serve; each connection has environments of its own in one of them."""
    once: bool = False
    """End when a run that used them is done: has made its total_steps."""


def serve(arguments: Sequence[str]) -> int:
    """Returns the exit code of ``torchbeast serve [flags]``: 0 if a run is done and ``--once``.

    Else it ends when it is interrupted.
    """
    flags = parse(Flags(Serving(envs.EnvConfig())), "torchbeast serve", arguments)
    if flags.serving.env.env_servers:
        raise UsageError("expected no --env_servers for serve, which is one; leave it out")
    if flags.num_servers < 1:
        raise UsageError(f"expected --num_servers of at least 1, got {flags.num_servers}")
    where = [flags.address]
    if flags.num_servers > 1:
        where = [address_of(flags.address, i, "--address") for i in range(flags.num_servers)]
    return run(flags.serving, where, "--address", flags.once)


def run(serving: Serving, addresses: Sequence[str], flag: str, once: bool) -> int:
    """Returns the exit code after servers ran until they were interrupted, or a run was done."""
    check(serving)
    with Servers(serving, addresses, flag) as servers, StopFlag() as stop:
        for address in servers.addresses:
            print(f"{serving.env.name} at {address}", flush=True)
        while not (stop.requested or (once and servers.done)):
            servers.watch(0.2)
        return stop.exit_code
