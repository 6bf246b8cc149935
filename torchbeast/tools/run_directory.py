"""One run, one directory: who holds it, what it was, and how to find it again."""

from __future__ import annotations

import contextlib
import difflib
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from torchbeast.tools.files import StorageError, write_atomically
from torchbeast.tools.provenance import describe_run

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

DEFAULT_SAVEDIR = "~/logs/torchbeast"
_log = logging.getLogger("torchbeast")


class RunLocked(RuntimeError):
    """Another process works in the directory of the run."""


class RunDirectory:
    """The directory ``<savedir>/<xpid>`` of a run, held by this process until ``close``.

    Holds ``run.lock``, ``meta.json`` (what ran, on what; never the environment variables) and
    ``out.log`` (what the logger "torchbeast" says); ``<savedir>/latest`` points to it. Opening
    it a second time, by the same ``xpid``, continues the run.

    Args:
        savedir: where runs are; ``~`` and ``$VARS`` are expanded.
        xpid: the name of the run; by default ``torchbeast-<date>-<time>``.
        args: the flags, for ``meta.json``; values of flags like ``token`` are left out.

    Raises:
        RunLocked: another process works there.
        StorageError: the directory cannot be written.
        ValueError: ``xpid`` is not a name.
    """

    def __init__(
        self,
        savedir: str | Path = DEFAULT_SAVEDIR,
        xpid: str | None = None,
        args: Any = None,
    ) -> None:
        self.savedir = expand(savedir)
        with _storage_errors(self.savedir):
            self.savedir.mkdir(parents=True, exist_ok=True)
            self.path = new_directory(self.savedir) if xpid is None else self.savedir / _name(xpid)
            self.path.mkdir(exist_ok=True)
            self.xpid = self.path.name
            self._lock = lock_file(self.path / "run.lock")
            try:
                self._handler = _log_to(self.path / "out.log")
                self._meta = self._opening_meta(args)
                self._write_meta()
                _point_latest(self.savedir, self.xpid)
            except BaseException:
                os.close(self._lock)
                raise

    def close(self, successful: bool) -> None:
        """Writes how the run ended, and lets the directory go."""
        if self._lock < 0:
            return
        self._meta |= {"date_end": _now(), "successful": successful}
        try:
            self._write_meta()
        except OSError as error:
            _log.warning("meta.json does not say how the run ended: %s", error)
        _log.removeHandler(self._handler)
        self._handler.close()
        os.close(self._lock)
        self._lock = -1

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(successful=kind is None)

    def _opening_meta(self, args: Any) -> dict[str, Any]:
        meta: dict[str, Any] = {"xpid": self.xpid, "date_start": _now(), "resumed": []}
        meta |= {"date_end": None, "successful": False}
        before = read_meta(self.path)
        if before.get("date_start"):
            meta["resumed"] = [*before.get("resumed", []), meta["date_start"]]
            meta["date_start"] = before["date_start"]
        return describe_run(args) | meta

    def _write_meta(self) -> None:
        text = json.dumps(self._meta, indent=2, sort_keys=True) + "\n"
        write_atomically(self.path / "meta.json", text.encode())


def expand(path: str | Path) -> Path:
    """Returns ``path`` with ``~`` and ``$VARS`` expanded."""
    return Path(os.path.expandvars(os.path.expanduser(str(path)))).absolute()


def read_meta(run: Path) -> dict[str, Any]:
    """Returns ``meta.json`` of the run; {} if there is none that can be read."""
    try:
        meta = json.loads((run / "meta.json").read_text())
    except (OSError, ValueError):
        return {}
    return meta if isinstance(meta, dict) else {}


def list_runs(savedir: str | Path = DEFAULT_SAVEDIR) -> list[Path]:
    """Returns the directories of the runs in ``savedir``, by date, the newest last."""
    root = expand(savedir)
    if not root.is_dir():
        return []
    runs = [p for p in root.iterdir() if not p.is_symlink() and (p / "meta.json").is_file()]
    return sorted(runs, key=lambda p: (str(read_meta(p).get("date_start", "")), p.name))


def find_run(savedir: str | Path, name: str) -> Path:
    """Returns the directory of the run ``name``: an xpid, ``latest``, or a path to a run.

    Raises:
        ValueError: there is no such run.
    """
    root = expand(savedir)
    candidates = [root / name] if name not in ("", ".", "..") else []
    if os.sep in name:
        candidates.append(expand(name))
    for path in candidates:
        if path.is_dir():
            return path.resolve()
    runs = [p.name for p in list_runs(root)]
    near = difflib.get_close_matches(name, runs, n=3, cutoff=0.4)
    if near:
        hint = f"nearest: {', '.join(near)}"
    else:
        hint = f"the newest: {', '.join(runs[-3:])}" if runs else "there are no runs"
    raise ValueError(
        f"expected the name of a run in {root} or 'latest', got '{name}' ({hint}); "
        f"choose one, or another --savedir"
    )


def _name(xpid: str) -> str:
    if xpid in ("", ".", "..", "latest", "latest.tmp") or Path(xpid).name != xpid:
        raise ValueError(
            f"expected an xpid that can name a directory, got '{xpid}'; leave out '/' and 'latest'"
        )
    return xpid


def new_directory(savedir: Path) -> Path:
    """Returns a directory that nobody had: runs of a sweep start within one second.

    Raises:
        StorageError: it cannot be made.
    """
    stem = time.strftime("torchbeast-%Y%m%d-%H%M%S")
    number = 1
    with _storage_errors(savedir):
        savedir.mkdir(parents=True, exist_ok=True)
        while True:
            path = savedir / (stem if number == 1 else f"{stem}-{number}")
            try:
                path.mkdir()
            except FileExistsError:
                number += 1
            else:
                return path


def lock_file(path: Path) -> int:
    """Returns an open file whose lock says: this process works here."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
    try:
        if fcntl is not None:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(fd, 4096).decode(errors="replace").strip()
        os.close(fd)
        raise RunLocked(
            f"expected to be alone in {path.parent}, got a run that is still going there "
            f"({holder or 'it does not say which'}); stop it, or choose another --xpid"
        ) from None
    except OSError as error:  # a network file system without locks
        _log.warning("%s cannot be locked (%s): do not start this run twice", path, error)
    os.ftruncate(fd, 0)
    os.write(fd, f"pid {os.getpid()} on {socket.gethostname()} since {_now()}\n".encode())
    return fd


def _log_to(path: Path) -> logging.Handler:
    handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(
        logging.Formatter("[%(levelname)s %(asctime)s %(process)d %(module)s] %(message)s")
    )
    if _log.level == logging.NOTSET:
        _log.setLevel(logging.INFO)
    _log.addHandler(handler)
    return handler


def _point_latest(savedir: Path, xpid: str) -> None:
    """Points ``latest`` to the run; a real file or directory of this name is left alone."""
    latest = savedir / "latest"
    if latest.exists() and not latest.is_symlink():
        return
    temporary = savedir / f".latest-{os.getpid()}.tmp"  # several runs may start at once
    try:
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(xpid)
        os.replace(temporary, latest)
    except OSError as error:  # a convenience: not worth a run
        _log.warning("%s does not point to this run: %s", latest, error)


@contextlib.contextmanager
def _storage_errors(savedir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"expected to write the run below {savedir}, got: {error}; "
            f"make room or choose another --savedir"
        ) from error


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
