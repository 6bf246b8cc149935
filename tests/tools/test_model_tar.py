import argparse
import builtins
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from torchbeast.tools.checkpoint import CheckpointError, Snapshot, load, load_model_tar, save


def ancestors(path: Path, **parts) -> Path:
    """Writes what the ancestor's ``torch.save`` wrote."""
    tar = {
        "model_state_dict": {"w": torch.ones(2)},
        "optimizer_state_dict": {"state": {}, "param_groups": []},
        "scheduler_state_dict": {"last_epoch": 3},
        "flags": {"env": "Pong"},
    }
    torch.save(tar | parts, path)
    return path


def test_ours_has_the_ancestors_parts_and_is_only_data(tmp_path):
    flags = {"env": "Pong", "savedir": Path("~/logs")}
    state = {"scheduler": {"last_epoch": 7}}
    save(tmp_path, Snapshot(5, {"w": torch.ones(2)}, {"o": 1}, state, {}), flags)
    tar = torch.load(tmp_path / "model.tar", weights_only=True)
    assert set(tar) == {
        "model_state_dict",
        "optimizer_state_dict",
        "scheduler_state_dict",
        "flags",
        "stats",
    }
    assert tar["scheduler_state_dict"] == {"last_epoch": 7}
    assert tar["flags"] == {"env": "Pong", "savedir": "~/logs"}
    assert load(tmp_path / "model.tar").step == 5


def test_a_run_of_the_ancestor_loads(tmp_path):
    namespace = argparse.Namespace(env="Pong", lr=0.1, mode=None)
    ancestors(tmp_path / "model.tar", flags=namespace, stats={"step": 640})
    loaded = load(tmp_path)
    assert loaded.step == 640
    assert torch.equal(loaded.model["w"], torch.ones(2))
    assert load_model_tar(tmp_path / "model.tar")["flags"] == {
        "env": "Pong",
        "lr": 0.1,
        "mode": None,
    }


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.999])
def test_truncated(tmp_path, share):
    path = ancestors(tmp_path / "model.tar")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(CheckpointError, match=str(path)):
        load_model_tar(path)


def test_foreign(tmp_path):
    path = tmp_path / "model.tar"
    torch.save({"state_dict": {}}, path)
    with pytest.raises(CheckpointError, match="model_state_dict"):
        load_model_tar(path)
    path.write_bytes(b"hello")
    with pytest.raises(CheckpointError):
        load_model_tar(path)
    with pytest.raises(CheckpointError, match="No such file"):
        load_model_tar(tmp_path / "none.tar")
    with pytest.raises(CheckpointError, match="numpy"):  # PolyBeast's stats
        load_model_tar(ancestors(path, stats={"loss": np.float32(1)}))


class Reduced:
    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


def namespace_with_setstate(command: str) -> Reduced:
    """An attribute named __setstate__, so that building the namespace again would call it."""

    class Twice(Reduced):
        def __reduce__(self):
            return (argparse.Namespace, (), {"__setstate__": os.system, "command": command})

    return Twice(None)


def corpus(marker: Path) -> dict[str, object]:
    command = f"touch {marker}"
    opened = f"open({str(marker)!r}, 'w').close()"
    return {
        "system": Reduced(os.system, command),
        "eval": Reduced(eval, opened),
        "exec": Reduced(exec, opened),
        "getattr": Reduced(getattr, Reduced(__import__, "os"), "system"),
        "builtins": Reduced(builtins.__dict__["compile"], opened, "x", "exec"),
        "torch_load": Reduced(torch.load, str(marker)),
        "namespace": argparse.Namespace(x=Reduced(os.system, command)),
        "setstate": namespace_with_setstate(command),
        "lambda_default": Reduced(map, eval, [opened]),
    }


@pytest.mark.parametrize("kind", sorted(corpus(Path("x"))))
@pytest.mark.parametrize("form", ["zip", "legacy", "bare"])
def test_malicious_files_run_nothing(tmp_path, kind, form):
    marker = tmp_path / "marker"
    path = tmp_path / "model.tar"
    evil = corpus(marker)[kind]
    if form == "bare":
        path.write_bytes(pickle.dumps({"flags": evil}, protocol=2))
    else:
        torch.save({"flags": evil}, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(CheckpointError):
        load_model_tar(path)
    assert not marker.exists()


def test_malicious_checkpoint_with_a_good_manifest_runs_nothing(tmp_path, monkeypatch):
    from torchbeast.tools import archive

    marker = tmp_path / "marker"
    for part in ("optim", "rng"):
        evil = Snapshot(1, {"w": torch.ones(1)}, {}, {}, {})._replace(
            **{part: {"x": Reduced(os.system, f"touch {marker}")}}
        )
        monkeypatch.setattr(archive, "plain", lambda tree, *args, **kwargs: tree)
        files = archive.pack(evil._asdict(), {})
        monkeypatch.undo()
        path = tmp_path / "checkpoints" / "ckpt-000000000001"
        path.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            (path / name).write_bytes(data)
        with pytest.raises(CheckpointError, match="trust"):
            load(tmp_path)
        assert not marker.exists()


def test_safetensors_header_bomb(tmp_path):
    from torchbeast.tools import archive

    fields = Snapshot(1, {"w": torch.ones(1)}, {}, {}, {})._asdict()
    real = archive.safetensors.torch.save
    bomb = (2**63 - 1).to_bytes(8, "little") + b"{" * 100
    try:
        archive.safetensors.torch.save = lambda *_: bomb
        files = archive.pack(fields, {})
    finally:
        archive.safetensors.torch.save = real
    path = tmp_path / "ckpt-000000000001"
    path.mkdir()
    for name, data in files.items():
        (path / name).write_bytes(data)
    with pytest.raises(CheckpointError):
        load(path)


def test_the_switch_that_lets_files_run_code_is_refused(tmp_path, monkeypatch):
    save(tmp_path, Snapshot(1, {"w": torch.ones(1)}, {}, {}, {}), {})
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    for path in (tmp_path, tmp_path / "model.tar"):
        with pytest.raises(CheckpointError, match="unset TORCH_FORCE"):
            load(path)


def test_files_are_zips_that_old_torch_reads(tmp_path):
    save(tmp_path, Snapshot(1, {"w": torch.ones(1)}, {}, {}, {}), {})
    assert zipfile.is_zipfile(tmp_path / "model.tar")
