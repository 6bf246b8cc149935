"""Cores, GPUs, progress and the files of runs."""

from __future__ import annotations

import io
import math
import os
import pathlib
import tarfile

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
    (run / "checkpoints" / "ckpt-000000000012").mkdir(parents=True)
    (run / "checkpoints" / "ckpt-000000000012" / "rng.pt").write_bytes(b"x" * 1000)
    (run / "checkpoints" / ".tmp-0").mkdir()
    (run / "checkpoints" / ".tmp-0" / "half").write_bytes(b"")
    (run / "logs.csv").write_text("a\n")
    (run / "run.lock").write_text("mine")
    data = packed(run)
    there.mkdir(parents=True)
    (there / "old").write_text("gone")
    unpack(data, there)
    assert sorted(str(p.relative_to(there)) for p in there.rglob("*") if p.is_file()) == [
        *["checkpoints/ckpt-000000000012/rng.pt", "logs.csv"]
    ]
    assert newest_checkpoint(there) == "ckpt-000000000012"
    assert [p.name for p in there.parent.iterdir()] == ["run"]
    unpack(packed(run, largest=500), there)
    assert newest_checkpoint(there) == ""
    assert (there / "logs.csv").read_text() == "a\n"


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
