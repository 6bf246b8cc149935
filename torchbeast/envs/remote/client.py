"""The learner's side: environments elsewhere, met like any others."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import grpc
import numpy as np

from torchbeast.data import EnvSpec, Tree
from torchbeast.envs.remote import security, wire
from torchbeast.envs.remote.watchdog import Watchdog
from torchbeast.envs.vector import EnvError, Step, VectorEnv, env_seeds

log = logging.getLogger("torchbeast")

# What gRPC says when a server is not there, leaves, or is torn away; and when it is full.
AWAY = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.INTERNAL}
FULL = grpc.StatusCode.RESOURCE_EXHAUSTED
ASKING = wire.Hello(wire.VERSION, 0, 0)  # only for the answer
FULL_TIMEOUT = 5.0  # seconds in which one who left may be gone from a server that is full


class Broken(Exception):
    """A stream ended, and another one may work."""


class Full(Broken):
    """The server has no place for a stream."""


class Server(NamedTuple):
    """Where a server is, and what it wants to see."""

    address: str
    token: str | None  # itself, not its file
    root: str | None  # file of the certificate that it is trusted by


class Stream:
    """One stream to a server: messages go and come in order.

    Args:
        server: where.
        hello: the first message.
        max_bytes: of a reply.
    """

    def __init__(self, server: Server, hello: wire.Hello, max_bytes: int) -> None:
        self._server = server
        self._channel = security.open_channel(server.address, server.root, _options(max_bytes))
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._call = self._channel.stream_stream(f"/{wire.SERVICE}/{wire.METHOD}")(
            iter(self._outbox.get, None), metadata=security.credential(server.token)
        )
        self._watchdog = Watchdog(self._call.cancel)
        self._welcomed = False
        self.send(wire.encode_hello(hello))

    def send(self, message: bytes) -> None:
        """Sends a message; that it cannot arrive is seen in ``receive``."""
        self._outbox.put(message)

    def receive(self, seconds: float) -> bytes:
        """Returns the next message.

        Raises:
            Broken: there is no server, or it is gone or full.
            EnvError: no message came in ``seconds``, or the server says what is wrong.
        """
        self._watchdog.expect(seconds)
        try:
            message: bytes = next(self._call)
            self._welcomed = True
            return message
        except StopIteration:
            raise Broken("the server ended the stream") from None
        except grpc.RpcError as error:
            if self._watchdog.late:
                raise EnvError(
                    f"expected an answer from {self._server.address} within {seconds:.1f} s, got "
                    f"none; an environment there is slow or hangs, or the machine is out of reach"
                ) from None
            text = f"{error.code().name}: {error.details()}"
            if error.code() in AWAY:
                raise Broken(text) from None
            if error.code() is FULL and not self._welcomed:
                raise Full(text) from None
            raise EnvError(f"the server at {self._server.address} says {text}") from None
        finally:
            self._watchdog.relax()

    def close(self) -> None:
        """Leaves; the server closes its environments."""
        self._outbox.put(None)
        self._watchdog.close()
        self._call.cancel()
        self._channel.close()


class Found(NamedTuple):
    """What a server says of itself."""

    spec: EnvSpec  # of what it serves
    name: str  # of what it serves; "" if it does not say
    num_servers: int  # that were started together with it
    max_streams: int  # with environments, that it takes at once; 0 if it does not say


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
        self._server = _server(address, token, tls)
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
        stream, found = _connect(self._server, hello, self._rows.max_bytes, seconds)
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
    return _ask(_server(address, token, tls), connect_timeout)


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
        server = _server(address, token, tls)
        try:
            stream, _ = _connect(server, ASKING, wire.MAX_WELCOME, connect_timeout)
            stream.send(wire.DONE)
            with contextlib.closing(stream), contextlib.suppress(Broken):  # its end is the answer
                stream.receive(connect_timeout)
        except (EnvError, ValueError) as error:
            log.warning("%s was not told that training is over: %s", address, error)

    # At once: some end as soon as one is told, and none waits for another that is away.
    with ThreadPoolExecutor(len(addresses)) as threads:
        list(threads.map(say, addresses))


def _server(address: str, token: str | os.PathLike[str] | None, root: str | None) -> Server:
    text = None if token is None else security.read_token(token)
    if root is not None:
        security.check_certificate(root)
    return Server(security.check_address(address), text, root)


def _ask(server: Server, seconds: float) -> Found:
    stream, found = _connect(server, ASKING, wire.MAX_WELCOME, seconds)
    stream.close()
    return found


def _connect(
    server: Server, hello: wire.Hello, max_bytes: int, seconds: float
) -> tuple[Stream, Found]:
    """Returns a stream that was welcomed, and by whom; waits for a server that is not there."""
    began, pause = time.monotonic(), 0.05
    deadline = began + seconds
    while True:
        with contextlib.ExitStack() as stack:
            stream = Stream(server, hello, max_bytes)
            stack.callback(stream.close)
            try:
                welcome = wire.decode_welcome(stream.receive(max(1.0, deadline - time.monotonic())))
                stack.pop_all()
                return stream, Found(*welcome[1:])
            except ValueError as error:
                raise EnvError(f"{server.address}: {error}") from error
            except Broken as error:
                late = time.monotonic() + pause
                if isinstance(error, Full) and late > min(deadline, began + FULL_TIMEOUT):
                    raise EnvError(f"the server at {server.address} says {error}") from None
                if late > deadline:
                    raise EnvError(
                        f"expected an environment server at {server.address} within "
                        f"{seconds:.1f} s, got {error}; start it, or correct the address"
                        f"{_about_certificates(server, str(error))}"
                    ) from None
        time.sleep(pause)
        pause = min(2 * pause, 1.0)


def _about_certificates(server: Server, text: str) -> str:
    """Returns what to do if the certificate is why nobody answers; "" if it is not."""
    if server.root is None:
        encrypted = "Socket closed" in text or "Connection reset" in text
        return "; if the server encrypts, give --env_certificate" if encrypted else ""
    if "handshake" not in text and "erification" not in text:
        return ""
    return (
        f"; is --env_certificate {server.root} that of the server, made for the name or number in "
        f"the address, and does the server encrypt (--certificate, --key)?"
    )


def _options(max_bytes: int) -> list[tuple[str, Any]]:
    return [
        ("grpc.max_receive_message_length", max_bytes),
        ("grpc.use_local_subchannel_pool", 1),  # a connection for each stream
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.enable_http_proxy", 0),
    ]
