"""The serving side: environments for whoever connects, each stream its own."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

import grpc

from torchbeast.data import EnvSpec
from torchbeast.envs.remote import security, wire
from torchbeast.envs.remote.security import ServerTLS
from torchbeast.envs.remote.watchdog import Watchdog
from torchbeast.envs.vector import VectorEnv

log = logging.getLogger("torchbeast")

Factory = Callable[[int, int], VectorEnv]  # (num_envs, seed)

HELLO_TIMEOUT = 10.0  # seconds for the first message of a stream
CLOSE_TIMEOUT = 5.0  # seconds for streams to close their environments
SPARE = 4  # streams beside those with environments, which only ask or say that they are done


class Refused(Exception):
    """A stream ends with a status of gRPC, and it is the client's fault."""

    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        super().__init__(text)
        self.code = code


class EnvServer:
    """Serves environments at one address, from its construction until ``close``.

    Each stream has environments of its own, made when it begins and closed when it ends, and a
    thread of this process that steps them: start several servers for several cores. An
    environment that raises ends its stream, and the server goes on.

    Args:
        factory: makes the environments of a stream: ``(num_envs, seed) -> VectorEnv``.
        spec: what one of them shows and takes.
        address: ``unix:/path``, for this user only, or ``host:port``; port 0 finds a free one.
        name: of what is served, for the titles of clients.
        num_servers: that are started together, for clients that need as many.
        on_done: called, in a thread of the server, when a client says that training is over.
        token: path of a file; clients must show what it holds. Other machines need one.
        tls: files of a certificate and its key.
        max_envs: B of one stream at most.
        max_streams: streams with environments at once; more are turned away.
        idle_timeout: seconds between two messages of a client, longer than a learner ever pauses;
            a client that vanished is noticed within a minute all the same.

    Raises:
        ValueError: the address needs a token, or token or certificate are none.
        OSError: another server is at the address.
    """

    def __init__(
        self,
        factory: Factory,
        spec: EnvSpec,
        address: str,
        *,
        name: str = "",
        num_servers: int = 1,
        on_done: Callable[[], None] = lambda: None,
        token: str | os.PathLike[str] | None = None,
        tls: ServerTLS | None = None,
        max_envs: int = 256,
        max_streams: int = 16,
        idle_timeout: float = 1800.0,
    ) -> None:
        self._factory, self._spec, self._on_done = factory, spec, on_done
        welcome = wire.Welcome(wire.VERSION, spec, name, num_servers, max_streams)
        self._welcome = wire.encode_welcome(welcome)
        self._token = None if token is None else security.read_token(token)
        self._max_envs, self._idle_timeout = max_envs, idle_timeout
        self._max_streams = max_streams
        self._places = threading.Semaphore(max_streams)
        self._streams: dict[Any, float] = {}  # when the client of each left; not yet: inf
        self._changed = threading.Condition()
        if tls is not None:
            security.check_own(tls)
        security.check_guarded(security.check_address(address), self._token, tls)
        self._threads = ThreadPoolExecutor(max_streams + SPARE, "environments")
        self._server = grpc.server(
            self._threads,
            options=_options(wire.Actions(spec, max_envs).max_bytes),
            maximum_concurrent_rpcs=max_streams + SPARE,
        )
        play = grpc.stream_stream_rpc_method_handler(self._play)
        handler = grpc.method_handlers_generic_handler(wire.SERVICE, {wire.METHOD: play})
        self._server.add_generic_rpc_handlers((handler,))
        with contextlib.ExitStack() as stack:
            stack.enter_context(security.sole_owner(address))
            self.address = security.listen(self._server, address, tls)
            self._server.start()
            self._owned = stack.pop_all()
        log.info("environments at %s", self.address)

    def __enter__(self) -> EnvServer:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def wait(self) -> None:
        """Waits until the server is closed by another thread, or this one is interrupted."""
        self._server.wait_for_termination()

    def close(self) -> bool:
        """Ends all streams; returns whether they have closed their environments in time."""
        self._server.stop(None)
        with self._changed:
            ended = self._changed.wait_for(lambda: not self._streams, CLOSE_TIMEOUT)
        self._threads.shutdown(wait=False)
        self._owned.close()
        return ended

    def overdue(self) -> float:
        """Returns the seconds that a stream has outlived its client: an environment hangs."""
        with self._changed:
            now = time.monotonic()
            return max((now - left for left in self._streams.values()), default=-math.inf)

    def _play(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        peer = context.peer()
        watchdog = Watchdog(context.cancel)
        self._begin(context)
        try:
            self._admit(context)
            yield from self._converse(requests, watchdog)
        except Refused as error:
            log.warning("refused %s: %s", peer, error)
            context.abort(error.code, str(error))
        except Exception as error:
            log.exception("the environments of %s broke", peer)
            context.abort(grpc.StatusCode.ABORTED, _last_line(error))
        finally:
            if watchdog.late:
                log.warning("dropped %s, which said nothing for too long", peer)
            watchdog.close()
            with self._changed:
                del self._streams[context]
                self._changed.notify_all()

    def _begin(self, context: Any) -> None:
        def left() -> None:
            with self._changed:
                if context in self._streams:
                    self._streams[context] = time.monotonic()

        with self._changed:
            self._streams[context] = math.inf
        if not context.add_callback(left):
            left()

    def _admit(self, context: Any) -> None:
        if not security.admits(self._token, context.invocation_metadata()):
            text = "expected the token of this server; give the client the file that holds it"
            raise Refused(grpc.StatusCode.UNAUTHENTICATED, text)

    def _converse(self, requests: Iterator[bytes], watchdog: Watchdog) -> Iterator[bytes]:
        """Yields the replies of one stream until the client leaves."""
        watchdog.expect(HELLO_TIMEOUT)
        message = _next(requests, watchdog)
        if message is None:
            return
        hello = self._hello(message)
        with self._place(hello):
            watchdog.expect(self._idle_timeout)
            yield self._welcome
            message = _next(requests, watchdog)
            if message == wire.DONE:
                self._on_done()
            elif message is not None and hello.num_envs:
                yield from self._rows(hello, message, requests, watchdog)

    def _rows(
        self, hello: wire.Hello, first: bytes, requests: Iterator[bytes], watchdog: Watchdog
    ) -> Iterator[bytes]:
        message: bytes | None = first
        with contextlib.closing(self._factory(hello.num_envs, hello.seed)) as env:
            if env.spec != self._spec:
                raise ValueError(f"expected environments of {self._spec}, got {env.spec}")
            answer = _Answers(env).answer
            while message is not None:
                reply = answer(message)
                watchdog.expect(self._idle_timeout)
                yield reply
                message = _next(requests, watchdog)

    def _hello(self, message: bytes) -> wire.Hello:
        try:
            hello = wire.decode_hello(message)
        except wire.WireError as error:
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, str(error)) from error
        if hello.version != wire.VERSION:
            text = wire.wrong_version(client=hello.version, server=wire.VERSION)
            raise Refused(grpc.StatusCode.FAILED_PRECONDITION, text)
        if hello.num_envs > self._max_envs:
            text = (
                f"expected at most {self._max_envs} environments in one stream, got "
                f"{hello.num_envs}; ask for fewer, or start the server with a larger max_envs"
            )
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, text)
        return hello

    @contextlib.contextmanager
    def _place(self, hello: wire.Hello) -> Iterator[None]:
        """Holds one of ``max_streams`` places; who brings no environments needs none."""
        if not hello.num_envs:
            yield
            return
        if not self._places.acquire(blocking=False):
            text = (
                f"the server is full: expected at most {self._max_streams} streams with "
                f"environments at once, got one more; raise --max_streams, or start more servers"
            )
            raise Refused(grpc.StatusCode.RESOURCE_EXHAUSTED, text)
        try:
            yield
        finally:
            self._places.release()


