import json
import logging
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from torchbeast.tools import archive, checkpoint, files
from torchbeast.tools.checkpoint import (
    CheckpointError,
    Snapshot,
    StorageError,
    capture_rng,
    load,
    restore_rng,
    save,
)

FLAGS = {"learning_rate": 0.1, "env": "Counting"}


def snapshot(step: int) -> Snapshot:
    model = {"w": torch.full((4, 3), float(step)), "n": torch.tensor(step)}
    optim = {
        "optimizer": {"state": {0: {"m": torch.full((3,), 2.0 * step)}}, "lr": np.float64(0.5)}
    }
    return Snapshot(step, model, optim, {"steps": step, "mean": float("nan")}, capture_rng())


def run_with(path: Path, *steps: int) -> Path:
    for step in steps:
        save(path, snapshot(step), FLAGS)
    return path


def check(loaded: Snapshot, step: int) -> None:
    assert loaded.step == step
    assert torch.equal(loaded.model["w"], torch.full((4, 3), float(step)))
    assert torch.equal(loaded.optim["optimizer"]["state"][0]["m"], torch.full((3,), 2.0 * step))
    assert loaded.state["steps"] == step


def newest(run: Path) -> Path:
    return max((run / "checkpoints").glob("ckpt-*"))


def test_layout_and_round_trip(tmp_path):
    path = save(tmp_path, snapshot(12345)._replace(env={"ale": b"\0\1", "x": [1]}), FLAGS)
    assert path == tmp_path / "checkpoints" / "ckpt-000000012345"
    names = {"model.safetensors", "optim.pt", "state.json", "rng.pt", "env.pt", "MANIFEST.json"}
    assert {p.name for p in path.iterdir()} == names
    loaded = load(tmp_path)
    check(loaded, 12345)
    assert loaded.env == {"ale": b"\0\1", "x": [1]}
    assert loaded.optim["optimizer"]["lr"] == 0.5
    assert np.isnan(loaded.state["mean"])
    manifest = checkpoint.read_manifest(path)
    assert manifest["step"] == 12345
    assert manifest["config_hash"] == archive.config_hash(dict(reversed(FLAGS.items())))
    assert manifest["config_hash"] != archive.config_hash(FLAGS | {"learning_rate": 0.2})


def test_keeps_the_newest_and_the_best(tmp_path):
    for step, score in [(1, 0.0), (2, 9.0), (3, 1.0), (4, float("nan")), (5, None), (6, 8.9)]:
        save(tmp_path, snapshot(step), FLAGS, keep=2, score=score)
    kept = sorted(int(p.name[5:]) for p in (tmp_path / "checkpoints").glob("ckpt-*"))
    assert kept == [2, 5, 6]
    check(load(checkpoint.best(tmp_path)), 2)


def test_saving_a_step_again_replaces_it(tmp_path):
    run_with(tmp_path, 1, 2)
    (newest(tmp_path) / "optim.pt").write_bytes(b"broken")
    run_with(tmp_path, 2)
    check(load(tmp_path), 2)
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2


def test_a_past_that_was_abandoned_does_not_come_back(tmp_path):
    run_with(tmp_path, 10, 20, 30)
    run_with(tmp_path, 15)  # went on from 10
    check(load(tmp_path), 15)


def test_order_is_by_step_not_by_clock(tmp_path):
    run_with(tmp_path, 999999999999, 1000000000000)
    os.utime(newest(tmp_path), (0, 0))
    check(load(tmp_path), 1000000000000)


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    run_with(tmp_path, 1)
    bad = snapshot(2)
    bad.model["w"][1, 2] = float("inf")
    with pytest.raises(CheckpointError, match="'w'"):
        save(tmp_path, bad, FLAGS)
    check(load(tmp_path), 1)


