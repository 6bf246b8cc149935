"""How commands end when something is wrong: one clear line and an exit code."""

from __future__ import annotations

import contextlib
import difflib
import sys
from collections.abc import Callable, Iterable, Iterator


class UsageError(Exception):
    """A command ends with this message, without a traceback."""

    def __init__(self, message: str, exit_code: int = 2) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns the names among ``known`` that are most like ``name``, for an error message."""
    return ", ".join(difflib.get_close_matches(name, list(known), 3, cutoff=0))


def ending(program: str, command: Callable[[], int]) -> int:
    """Returns the exit code of a command, after telling what is wrong if something is."""
    try:
        with failing():
            return command()
    except UsageError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:  # before or after a run, which has handlers of its own
        return 130


@contextlib.contextmanager
def failing() -> Iterator[None]:
    """Turns the failures that a run can end with into their exit codes (``docs/faults.md``)."""
    from torchbeast.algorithms.base import Diverged
    from torchbeast.envs import EnvError, UnknownEnvironment
    from torchbeast.runners.async_ import ActorFailed
    from torchbeast.runners.checks import ConfigError
    from torchbeast.runners.cluster.session import ClusterError
    from torchbeast.runners.meeting import RankFailed
    from torchbeast.tools.checkpoint import CheckpointError
    from torchbeast.tools.files import StorageError
    from torchbeast.tools.run_directory import RunLocked

    codes: list[tuple[tuple[type[BaseException], ...], int]] = [
        ((ConfigError, UnknownEnvironment), 2),
        ((ActorFailed, RankFailed, EnvError, ClusterError), 3),
        ((Diverged,), 4),
        ((StorageError,), 5),
        ((RunLocked,), 6),
        ((CheckpointError,), 7),
    ]
    try:
        yield
    except Exception as error:
        for kinds, code in codes:
            if isinstance(error, kinds):
                raise UsageError(str(error), code) from error
        raise
