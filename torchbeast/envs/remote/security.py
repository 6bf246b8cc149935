"""Who may listen where, and who may speak: addresses, locks, tokens and certificates."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hmac
import ipaddress
import logging
import os
import pathlib
import socket
import ssl
import stat
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import grpc

log = logging.getLogger("torchbeast")

UNIX = "unix:"
MAX_PATH = 103  # bytes of a path that every system takes for a socket
WILDCARDS, LOOPBACK = ("0.0.0.0", "::"), ("127.0.0.1", "::1")
SEVERAL = {"0.0.0.0": WILDCARDS, "::": WILDCARDS, "localhost": LOOPBACK}  # addresses of one name
AUTHORIZATION = "authorization"  # the key of gRPC's metadata


class ServerTLS(NamedTuple):
    """Files in PEM that prove who a server is."""

    certificate: str  # with those of its issuers, if any
    key: str


def check_address(address: str) -> str:
    """Returns ``address``.

    Raises:
        ValueError: it is neither ``unix:/path`` nor ``host:port``.
    """
    if address.startswith(UNIX):
        if 0 < len(os.fsencode(address)) - len(UNIX) <= MAX_PATH:
            return address
    else:
        host, _, port = address.rpartition(":")
        if host and port.isascii() and port.isdigit() and int(port) < 1 << 16:
            return address
    raise ValueError(
        f"expected an address unix:/path (of at most {MAX_PATH} bytes) or host:port, got "
        f"{address!r}"
    )


def stays_here(address: str) -> bool:
    """Returns whether only processes of this machine reach ``address``."""
    host = address.rpartition(":")[0].strip("[]")
    if address.startswith(UNIX) or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name: who knows where it leads
        return False


def read_token(path: str | os.PathLike[str]) -> str:
    """Returns the token in a file.

    Raises:
        ValueError: it holds none: one line of at least 16 visible characters.
    """
    token, got = "", str(path)
    try:
        token = pathlib.Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        got = f"{path}: {error}"
    if len(token) < 16 or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError(
            f"expected a file with a token, one line of at least 16 visible characters, for "
            f"--token (of servers) or --env_token (of a run), got {got}; make one: "
            f"python -c 'import secrets; print(secrets.token_hex())' > {path}"
        )
    return token


def check_certificate(path: str) -> None:
    """Refuses a certificate by which no server can be known.

    Raises:
        ValueError: it holds none.
    """
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except OSError as error:  # also what OpenSSL says
        raise ValueError(
            f"expected --env_certificate to name a file (PEM) with a certificate, got {path}: "
            f"{error}"
        ) from error


def check_own(tls: ServerTLS) -> None:
    """Refuses a certificate and key that nothing can be encrypted with.

    Raises:
        ValueError: they are none, or not of each other.
    """
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        # Without a password, OpenSSL would ask a person for that of a key that has one.
        context.load_cert_chain(tls.certificate, tls.key, password="")
    except OSError as error:
        raise ValueError(
            f"expected --certificate and --key to name files (PEM) with a certificate and its key, "
            f"not encrypted, got {tls.certificate} and {tls.key}: {error}"
        ) from error


def check_guarded(address: str, token: str | None, tls: Any) -> None:
    """Refuses to listen to other machines without a token.

    Raises:
        ValueError: ``address`` is open to other machines and there is no token.
    """
    if stays_here(address):
        return
    if token is None:
        raise ValueError(
            f"expected a token for {address}, which other machines can reach: anyone there could "
            f"use the environments; give the path of a file that holds one, or listen at "
            f"unix:/path or 127.0.0.1:port"
        )
    if tls is None:
        log.warning("%s: without a certificate, the token can be read on the network", address)


def credential(token: str | None) -> list[tuple[str, str]]:
    """Returns the metadata with which a client shows its token."""
    return [] if token is None else [(AUTHORIZATION, f"Bearer {token}")]


def admits(token: str | None, metadata: Sequence[tuple[str, str | bytes]]) -> bool:
    """Returns whether a client has shown ``token``; takes equally long however wrong it is."""
    if token is None:
        return True
    shown = str(dict(metadata).get(AUTHORIZATION, ""))
    return hmac.compare_digest(shown.encode(), f"Bearer {token}".encode())


def open_channel(address: str, root: str | None, options: list[tuple[str, Any]]) -> grpc.Channel:
    """Returns a channel to ``address``, encrypted if ``root`` is the file of a certificate."""
    if root is None:
        return grpc.insecure_channel(address, options)
    credentials = grpc.ssl_channel_credentials(pathlib.Path(root).read_bytes())
    return grpc.secure_channel(address, credentials, options)


def listen(server: grpc.Server, address: str, tls: ServerTLS | None) -> str:
    """Makes ``server`` listen; returns the address, with the port that was found for ``:0``.

    Raises:
        OSError: another server is there, or the address is not this machine's.
    """
    if not address.startswith(UNIX):
        _check_free(address)
    try:
        with _private_files():
            if tls is None:
                port = server.add_insecure_port(address)
            else:
                key, chain = (pathlib.Path(p).read_bytes() for p in (tls.key, tls.certificate))
                port = server.add_secure_port(address, grpc.ssl_server_credentials([(key, chain)]))
    except RuntimeError as error:
        raise OSError(
            f"expected to listen at {address}, which is taken or not of this machine; choose "
            f"another address, or end the server that is there"
        ) from error
    return address if address.startswith(UNIX) else f"{address.rpartition(':')[0]}:{port}"


def _check_free(address: str) -> None:
    """Refuses an address of which a part is taken: gRPC listens, in silence, at what is left.

    For it, `localhost` is 127.0.0.1 and ::1, and a wildcard is every address of both kinds.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    for each in SEVERAL.get(host, [host]):
        try:
            found = socket.getaddrinfo(each, port, type=socket.SOCK_STREAM)
            for family, kind, _, _, where in found:
                with socket.socket(family, kind) as probe:
                    # Connections of a server that died stay for a while, and are in nobody's way.
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(where)
        except OSError as error:  # what else is wrong with it, gRPC says
            if error.errno == errno.EADDRINUSE:
                raise _taken(address) from error


