"""The learner's side: environments elsewhere, met like any others."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from torchbeast.data import Tree
from torchbeast.envs.remote import wire
from torchbeast.envs.remote.stream import Broken, Found, Server, Stream, connect, server_at
from torchbeast.envs.vector import EnvError, Step, VectorEnv, env_seeds

log = logging.getLogger("torchbeast")

ASKING = wire.Hello(wire.VERSION, 0, 0)  # only for the answer


class RemoteEnv(VectorEnv):
    """B environments of an environment server, on one stream.

    They stream bit for bit what the server's environments would stream here. If the stream
    breaks, as when the server is restarted, ``recv`` connects again: every environment begins a
    new episode with a new seed, and the broken episodes count for nothing.

    Args:
        address: ``unix:/path`` or ``host:port``.
        num_envs: B.
        seed: each environment gets its own, derived from this one by the server.
        token: path of a file with the token that the server wants.
        tls: path of the certificate (PEM) that proves the server; None does not encrypt.
        connect_timeout: seconds to wait for a server that is not up yet.
        start_timeout: seconds that making and resetting the environments may take.
        step_timeout: seconds that a step may take.
        reconnect_timeout: seconds to wait for a server that went away.
        max_restarts: streams that may break before the run is given up.

    Raises:
        EnvError: there is no server, or it refuses.
        ValueError: the address, the token or the certificate is none.
    """

    def __init__(
        self,
        address: str,
        num_envs: int,
        seed: int,
        token: str | os.PathLike[str] | None = None,
        *,
        tls: str | None = None,
        connect_timeout: float = 60.0,
        start_timeout: float = 120.0,
        step_timeout: float = 60.0,
        reconnect_timeout: float = 60.0,
        max_restarts: int = 100,
    ) -> None:
        self._server = server_at(address, token, tls)
        super().__init__(_ask(self._server, connect_timeout).spec, num_envs, address)
        self.spec.action.seed(seed)
        self.restarts = 0
        self._seed = seed
        self._start_timeout, self._step_timeout = start_timeout, step_timeout
        self._reconnect_timeout, self._max_restarts = reconnect_timeout, max_restarts
        self._actions, self._rows = (
            wire.Actions(self.spec, num_envs),
            wire.Rows(self.spec, num_envs),
        )
        self._stream: Stream | None = self._connect(connect_timeout)

    def close(self) -> None:
        """Leaves the server, which closes the environments."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    def _reset(self) -> Tree:
        try:
            return self._first_rows()
        except Broken as error:
            return self._begin_again(error)

    def _send(self, action: Tree) -> None:
        self._open().send(self._actions.encode(action))

    def _recv(self) -> Step:
        try:
            return self._decoded(self._open().receive(self._step_timeout))
        except Broken as error:
            obs, every = self._begin_again(error), np.ones(self.num_envs, bool)
            return Step(obs, np.zeros(self.num_envs), ~every, ~every, None, every)

    def _begin_again(self, error: Broken) -> Tree:
        """Returns the first observations of new episodes on a new stream."""
        deadline = time.monotonic() + self._reconnect_timeout
        while True:
            self.close()
            if self.restarts >= self._max_restarts:
                raise EnvError(
                    f"lost {self.name} ({error}) after {self.restarts} lost streams before; "
                    f"find out why the server goes away"
                )
            self.restarts += 1
            log.warning(
                "lost %s (%s); connecting again, time %d of %d at most",
                *(self.name, error, self.restarts, self._max_restarts),
            )
            self._stream = self._connect(max(0.0, deadline - time.monotonic()))
            try:
                return self._first_rows()
            except Broken as again:
                error = again

    def _connect(self, seconds: float) -> Stream:
        # A stream begun anew must not play the same episodes again.
        seed = env_seeds(self._seed, 1, self.restarts)[0] if self.restarts else self._seed
        hello = wire.Hello(wire.VERSION, self.num_envs, seed)
        stream, found = connect(self._server, hello, self._rows.max_bytes, seconds)
        if found.spec != self.spec:
            stream.close()
            raise EnvError(f"expected {self.name} to serve {self.spec} still, got {found.spec}")
        return stream

    def _first_rows(self) -> Tree:
        stream = self._open()
        stream.send(wire.RESET)
        return self._decoded(stream.receive(self._start_timeout)).obs

    def _decoded(self, message: bytes) -> Step:
        try:
            return self._rows.decode(message)
        except wire.WireError as error:
            raise EnvError(f"{self.name} sent a message that makes no sense: {error}") from error

    def _open(self) -> Stream:
        if self._stream is None:
            raise EnvError(f"{self.name} cannot go on: it is closed, or failed before")
        return self._stream


def ask(
    address: str,
    token: str | os.PathLike[str] | None = None,
    *,
    tls: str | None = None,
    connect_timeout: float = 60.0,
) -> Found:
    """Returns what a server serves; no environment is made.

    Raises:
        EnvError: there is no server within ``connect_timeout`` seconds, or it refuses.
        ValueError: the address, the token or the certificate is none.
    """
    return _ask(server_at(address, token, tls), connect_timeout)


def say_done(
    addresses: Sequence[str],
    token: str | os.PathLike[str] | None = None,
    *,
    tls: str | None = None,
    connect_timeout: float = 10.0,
) -> None:
    """Tells servers that training is over; ``torchbeast serve --once`` ends then.

    One that is not there within ``connect_timeout`` seconds is named in the log.
    """

    def say(address: str) -> None:
        server = server_at(address, token, tls)
        try:
            stream, _ = connect(server, ASKING, wire.MAX_WELCOME, connect_timeout)
            stream.send(wire.DONE)
            with contextlib.closing(stream), contextlib.suppress(Broken):  # its end is the answer
                stream.receive(connect_timeout)
        except (EnvError, ValueError) as error:
            log.warning("%s was not told that training is over: %s", address, error)

    # At once: some end as soon as one is told, and none waits for another that is away.
    with ThreadPoolExecutor(len(addresses)) as threads:
        list(threads.map(say, addresses))


def _ask(server: Server, seconds: float) -> Found:
    stream, found = connect(server, ASKING, wire.MAX_WELCOME, seconds)
    stream.close()
    return found
