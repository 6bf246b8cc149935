"""What a person is told when Ray fails, without Ray."""

from __future__ import annotations

import types

import pytest

from torchbeast.runners.cluster import session
from torchbeast.runners.cluster.session import ClusterError, connected
from torchbeast.runners.cluster.told import reason

# As Ray 2.60 says it.
TRACE = (
    "\x1b[36mray::Worker.__init__()\x1b[39m (pid=7, ip=10.0.0.1)\n"
    '  File "worker.py", line 4, in __init__\n'
    "    import ale_py\n"
    "ModuleNotFoundError: No module named 'ale_py'"
)


class TaskError(Exception):
    """An error in a task: Ray keeps what was raised."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(TRACE)
        self.cause = cause


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (TaskError(PermissionError(13, "Permission denied")), "[Errno 13] Permission denied"),
        (TaskError(ValueError("mine.py cannot be imported\n" + TRACE)), TRACE.splitlines()[-1]),
        (TaskError(KeyError()), "KeyError"),
        (Exception("The actor died because of an error, " + TRACE), TRACE.splitlines()[-1]),
        (
            Exception("Task was killed: low memory.\nTop users:\n1 2 3"),
            "Task was killed: low memory",
        ),
        (Exception("The node is dead. Node IP: 10.0.0.1. This can happen"), "The node is dead"),
        (Exception("\x1b[31mlost\x1b[0m"), "lost"),
        (ConnectionError(), "ConnectionError"),
    ],
)
def test_the_line_of_an_error_that_says_why(error: Exception, line: str) -> None:
    assert reason(error) == line


@pytest.mark.parametrize(
    ("address", "error", "words"),
    [
        (None, OSError("AF_UNIX path length cannot exceed 107 bytes"), ["this machine", "TMPDIR"]),
        (None, RuntimeError("no port is free"), ["this machine", "no port is free", "--address"]),
        ("head:6379", ConnectionError("nobody there"), ["--address head:6379", "`ray start`"]),
    ],
)
def test_what_to_do_where_there_is_no_cluster(
    monkeypatch: pytest.MonkeyPatch, address: str | None, error: Exception, words: list[str]
) -> None:
    def init(**options: object) -> None:
        raise error

    monkeypatch.setattr(session, "_ray", lambda: types.SimpleNamespace(init=init))
    with pytest.raises(ClusterError) as told, connected(address, None, trust_network=True):
        pass
    assert all(word in str(told.value) for word in words)
    assert ("TMPDIR" in str(told.value)) == ("TMPDIR" in words)
    assert "None" not in str(told.value)