@contextlib.contextmanager
def sole_owner(address: str) -> Iterator[None]:
    """Owns the path of a unix socket: one server at a time, whatever became of the last one.

    gRPC would take the path from a server that lives. Here a lock file beside it decides, which
    the kernel unlocks when its holder dies; a socket that nobody holds is removed.

    Raises:
        OSError: another server is there, or the path is not a socket.
    """
    if not address.startswith(UNIX):
        yield
        return
    path = pathlib.Path(address.removeprefix(UNIX))
    lock = path.with_name(f"{path.name}.lock")
    fd = _locked(lock, address)
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, fd)
        stack.callback(lock.unlink, missing_ok=True)  # still held: see _locked
        _remove_dead(path, address)
        stack.callback(path.unlink, missing_ok=True)
        yield


def _locked(lock: pathlib.Path, address: str) -> int:
    while True:
        fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(fd)
            raise _taken(address) from error
        # Its last holder may have removed the file after we opened it.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(fd), os.stat(lock)):
                return fd
        os.close(fd)


def _remove_dead(path: pathlib.Path, address: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise OSError(f"expected nothing or a socket at {path}, got a file; move it away")
        with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(ConnectionRefusedError):
            probe.settimeout(1)
            probe.connect(str(path))
            raise _taken(address)  # by a server that takes no locks
        path.unlink()


def _taken(address: str) -> OSError:
    return OSError(
        f"expected no server at {address}, and one is alive there; choose another address, or "
        f"end that server"
    )


@contextlib.contextmanager
def _private_files() -> Iterator[None]:
    """Files made inside are for this user only, from their first moment; sockets are files."""
    before = os.umask(0o177)
    try:
        yield
    finally:
        os.umask(before)
