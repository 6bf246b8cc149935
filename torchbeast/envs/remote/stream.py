"""One connection to an environment server: how it is made, what goes over it, how it ends."""

from __future__ import annotations

import contextlib
import os
import queue
import time
from typing import Any, NamedTuple

import grpc

from torchbeast.data import EnvSpec
from torchbeast.envs.remote import security, wire
from torchbeast.envs.remote.watchdog import Watchdog
from torchbeast.envs.vector import EnvError

# What gRPC says when a server is not there, leaves, or is torn away; and when it is full.
AWAY = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.INTERNAL}
FULL = grpc.StatusCode.RESOURCE_EXHAUSTED
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


def server_at(address: str, token: str | os.PathLike[str] | None, root: str | None) -> Server:
    """Returns a server to connect to; the files of token and certificate are read.

    Raises:
        ValueError: the address, the token or the certificate is none.
    """
    text = None if token is None else security.read_token(token)
    if root is not None:
        security.check_certificate(root)
    return Server(security.check_address(address), text, root)


def connect(
    server: Server, hello: wire.Hello, max_bytes: int, seconds: float
) -> tuple[Stream, Found]:
    """Returns a stream that was welcomed, and by whom; waits for a server that is not there.

    Raises:
        EnvError: it does not come in ``seconds``, is full, or refuses.
    """
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
