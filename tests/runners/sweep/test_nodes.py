"""Both ends of a sweep on Ray, where the test plays Ray, and the runs."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import functools
import pathlib
import shutil
import sys
import types
import unittest.mock
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from torchbeast import user_code
from torchbeast.envs import EnvConfig
from torchbeast.runners.config import ClusterConfig, RunConfig, default_config
from torchbeast.runners.sweep import Job, on_ray
from torchbeast.runners.sweep.on_ray import Errand, RayNodes
from torchbeast.runners.sweep.place import LOST
from torchbeast.runners.sweep.travel import newest_checkpoint, packed


def save(run: pathlib.Path, step: int) -> None:
    checkpoint = run / "checkpoints" / f"ckpt-{step:012d}"
    checkpoint.mkdir(parents=True)
    (checkpoint / "rng.pt").write_bytes(b"x")


class Bell:
    """Tells at once what has arrived."""

    def __init__(self) -> None:
        self.futures: defaultdict[str, Any] = defaultdict(concurrent.futures.Future)
        self.wait = types.SimpleNamespace(remote=lambda: self.reference("rung"))
        self.arrived = types.SimpleNamespace(remote=lambda r: self.futures[r].set_result(None))
        self.wait_for = types.SimpleNamespace(remote=self.reference)

    def reference(self, name: str) -> Any:
        return types.SimpleNamespace(future=lambda: self.futures[name])


class RayError(Exception):
    """An error of Ray's; what was raised in a task is its ``cause``."""

    def __init__(self, cause: Exception) -> None:
        super().__init__("\x1b[36mray::_run_on_node()\x1b[39m (pid=7, ip=10.0.0.1)")
        self.cause = cause


class Played:
    """Ray with one node: a task goes on where the sweep looks for its reports."""

    exceptions = types.SimpleNamespace(RayError=RayError)
    get_runtime_context = util = unittest.mock.MagicMock()

    def __init__(self) -> None:
        self.errands: list[Errand] = []

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": {"CPU": 1.0}}]

    def remote(self, **options: Any) -> Any:
        def made(what: Any) -> Any:
            start = Bell if what is on_ray.Bell else self.start
            return types.SimpleNamespace(remote=start)

        return made

    def start(self, errand: Errand, bell: Bell) -> Iterator[on_ray.Report]:
        self.errands.append(errand)
        return on_ray._run_on_node(errand, bell)

    def wait(self, references: list[Any], **options: Any) -> tuple[list[Any], list[Any]]:
        return references, []

    def get(self, report: on_ray.Report) -> on_ray.Report:
        return report


class Run:
    """A process that saves at step 900 and ends; ``began`` says with what."""

    began: ClassVar[list[tuple[str, RunConfig]]] = []

    def __init__(self, run: pathlib.Path, config: RunConfig, cores: list[int]) -> None:
        self.began.append((newest_checkpoint(run), config))
        save(run, 900)

    def poll(self) -> int:
        return 0

    def kill(self) -> None: ...


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Played:
    played = Played()
    monkeypatch.setattr(on_ray, "connected", lambda *_: contextlib.nullcontext(played))
    monkeypatch.setattr(on_ray, "RunProcess", Run)
    monkeypatch.setattr(Run, "began", [])
    return played


def nodes(tmp_path: pathlib.Path) -> RayNodes:
    return RayNodes(ClusterConfig(), tmp_path / "sweep", 1, 0, str(tmp_path / "node"))


def job(tmp_path: pathlib.Path, config: RunConfig | None = None) -> Job:
    return Job("a", {}, 1, config or RunConfig(), tmp_path / "sweep" / "a-seed1")


@pytest.mark.parametrize(("here", "there", "newer"), [(500, 100, 500), (100, 500, 500)])
def test_a_node_goes_on_from_the_newer_checkpoint(
    ray: Played, tmp_path: pathlib.Path, here: int, there: int, newer: int
) -> None:
    place, mine = nodes(tmp_path), job(tmp_path)
    save(mine.path, here)
    place.start(mine)
    save(on_ray._folder_here(ray.errands[0]) / mine.path.name, there)
    mine.path.rename(tmp_path / "aside")  # no node sees it
    place.poll()
    ((checkpoint, _),) = Run.began
    assert checkpoint == f"ckpt-{newer:012d}"


def test_what_came_back_is_removed_from_the_node(ray: Played, tmp_path: pathlib.Path) -> None:
    place, mine = nodes(tmp_path), job(tmp_path)
    place.start(mine)
    (news,) = place.poll()
    assert news.exit_code == 0
    assert newest_checkpoint(mine.path) == "ckpt-000000000900"
    assert not list((tmp_path / "node").iterdir())
    assert place.poll() == []


def test_what_was_too_large_to_come_back_stays_on_the_node(
    ray: Played, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_ray, "packed", functools.partial(packed, largest=0))
    place, mine = nodes(tmp_path), job(tmp_path)
    place.start(mine)
    assert [news.exit_code for news in place.poll()] == [0]
    assert len(list((tmp_path / "node").glob("*/a-seed1/checkpoints/*"))) == 1


def test_a_sweep_of_the_same_name_is_another(ray: Played, tmp_path: pathlib.Path) -> None:
    nodes(tmp_path).start(job(tmp_path))
    nodes(tmp_path).start(job(tmp_path))  # goes on
    shutil.rmtree(tmp_path / "sweep")
    nodes(tmp_path).start(job(tmp_path))
    first, same, other = (errand.folder for errand in ray.errands)
    assert first == same != other


def test_the_reason_of_a_task_that_failed_is_told(
    ray: Played, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def get(report: on_ray.Report) -> None:
        raise RayError(PermissionError(13, "Permission denied", "/node"))

    monkeypatch.setattr(ray, "get", get)
    place = nodes(tmp_path)
    place.start(job(tmp_path))
    (news,) = place.poll()
    assert news.exit_code == LOST
    assert news.message == "[Errno 13] Permission denied: '/node'"


def test_code_of_the_user_is_sent_along(
    ray: Played, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(user_code.CARRIED, "")
    code = tmp_path / "mine_alone.py"
    code.write_text(
        "from torchbeast.algorithms import Impala\nclass Mine(Impala): ...\nmake = 'made'\n"
    )
    config = default_config(f"{code}:Mine")
    config = dataclasses.replace(config, env=EnvConfig(env=f"{code}:make"))
    place = nodes(tmp_path)
    place.start(job(tmp_path, config))
    code.unlink()  # no node has it
    del sys.modules[f"{user_code.FILE_PREFIX}mine_alone"]
    (news,) = place.poll()
    assert news.exit_code == 0
    ((_, found),) = Run.began
    assert found == config
    assert user_code.load(found.env.env) == "made"
