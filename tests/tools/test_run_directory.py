import argparse
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from torchbeast.tools import provenance, run_directory
from torchbeast.tools.checkpoint import Snapshot, capture_rng, save
from torchbeast.tools.files import StorageError, write_atomically
from torchbeast.tools.logs import RunLog
from torchbeast.tools.run_directory import (
    RunDirectory,
    RunLocked,
    find_run,
    list_runs,
    read_meta,
)


def test_files_of_a_run(tmp_path):
    args = argparse.Namespace(env="Pong", savedir=Path("x"), lr=0.1)
    run = RunDirectory(tmp_path / "logs", "one", args)
    meta = read_meta(run.path)
    assert meta["args"] == {"env": "Pong", "savedir": "x", "lr": 0.1}
    assert (meta["xpid"], meta["date_end"], meta["successful"]) == ("one", None, False)
    assert set(meta["versions"]) == {"python", "torch", "numpy", "gymnasium", "torchbeast"}
    assert meta["hardware"]["cpu_count"] == os.cpu_count()
    assert "env" not in meta
    logging.getLogger("torchbeast").info("hello out.log")
    run.close(successful=True)
    logging.getLogger("torchbeast").info("after the end")
    meta = read_meta(run.path)
    assert meta["successful"]
    assert meta["date_end"] >= meta["date_start"]
    text = (run.path / "out.log").read_text()
    assert "hello out.log" in text
    assert "after the end" not in text
    assert not [h for h in logging.getLogger("torchbeast").handlers if "out.log" in str(h)]


def test_home_and_variables_are_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PLACE", "here")
    with RunDirectory("~/$PLACE", "x") as run:
        assert run.path == tmp_path / "here" / "x"


def test_default_names_differ_within_a_second(tmp_path):
    runs = [RunDirectory(tmp_path) for _ in range(3)]
    assert len({run.xpid for run in runs}) == 3
    assert all(run.xpid.startswith("torchbeast-2") for run in runs)
    for run in runs:
        run.close(True)


def test_an_error_is_not_a_success_and_a_resume_keeps_the_start(tmp_path, monkeypatch):
    with pytest.raises(KeyError), RunDirectory(tmp_path, "x"):
        raise KeyError
    assert read_meta(tmp_path / "x")["successful"] is False
    assert read_meta(tmp_path / "x")["date_end"] is not None
    start = read_meta(tmp_path / "x")["date_start"]
    monkeypatch.setattr(run_directory, "_now", lambda: "later")
    with RunDirectory(tmp_path, "x", {"lr": 2}):
        meta = read_meta(tmp_path / "x")
        assert (meta["date_start"], meta["resumed"], meta["date_end"]) == (start, ["later"], None)
        assert meta["args"] == {"lr": 2}


HOLDER = """
import sys, time
from torchbeast.tools.run_directory import RunDirectory, RunLocked
try:
    run = RunDirectory(sys.argv[1], "x", {"who": sys.argv[2]})
except RunLocked as error:
    print("locked", error); sys.exit(6)
print("holds", flush=True); sys.stdin.read()
"""


def start(tmp_path, who: str) -> subprocess.Popen:
    root = str(Path(__file__).parents[2])
    return subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path), who],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": root},
    )


def test_two_processes_one_directory(tmp_path):
    first = start(tmp_path, "first")
    assert first.stdout.readline() == "holds\n"
    before = {p.name: p.read_bytes() for p in (tmp_path / "x").iterdir()}
    second = start(tmp_path, "second")
    said, _ = second.communicate(timeout=60)
    assert second.returncode == 6
    assert f"pid {first.pid} on " in said
    with pytest.raises(RunLocked, match=f"pid {first.pid} "):
        RunDirectory(tmp_path, "x")
    assert {p.name: p.read_bytes() for p in (tmp_path / "x").iterdir()} == before
    first.kill()  # a killed holder leaves no lock behind
    first.communicate()
    RunDirectory(tmp_path, "x").close(True)


