"""`torchbeast serve`: environments for runs in other processes or on other machines."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Sequence
from multiprocessing.connection import wait
from typing import Any

from torchbeast import envs
from torchbeast.commands.errors import UsageError
from torchbeast.commands.flags import parse
from torchbeast.data.process import Worker, close_workers
from torchbeast.tools.signals import StopFlag

log = logging.getLogger("torchbeast")

START_TIMEOUT = 120.0  # seconds until a server must listen
PAUSE = 1.0  # seconds before a server that died is replaced


@dataclasses.dataclass(frozen=True)
class Flags:
    """Which environments are served, and where."""

    env: envs.EnvConfig
    address: str = "unix:/tmp/torchbeast"
    """`unix:/path`, for this user only, or `host:port`. Of several servers the path gets .0, .1,
    ... behind it, the port counts up."""
    num_servers: int = 1
    """Processes that serve; each connection has environments of its own in one of them."""
    token: str | None = None
    """A file with the token that clients must show; other machines may connect only with one."""
    certificate: str | None = None
    """A file (PEM) that proves the server; with --key the connection is encrypted."""
    key: str | None = None
    """The file (PEM) with the key of --certificate."""
    max_envs: int = 256
    """Environments of one connection at most."""
    max_streams: int = 16
    """Connections of one server at most."""


def serve(arguments: Sequence[str]) -> int:
    """Returns the exit code of ``torchbeast serve [flags]``, which ends when it is interrupted."""
    flags = parse(Flags(envs.EnvConfig()), "torchbeast serve", arguments)
    if flags.env.env_servers:
        raise UsageError("expected no --env_servers for serve, which is one; leave it out")
    if (flags.certificate is None) != (flags.key is None):
        raise UsageError("expected --certificate and --key together; give both or none")
    if flags.num_servers < 1:
        raise UsageError(f"expected --num_servers of at least 1, got {flags.num_servers}")
    try:
        envs.spec(flags.env)  # what is wrong with it is told before anything starts
    except ValueError as error:
        raise UsageError(str(error)) from error
    with StopFlag() as stop:
        return supervise(flags, addresses(flags.address, flags.num_servers), stop)


def addresses(address: str, num_servers: int) -> list[str]:
    """Returns the address of each server."""
    if num_servers == 1:
        return [address]
    if address.startswith("unix:"):
        return [f"{address}.{i}" for i in range(num_servers)]
    host, _, port = address.rpartition(":")
    if not (host and port.isdecimal()):
        raise UsageError(f"expected --address unix:/path or host:port, got {address!r}")
    return [f"{host}:{int(port) + i}" for i in range(num_servers)]


def supervise(flags: Flags, where: Sequence[str], stop: StopFlag) -> int:
    """Returns the exit code after servers at each address of ``where`` ran until ``stop``.

    One that dies is replaced; one that cannot start ends all.
    """
    servers: dict[str, Worker] = {}
    try:
        for address in where:
            servers[address] = Worker(_serve, (flags, address), f"environments at {address}")
        for address, server in servers.items():
            print(f"{flags.env.name} at {_started(address, server)}", flush=True)
        while not stop.requested:
            wait([server.sentinel for server in servers.values()], timeout=0.2)
            for address, server in servers.items():
                if server.alive or stop.requested:
                    continue
                log.warning("%s %s; starting another", server.name, server.exit_text())
                server.kill()
                time.sleep(PAUSE)
                servers[address] = Worker(_serve, (flags, address), server.name)
                _started(address, servers[address])
        return stop.exit_code
    finally:
        close_workers(list(servers.values()), grace=6.0)


def _started(address: str, server: Worker) -> str:
    """Returns where the server listens.

    Raises:
        UsageError: it cannot.
    """
    try:
        if not server.connection.poll(START_TIMEOUT):
            raise EOFError
        started, text = server.connection.recv()
    except (EOFError, OSError):
        server.wait(1.0)
        text = f"the server at {address} did not start: {server.exit_text()}"
        raise UsageError(text, 3) from None
    if not started:
        raise UsageError(text)
    return str(text)


def _serve(connection: Any, flags: Flags, address: str) -> None:
    """Serves at ``address`` until the other end of ``connection`` is closed."""
    try:
        from torchbeast.envs.remote import EnvServer, ServerTLS

        tls = None
        if flags.certificate is not None and flags.key is not None:
            tls = ServerTLS(flags.certificate, flags.key)
        server = EnvServer(
            lambda num_envs, seed: envs.make(flags.env, num_envs, seed),
            envs.spec(flags.env),
            address,
            token=flags.token,
            tls=tls,
            max_envs=flags.max_envs,
            max_streams=flags.max_streams,
        )
    except (ValueError, OSError, ModuleNotFoundError) as error:
        connection.send((False, str(error)))
        return
    with server:
        connection.send((True, server.address))
        with contextlib.suppress(EOFError):
            connection.recv()