def test_nothing_there_is_an_error_and_asked_for_first(tmp_path):
    assert not checkpoint.has_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        load(tmp_path)
    run_with(tmp_path, 1)
    assert checkpoint.has_checkpoint(tmp_path)


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.999])
@pytest.mark.parametrize("name", ["model.safetensors", "optim.pt", "state.json", "MANIFEST.json"])
def test_truncated_falls_back_and_says_what_is_lost(tmp_path, caplog, name, share):
    run_with(tmp_path, 100, 160)
    file = newest(tmp_path) / name
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * share)])
    with caplog.at_level(logging.WARNING, "torchbeast"):
        check(load(tmp_path), 100)
    assert "60 steps are lost" in caplog.text
    assert name in caplog.text


def test_flipped_bytes_never_load(tmp_path):
    run_with(tmp_path, 1, 2)
    path = newest(tmp_path)
    generator = random.Random(0)
    for _ in range(50):
        file = generator.choice(sorted(path.iterdir()))
        good = file.read_bytes()
        bad = bytearray(good)
        bad[generator.randrange(len(bad))] ^= 1 << generator.randrange(8)
        file.write_bytes(bad)
        with pytest.raises(CheckpointError):
            load(path)
        check(load(tmp_path), 1)
        file.write_bytes(good)
    check(load(tmp_path), 2)


def test_deleted_and_swapped_files(tmp_path):
    run_with(tmp_path, 1, 2)
    path = newest(tmp_path)
    (path / "rng.pt").rename(path / "aside")
    check(load(tmp_path), 1)
    (path / "optim.pt").rename(path / "rng.pt")
    (path / "aside").rename(path / "optim.pt")
    check(load(tmp_path), 1)
    shutil.rmtree(path)
    shutil.copytree(newest(tmp_path), path)  # a good one under the name of another step
    check(load(tmp_path), 1)


def test_none_good_is_an_error_with_every_reason(tmp_path):
    run_with(tmp_path, 1, 2)
    for path in (tmp_path / "checkpoints").glob("ckpt-*"):
        (path / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"ckpt-0+2.*ckpt-0+1.*model\.tar"):
        load(tmp_path)
    with pytest.raises(CheckpointError, match="damaged"):
        load(newest(tmp_path))


def test_a_newer_format_is_refused_not_skipped(tmp_path, monkeypatch):
    run_with(tmp_path, 1)
    monkeypatch.setattr(archive, "FORMAT_VERSION", 2)
    run_with(tmp_path, 2)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="format 2"):
        load(tmp_path)


def test_leftovers_are_ignored_and_cleaned(tmp_path):
    run_with(tmp_path, 1)
    root = tmp_path / "checkpoints"
    shutil.copytree(newest(tmp_path), root / (".tmp-" + "a" * 32))
    shutil.copytree(newest(tmp_path), root / "ckpt-copy")
    shutil.copytree(newest(tmp_path), root / "ckpt-000000000009.bak")
    check(load(tmp_path), 1)
    run_with(tmp_path, 2)
    names = {p.name for p in root.iterdir()}
    assert names == {
        "ckpt-000000000001",
        "ckpt-000000000002",
        "ckpt-copy",  # not ours to remove
        "ckpt-000000000009.bak",
    }


def no_space(*args, **kwargs):
    raise OSError(28, "No space left on device")


def no_space_for_new_files(path, flags, *args, real=os.open, **kwargs):
    return no_space() if flags & os.O_CREAT else real(path, flags, *args, **kwargs)


@pytest.mark.parametrize("call", ["write", "fsync", "rename", "replace", "open"])
def test_full_disk_leaves_the_old_one(tmp_path, monkeypatch, call):
    run_with(tmp_path, 1)
    tar = (tmp_path / "model.tar").read_bytes()
    monkeypatch.setattr(files.os, call, no_space_for_new_files if call == "open" else no_space)
    with pytest.raises(StorageError, match="No space left"):
        save(tmp_path, snapshot(2), FLAGS)
    monkeypatch.undo()
    check(load(newest(tmp_path)), 2 if call == "replace" else 1)  # replace: only model.tar failed
    assert (tmp_path / "model.tar").read_bytes() == tar
    assert not list(tmp_path.rglob("*tmp*"))
    run_with(tmp_path, 3)
    check(load(tmp_path), 3)


