"""Processes that serve environments: started together, replaced when they die."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from torchbeast import envs, user_code
from torchbeast.commands.errors import UsageError
from torchbeast.data.process import LogTo, Worker, close_workers

log = logging.getLogger("torchbeast")

START_TIMEOUT = 120.0  # seconds until a server must listen
BEAT = 2.0  # seconds between two signs of life of a server
SILENCE = 60.0  # seconds without one, after which a server counts as hung, at least
PAUSE = 1.0  # seconds before a server that died is replaced
FAREWELL = 2.0  # seconds in which a learner that is done tells all servers, after the first


@dataclasses.dataclass(frozen=True)
class Serving:
    """Which environments are served, and to whom."""

    env: envs.EnvConfig
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
    step_timeout: float = 60.0
    """Seconds that a step of --env_workers may take, and that an environment may go on when its
    client has left; then it counts as hung, and its worker, or the server, is replaced."""


def check(serving: Serving) -> None:
    """Tells what is wrong with the settings before anything starts.

    Raises:
        UsageError: servers would not start with them.
    """
    if (serving.certificate is None) != (serving.key is None):
        raise UsageError("expected --certificate and --key together; give both or none")
    for flag in ("max_envs", "max_streams", "step_timeout"):
        if not getattr(serving, flag) > 0:
            raise UsageError(f"expected --{flag} above 0, got {getattr(serving, flag)}")
    try:
        envs.spec(serving.env)
    except ValueError as error:
        raise UsageError(str(error)) from error


def address_of(first: str, index: int, flag: str) -> str:
    """Returns the address of one of several servers: the path gets .0, .1, ..., the port counts up.

    Port 0 stays, for each to find a free one.

    Raises:
        UsageError: ``first``, given with ``flag``, is no address.
    """
    if first.startswith("unix:"):
        return f"{first}.{index}"
    host, _, port = first.rpartition(":")
    if not (host and port.isascii() and port.isdecimal()):
        raise UsageError(f"expected {flag} unix:/path or host:port, got {first!r}")
    return f"{host}:{int(port) and int(port) + index}"


class Servers:
    """A supervised process at each address, from the construction until ``close``.

    One that dies, hangs, or cannot get rid of an environment that does, is replaced. What they log
    is logged here, where this process shows it. Call ``watch`` all the time.

    Args:
        serving: what each serves.
        addresses: where.
        flag: what gave the addresses, for messages.

    Raises:
        UsageError: one cannot start, also later, from ``watch``.
    """

    def __init__(self, serving: Serving, addresses: Sequence[str], flag: str) -> None:
        self._flag = flag
        self._done_at: float | None = None  # when a learner said so first
        self._servers = [_Server(serving, address, len(addresses)) for address in addresses]
        deadline = time.monotonic() + START_TIMEOUT
        try:
            for server in self._servers:
                server.start()
            while not all(server.listens for server in self._servers):
                self.watch(1.0)
                if time.monotonic() > deadline:
                    raise self._did_not_start("took too long")
        except BaseException:
            self.close()
            raise

    @property
    def addresses(self) -> list[str]:
        """Returns where they listen, with the ports that were found for port 0."""
        return [server.listens for server in self._servers]

    @property
    def done(self) -> bool:
        """Returns whether training is over: all were told so, or the first of them a while ago."""
        if self._done_at is None:
            return False
        told = all(server.told_done for server in self._servers)
        return told or time.monotonic() > self._done_at + FAREWELL

    def __enter__(self) -> Servers:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def watch(self, seconds: float) -> None:
        """Replaces servers that died or hang; returns after ``seconds``, or when one speaks."""
        workers = [server.worker for server in self._servers if server.worker is not None]
        began = time.monotonic()
        wait([x for w in workers for x in (w.connection, w.sentinel)], seconds)
        # Silence is what was listened to: all may have been suspended together.
        listened = min(time.monotonic() - began, seconds)
        for server in self._servers:
            server.silent += listened
            self._look_at(server)

    def close(self) -> None:
        """Ends them; they close their environments first."""
        close_workers([s.worker for s in self._servers if s.worker is not None], grace=6.0)

    def _look_at(self, server: _Server) -> None:
        if server.worker is None:
            if time.monotonic() >= server.start_at:
                server.start()
            return
        alive = server.worker.alive  # asked first: what a dead one said last still counts
        for kind, content in server.messages():
            if kind == "refused":
                raise UsageError(content)
            if kind == "cannot listen":
                raise UsageError(f"{content} ({self._flag})")
            if kind in ("listens", "beat"):
                server.silent = 0.0
            if kind == "listens":
                server.listens, server.up = content, True
            elif kind == "done":
                server.told_done = True
                self._done_at = self._done_at or time.monotonic()
            elif kind == "log":
                level, text = content
                log.log(level, "%s", text)
        if alive and not server.hangs:
            return
        ended = "gave no sign of life" if alive else server.worker.exit_text()
        if not server.listens:  # and never did
            raise self._did_not_start(ended)
        log.warning("environments at %s: %s; starting another server", server.address, ended)
        server.bury()

    def _did_not_start(self, why: str) -> UsageError:
        late = next(server.address for server in self._servers if not server.listens)
        return UsageError(f"the server at {late} did not start: {why}", 3)


class _Server:
    """One server as its supervisor sees it, over all the processes that take its place."""

    def __init__(self, serving: Serving, address: str, num_servers: int) -> None:
        self.address = address
        self.worker: Worker | None = None  # None between two
        self.listens = ""  # where; "" before it ever did
        self.told_done = False
        self.start_at = 0.0  # when the next one may begin
        self.silent = 0.0  # seconds that were listened since its last sign of life
        self.up = False  # this process listens
        self._serving, self._num_servers = serving, num_servers

    def start(self) -> None:
        args = (self._serving, self.listens or self.address, self._num_servers)
        self.worker = Worker(_serve, args, f"environments at {self.address}")
        self.silent, self.up = 0.0, False

    @property
    def hangs(self) -> bool:
        """Returns whether it gave no sign of life for longer than any server needs."""
        most = max(SILENCE, self._serving.step_timeout) if self.up else START_TIMEOUT
        return self.silent > most

    def messages(self) -> list[tuple[str, Any]]:
        """Returns what it said since the last call."""
        said: list[tuple[str, Any]] = []
        assert self.worker is not None
        with contextlib.suppress(EOFError, OSError):  # it died, which the kernel tells
            while self.worker.connection.poll():
                said.append(self.worker.connection.recv())
        return said

    def bury(self) -> None:
        assert self.worker is not None
        self.worker.kill()
        self.worker = None
        self.start_at = time.monotonic() + PAUSE


def _serve(connection: Connection, serving: Serving, address: str, num_servers: int) -> None:
    """Serves at ``address`` until the other end of ``connection`` is closed."""
    sending = threading.Lock()

    def tell(kind: str, content: Any = None) -> None:
        with sending, contextlib.suppress(OSError):  # the supervisor may be gone
            connection.send((kind, content))

    LogTo(lambda level, text: tell("log", (level, text)))
    try:
        from torchbeast.envs.remote import EnvServer, ServerTLS

        tls = None
        if serving.certificate is not None and serving.key is not None:
            tls = ServerTLS(serving.certificate, serving.key)
        server = EnvServer(
            functools.partial(envs.make, serving.env, step_timeout=serving.step_timeout),
            envs.spec(serving.env),
            address,
            name=user_code.absolute(serving.env.name),
            num_servers=num_servers,
            on_done=lambda: tell("done"),
            token=serving.token,
            tls=tls,
            max_envs=serving.max_envs,
            max_streams=serving.max_streams,
        )
    except OSError as error:  # of the address: it is taken, or of another machine
        tell("cannot listen", str(error))
        return
    except (ValueError, ModuleNotFoundError) as error:
        tell("refused", str(error))
        return
    with server:
        tell("listens", server.address)
        while not connection.poll(BEAT):  # until it is closed
            tell("beat")
            if server.overdue() > serving.step_timeout:
                log.warning(
                    "an environment at %s still does not come back %g s after its client left "
                    "(--step_timeout); the server ends, with all of its environments",
                    *(server.address, serving.step_timeout),
                )
                return
