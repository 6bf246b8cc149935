"""Cores, GPUs, progress and the files of runs."""

from __future__ import annotations

import concurrent.futures
import io
import itertools
import math
import os
import pathlib
import shutil
import tarfile
import threading

import pytest

from torchbeast.envs.vector import Episode
from torchbeast.runners.checks import ConfigError
from torchbeast.runners.config import RunConfig
from torchbeast.runners.sweep import Job, cores, local
from torchbeast.runners.sweep.progress import Progress, is_finished, read_progress
from torchbeast.runners.sweep.travel import newest_checkpoint, packed, unpack
from torchbeast.tools.files import StorageError
from torchbeast.tools.logs import RunLog
from torchbeast.tools.run_directory import RunDirectory


def write(path: pathlib.Path, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)


def names(run: pathlib.Path) -> list[str]:
    return sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.is_file())


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "usable_cores", lambda: list(range(10)))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-7")


@pytest.mark.parametrize(
    ("cpus", "gpus", "expected"),
    [
        (4, 0, ["cores 0-3", "cores 4-7"]),
        (8, 1, ["cores 0-7, GPU 4"]),
        (3, 1, ["cores 0-2, GPU 4", "cores 3-5, GPU GPU-7"]),
        (1, 2, ["core 0, GPU 4 GPU-7"]),
        (3, 0.5, ["cores 0-2, GPU 4", "cores 3-5, GPU GPU-7", "cores 6-8, GPU 4"]),
    ],
)
def test_slots(machine: None, cpus: int, gpus: float, expected: list[str]) -> None:
    assert [str(slot) for slot in local.slots_of_machine(cpus, gpus)] == expected


def test_slots_that_the_machine_has_not(machine: None) -> None:
    with pytest.raises(ConfigError, match="--cpus_per_run of 1 to 10"):
        local.slots_of_machine(11, 0)
    with pytest.raises(ConfigError, match="--gpus_per_run of at most 2"):
        local.slots_of_machine(1, 3)


def test_a_run_that_cannot_start_takes_no_slot(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a-seed1"
    path.write_text("a file where the directory should be")
    place = local.LocalSlots([local.Slot((), ())])
    with pytest.raises(StorageError, match="a-seed1"):
        place.start(Job("a", {}, 1, RunConfig(), path))
    assert place.free()
    assert place.poll() == []


def test_a_core_is_claimed_once(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.setattr(cores.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(cores, "usable_cores", lambda: [0, 1, 2])
    with cores.claimed_cores(2) as mine:
        assert mine == [0, 1]
        with cores.claimed_cores(1) as others:
            assert others == [2]
        with cores.claimed_cores(2) as too_few:
            assert too_few == []
    with cores.claimed_cores(3) as all_of_them:
        assert cores.described(all_of_them) == "cores 0-2"
    assert cores.described([5, 0, 1]) == "cores 0-1 5"


def test_cores_are_those_of_the_process() -> None:
    assert sorted(cores.usable_cores()) == sorted(
        os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    )


def test_progress_is_read_from_the_end_of_the_log(tmp_path: pathlib.Path) -> None:
    run, config = tmp_path / "run", RunConfig()
    assert math.isnan(read_progress(run).mean_return)
    total = config.system.total_steps
    with RunDirectory(tmp_path, "run"):
        log = RunLog(run, tensorboard=False)
        for step in range(0, total + 1, total // 1000):  # more than is read
            log.log({"step": step, "mean_return_100": step / 10})
            log.episodes([Episode(0, 1.0, 5, False)], step)
        assert (run / "logs.csv").stat().st_size > 1 << 15
        found = read_progress(run)
        assert (found.steps, found.mean_return) == (total, total / 10)
        assert found.rate > 0
        assert not is_finished(run, config)  # it goes on
    assert not is_finished(run, config)  # there was no evaluation
    log.log({"step": total, "eval_return": 3.0})
    assert is_finished(run, config)
    log.close()
    with (run / "logs.csv").open("a") as file:
        file.write("half a li")
    assert is_finished(run, config)
    assert read_progress(tmp_path) == Progress() or math.isnan(read_progress(tmp_path).mean_return)


def test_a_run_travels(tmp_path: pathlib.Path) -> None:
    run, there = tmp_path / "run", tmp_path / "far" / "run"
    write(run / "checkpoints" / "ckpt-000000000012" / "rng.pt", 1000)
    write(run / "checkpoints" / ".tmp-0" / "half", 1)
    write(run / "logs.csv", 10)
    write(run / "run.lock", 10)
    write(there / "old", 10)
    data, whole = packed(run)
    assert whole
    unpack(data, there)
    assert names(there) == ["checkpoints/ckpt-000000000012/rng.pt", "logs.csv"]
    assert newest_checkpoint(there) == "ckpt-000000000012"
    assert [p.name for p in there.parent.iterdir()] == ["run"]


def test_of_a_large_run_the_replay_stays_and_then_the_checkpoints(tmp_path: pathlib.Path) -> None:
    run, there = tmp_path / "run", tmp_path / "far" / "run"
    new = "checkpoints/ckpt-000000000500/rng.pt"
    old = ["checkpoints/ckpt-000000000012/rng.pt", "replay-000000000012/ring.npy"]
    for name, size in [(new, 1000), ("replay-000000000500/ring.npy", 1000), ("logs.csv", 10)]:
        write(run / name, size)
    for name in [*old, "lost.csv"]:
        write(there / name, 1)
    data, whole = packed(run, largest=500)
    assert not whole
    unpack(data, there)
    assert names(there) == sorted([*old, "logs.csv"])  # what there is to go on from is kept
    data, whole = packed(run, largest=1500)
    assert not whole
    unpack(data, there)
    assert names(there) == [new, "logs.csv"]
    assert packed(run)[1]


def test_a_run_travels_while_it_replaces_checkpoints(tmp_path: pathlib.Path) -> None:
    over = threading.Event()
    write(tmp_path / "logs.csv", 10)

    def replace() -> None:
        for step in itertools.takewhile(lambda _: not over.is_set(), itertools.count()):
            checkpoint = tmp_path / "checkpoints" / f"ckpt-{step:012d}"
            for name in ("model.safetensors", "optim.pt", "rng.pt"):
                write(checkpoint / name, 10)
            shutil.rmtree(checkpoint)

    with concurrent.futures.ThreadPoolExecutor() as pool:
        replacing = pool.submit(replace)
        try:
            for _ in range(1000):
                packed(tmp_path)
        finally:
            over.set()
        replacing.result()


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside"])
def test_what_travels_stays_in_its_directory(tmp_path: pathlib.Path, name: str) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo(name)
        entry.size = 1
        tar.addfile(entry, io.BytesIO(b"x"))
    run = tmp_path / "in" / "run"
    run.mkdir(parents=True)
    (run / "kept").touch()
    if name.startswith("/"):
        unpack(buffer.getvalue(), run)  # made relative
        assert (run / "tmp" / "outside").is_file()
        return
    with pytest.raises(tarfile.TarError):
        unpack(buffer.getvalue(), run)
    assert (run / "kept").exists()
    assert not (tmp_path / "in" / "outside").exists()