def test_full_disk_by_the_kernel(tmp_path):
    """RLIMIT_FSIZE: the kernel takes half of a file and then refuses."""
    code = f"""
import resource, signal, sys, torch
from pathlib import Path
from torchbeast.tools.checkpoint import Snapshot, StorageError, load, save
run = Path({str(tmp_path)!r})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
make = lambda step, n: Snapshot(step, {{"w": torch.full((n,), float(step))}}, {{}}, {{}}, {{}})
save(run, make(1, 10), {{}})
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
try:
    save(run, make(2, 100_000), {{}})
except StorageError as error:
    print("refused", [p.name for p in (run / "checkpoints").iterdir()], load(run).step)
"""
    done = python(code)
    assert done.stdout.strip() == "refused ['ckpt-000000000001'] 1", done.stderr


KILLER = """
import json, os, random, signal, sys, time, torch
from pathlib import Path
from torchbeast.tools import checkpoint
from torchbeast.tools.checkpoint import Snapshot, load, save
torch.set_num_threads(1)
run = Path(sys.argv[1])

def make(step):
    weights = torch.full((20000,), float(step))
    return Snapshot(step, {"w": weights}, {"m": weights * 2}, {"steps": step}, {"r": step})

def whole(allowed):
    s = load(run)
    assert s.step in allowed, (s.step, allowed)
    assert bool((s.model["w"] == s.step).all()) and bool((s.optim["m"] == 2 * s.step).all())
    assert s.state == {"steps": s.step} and s.rng == {"r": s.step}
    tar = checkpoint.load_model_tar(run / "model.tar")
    assert bool((tar["model_state_dict"]["w"] == tar["stats"]["step"]).all())
    return s.step

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def killed_at(point, steps):
    count = 0
    def counted(call):
        def wrapped(*args, **kwargs):
            nonlocal count
            count += 1
            if count == point:  # before the call
                die()
            result = call(*args, **kwargs)
            count += 1
            if count == point:  # after it
                die()
            return result
        return wrapped
    pid = os.fork()
    if pid == 0:
        for name in ("open", "write", "fsync", "rename", "replace", "mkdir", "rmdir", "unlink"):
            setattr(os, name, counted(getattr(os, name)))
        for step in steps:
            save(run, make(step), {}, keep=1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

save(run, make(1), {})
points = {}
for again in (False, True):
    step, point, code = load(run).step, 1, -9
    while code:
        target = step if again else step + 1
        code = killed_at(point, [target])
        assert code in (0, -9), code
        step = whole({step, target})
        point += 1
    points[str(again)] = point
kills = 0
generator = random.Random(1)
for _ in range(20):
    before = load(run).step
    pid = os.fork()
    if pid == 0:
        for step in range(before + 1, before + 10**6):
            save(run, make(step), {})
    time.sleep(generator.uniform(0.002, 0.06))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    whole(range(before, before + 10**6))
    kills += 1
save(run, make(10**7), {})
left = sorted(p.name for p in run.rglob("*") if "tmp" in p.name or "old" in p.name)
print(json.dumps({"points": points, "kills": kills, "left": left}))
"""


def python(code: str, *args: str, **environment: str) -> subprocess.CompletedProcess:
    root = str(Path(__file__).parents[2])
    return subprocess.run(
        [sys.executable, "-c", code, *args],
        capture_output=True,
        text=True,
        timeout=110,
        env=os.environ | {"PYTHONPATH": root} | environment,
        check=False,
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked children")
def test_killed_at_every_point_of_a_write(tmp_path):
    done = python(KILLER, str(tmp_path))
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["points"]["False"] > 20
    assert report["points"]["True"] > 20
    assert report["kills"] == 20
    assert report["left"] == []


def test_random_generators_go_on_where_they_were():
    state = capture_rng()
    first = (random.random(), np.random.rand(), torch.rand(1).item(), random.gauss(0, 1))
    restore_rng(archive.from_torch_bytes(archive.torch_bytes(checkpoint.plain(state))))
    assert (random.random(), np.random.rand(), torch.rand(1).item(), random.gauss(0, 1)) == first