class _Answers:
    """Steps the environments of one stream.

    They give their steps before the accounting of episodes, which is the client's.
    """

    def __init__(self, env: VectorEnv) -> None:
        self._env = env
        self._actions = wire.Actions(env.spec, env.num_envs)
        self._rows = wire.Rows(env.spec, env.num_envs)
        self._began = False

    def answer(self, message: bytes) -> bytes:
        """Returns the reply to a message: rows."""
        try:
            action = self._actions.decode(message)
            if action is None:
                self._began = True
            elif not self._began:
                raise wire.WireError("expected a reset before the first actions")
            else:
                self._env.send(action)
        except ValueError as error:  # also of an action outside the space
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, str(error)) from error
        if action is None:
            return self._rows.encode_reset(self._env.reset().obs)
        return self._rows.encode(self._env._recv())


def serve(factory: Factory, spec: EnvSpec, address: str, **options: Any) -> NoReturn:
    """Serves environments until the process is interrupted, and ends it; for its main thread.

    The arguments are EnvServer's. Killing it leaves nothing that the next server at the same
    address would mind.
    """
    server = EnvServer(factory, spec, address, **options)
    with contextlib.suppress(KeyboardInterrupt):
        server.wait()
    ended = server.close()
    if not ended:
        log.warning("an environment does not come back; leaving without it")
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(0 if ended else 1)  # the interpreter would wait for threads, which may never end


def _next(requests: Iterator[bytes], watchdog: Watchdog) -> bytes | None:
    """Returns the next message, or None if the client has left."""
    try:
        return next(requests, None)
    except grpc.RpcError:
        return None
    finally:
        watchdog.relax()


def _last_line(error: BaseException) -> str:
    lines = "".join(traceback.format_exception_only(error)).strip().splitlines()
    return lines[-1][:1000]


def _options(max_bytes: int) -> list[tuple[str, Any]]:
    return [
        ("grpc.so_reuseport", 0),  # else two servers share a port, and the clients, in silence
        ("grpc.max_receive_message_length", max_bytes),
        ("grpc.server_handshake_timeout_ms", 10_000),
        ("grpc.max_connection_idle_ms", 60_000),  # of connections without a stream
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ]