def test_latest_points_to_the_newest(tmp_path):
    for name in ("a", "b"):
        RunDirectory(tmp_path, name).close(True)
    assert os.readlink(tmp_path / "latest") == "b"
    assert find_run(tmp_path, "latest") == tmp_path / "b"
    assert not [p for p in tmp_path.iterdir() if "tmp" in p.name]


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_a_real_file_named_latest_is_left_alone(tmp_path, kind):
    latest = tmp_path / "latest"
    latest.write_text("mine") if kind == "file" else latest.mkdir()
    RunDirectory(tmp_path, "a").close(True)
    assert not latest.is_symlink()
    assert kind == "directory" or latest.read_text() == "mine"


def test_no_environment_variable_gets_into_the_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "s3cret-value-1")
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    monkeypatch.setenv("SLURM_CONF_PASSWORD", "s3cret-value-2")
    argv = ["train", "--token", "s3cret-value-3", "--api-key=s3cret-value-4", "--env", "Pong"]
    monkeypatch.setattr(sys, "argv", argv)
    args = {"hub": {"token": "s3cret-value-5"}, "token_file": "", "env": "Pong"}
    with RunDirectory(tmp_path, "x", args) as run:
        save(run.path, Snapshot(1, {"w": torch.ones(1)}, {}, {}, capture_rng()), args)
        RunLog(run.path).log({"step": 1})
    written = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert {"meta.json", "out.log", "model.tar", "MANIFEST.json"} < {p.name for p in written}
    for path in written:
        assert b"s3cret" not in path.read_bytes(), path
    meta = read_meta(tmp_path / "x")
    assert meta["slurm"] == {"job_id": "77", "restart_count": "2"}
    assert meta["argv"] == [
        "train",
        "--token",
        "(hidden)",
        "--api-key=(hidden)",
        "--env",
        "Pong",
    ]
    assert meta["args"] == {"hub": {"token": "(hidden)"}, "token_file": "", "env": "Pong"}


def test_git_state(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance.describe_run({})["git"] is None
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "f").write_text("1")
    for words in (["init", "-q", "-b", "trunk"], ["add", "f"], ["commit", "-q", "-m", "x"]):
        subprocess.run([*git, *words], check=True)
    state = provenance.describe_run({})["git"]
    assert len(state["commit"]) == 40
    assert (state["branch"], state["is_dirty"], state["path"]) == ("trunk", False, str(tmp_path))
    (tmp_path / "f").write_text("2")
    assert provenance.describe_run({})["git"]["is_dirty"]


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", "latest"])
def test_names_that_are_none(tmp_path, name):
    with pytest.raises(ValueError, match="xpid"):
        RunDirectory(tmp_path, name)


def test_find_run_names_the_nearest(tmp_path):
    with pytest.raises(ValueError, match="there are no runs"):
        find_run(tmp_path, "latest")
    for name in ("pong-1", "pong-2", "breakout"):
        RunDirectory(tmp_path, name).close(True)
    assert find_run(tmp_path, "pong-2") == tmp_path / "pong-2"
    assert find_run("/nowhere", str(tmp_path / "pong-2")) == tmp_path / "pong-2"
    with pytest.raises(ValueError, match=rf"{tmp_path}.*'pong-3' \(nearest: pong-[12], pong-[12]"):
        find_run(tmp_path, "pong-3")


def test_list_runs_by_date(tmp_path):
    assert list_runs(tmp_path / "none") == []
    for name, date in (("b", "2026-01-01"), ("a", "2026-01-02"), ("c", "2025-01-01")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "meta.json").write_text(json.dumps({"date_start": date}))
    (tmp_path / "stranger").mkdir()
    (tmp_path / "latest").symlink_to("a")
    assert [p.name for p in list_runs(tmp_path)] == ["c", "b", "a"]


def test_a_place_that_cannot_be_written_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="--savedir"):
        RunDirectory(tmp_path / "file", "x")


def test_a_failed_start_lets_the_directory_go(tmp_path, monkeypatch):
    with pytest.raises(TypeError, match="args"):
        RunDirectory(tmp_path, "x", {"model": object()})
    RunDirectory(tmp_path, "x").close(True)


def test_write_atomically_keeps_the_old_file_on_a_full_disk(tmp_path, monkeypatch):
    path = tmp_path / "f"
    write_atomically(path, b"old")

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]
