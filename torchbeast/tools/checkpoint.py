"""Checkpoints: written whole or not at all, verified before anything is loaded.

<run>/checkpoints/ckpt-000000012345/    model.safetensors  optim.pt  state.json  rng.pt
                                        env.pt (where environments can say their state)
                                        MANIFEST.json: sizes and SHA-256, written last
<run>/checkpoints/best.json             step and score of the best one, which is kept
<run>/model.tar                         the newest, in the ancestor's format
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchbeast.tools.archive import (
    CheckpointError,
    NewerFormat,
    pack,
    read_manifest,
    unpack,
)
from torchbeast.tools.files import (
    StorageError,
    sync_directory,
    write_atomically,
    write_durably,
)
from torchbeast.tools.model_tar import load_model_tar, model_tar_bytes
from torchbeast.tools.provenance import without_secrets
from torchbeast.tools.state import capture_rng, plain, restore_rng

__all__ = [
    "CheckpointError",
    "Snapshot",
    "StorageError",
    "capture_rng",
    "has_checkpoint",
    "load",
    "load_model_tar",
    "plain",
    "read_manifest",
    "restore_rng",
    "save",
]

_NAME = re.compile(r"ckpt-(\d{12,})")
_LEFTOVER = re.compile(r"\.tmp-[0-9a-f]{32}")
_OLD = ".old-"  # before the name of one that is being replaced
_log = logging.getLogger("torchbeast")


class Snapshot(NamedTuple):
    """All that a run needs to go on."""

    step: int
    model: dict[str, Tensor]
    optim: dict[str, Any]  # state of the optimizers; tensors and numbers
    state: dict[str, Any]  # counters and statistics; must fit into JSON
    rng: dict[str, Any]  # from ``capture_rng``; {} if unknown
    env: dict[str, Any] | None = None  # from ``VectorEnv.snapshot``


def save(
    run: Path,
    snapshot: Snapshot,
    flags: dict[str, Any],
    keep: int = 3,
    score: float | None = None,
) -> Path:
    """Returns the directory of the new checkpoint of ``run``; ``model.tar`` is replaced too.

    The newest ``keep`` stay, and the one with the best ``score``. Checkpoints of later steps are
    removed: they belong to a past that was abandoned by going back.

    Raises:
        CheckpointError: the weights are not finite; nothing is written.
        StorageError: the disk did not take it; what was there is untouched.
    """
    _check_finite(snapshot)
    flags = without_secrets(plain(flags, arrays_to_lists=True, where="flags"))
    root = run / "checkpoints"
    files = pack(snapshot._asdict(), flags)
    size = sum(map(len, files.values()))
    scheduler = snapshot.state.get("scheduler", {})
    try:
        root.mkdir(parents=True, exist_ok=True)
        _clean(root)
        path = _publish(root, snapshot.step, files)
        _mark_best(root, snapshot.step, score)
        _prune(root, snapshot.step, keep)
        files.clear()  # one of the two in memory is enough
        tar = model_tar_bytes(snapshot.step, snapshot.model, snapshot.optim, scheduler, flags)
        write_atomically(run / "model.tar", tar)
    except OSError as error:
        raise StorageError(
            f"expected room for a checkpoint of {size / 1e6:.1f} MB in "
            f"{root}, got: {error}; the one before is untouched; make room"
        ) from error
    return path


def load(path: Path) -> Snapshot:
    """Returns the newest good checkpoint of a run (or that of a ``ckpt-...``, or a model.tar).

    Where the newest is damaged the one before it is taken, with a warning.

    Raises:
        CheckpointError: there is none that is whole; never a silent start from scratch.
    """
    if path.is_file():
        return Snapshot(**load_model_tar_snapshot(path))
    if _NAME.fullmatch(path.name):
        return Snapshot(**unpack(path, _step_of(path)))
    reasons: list[str] = []
    for candidate in _candidates(path / "checkpoints"):
        try:
            snapshot = Snapshot(**unpack(candidate, _step_of(candidate)))
        except NewerFormat:
            raise  # an older one would be a silent loss
        except CheckpointError as error:
            reasons.append(str(error))
            continue
        if reasons:
            newest = _step_of(_candidates(path / "checkpoints")[0])
            _log.warning(
                "going back to step %d, %d steps are lost: %s",
                snapshot.step,
                newest - snapshot.step,
                "; ".join(reasons),
            )
        return snapshot
    tar = path / "model.tar"
    if not reasons and tar.is_file():
        return Snapshot(**load_model_tar_snapshot(tar))
    if reasons:
        hint = f"; {tar} may hold the weights" if tar.is_file() else ""
        raise CheckpointError(f"no checkpoint in {path} is whole: {'; '.join(reasons)}{hint}")
    raise CheckpointError(f"expected a checkpoint in {path}, got none; is it the run you mean?")


def has_checkpoint(run: Path) -> bool:
    """Returns whether ``run`` has a checkpoint, be it damaged: then it must not begin anew."""
    return bool(_candidates(run / "checkpoints")) or (run / "model.tar").is_file()


def best(run: Path) -> Path | None:
    """Returns the checkpoint with the best score, None if no score was ever given."""
    marked = _read_best(run / "checkpoints")
    return None if marked is None else run / "checkpoints" / _name(marked[0])


def load_model_tar_snapshot(path: Path) -> dict[str, Any]:
    """Returns the fields of a Snapshot from a ``model.tar``, ours or the ancestor's."""
    tar = load_model_tar(path)
    stats = tar.get("stats") or {}
    return {
        "step": int(stats.get("step", 0)),
        "model": tar["model_state_dict"],
        "optim": tar["optimizer_state_dict"],
        "state": {"scheduler": tar["scheduler_state_dict"], "stats": stats},
        "rng": {},
    }


def _check_finite(snapshot: Snapshot) -> None:
    for name, tensor in snapshot.model.items():
        if not isinstance(tensor, Tensor):
            raise CheckpointError(
                f"expected tensors in the model's state, got {type(tensor).__name__} in '{name}'"
            )
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(
                f"expected finite weights at step {snapshot.step}, got some that are not in "
                f"'{name}'; they are not saved; go back to the checkpoint before"
            )


def _publish(root: Path, step: int, files: Mapping[str, bytes | memoryview]) -> Path:
    """Returns the finished checkpoint: written aside, waited for, then named."""
    temporary = root / f".tmp-{uuid.uuid4().hex}"
    final = root / _name(step)
    try:
        temporary.mkdir()
        for name, data in files.items():  # the manifest is the last
            write_durably(temporary / name, data)
        sync_directory(temporary)
        if final.exists():  # saved before at this step, or damaged: aside until the new one is in
            os.rename(final, root / (_OLD + final.name))
        os.rename(temporary, final)
        sync_directory(root)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        _clean(root)
        raise
    _clean(root)
    return final


def _clean(root: Path) -> None:
    """Removes what kills left half-done, and finishes a replacement that one interrupted."""
    for path in root.iterdir():
        if _LEFTOVER.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)
        elif path.name.startswith(_OLD) and _NAME.fullmatch(path.name.removeprefix(_OLD)):
            replaced = root / path.name.removeprefix(_OLD)
            if replaced.exists():
                shutil.rmtree(path, ignore_errors=True)
            else:
                os.rename(path, replaced)


def _candidates(root: Path) -> list[Path]:
    """Returns the checkpoints, newest step first, never by date; one put aside stands in."""
    if not root.is_dir():
        return []
    paths = {p.name: p for p in root.iterdir() if p.is_dir()}
    found = [
        path
        for name, path in paths.items()
        if _NAME.fullmatch(name)
        or (_NAME.fullmatch(name.removeprefix(_OLD)) and name.removeprefix(_OLD) not in paths)
    ]
    return sorted(found, key=_step_of, reverse=True)


def _mark_best(root: Path, step: int, score: float | None) -> None:
    if score is None or not math.isfinite(score):
        return
    marked = _read_best(root)
    if marked is None or marked[0] > step or score > marked[1]:
        text = json.dumps({"step": step, "score": float(score)}) + "\n"
        write_atomically(root / "best.json", text.encode())


def _read_best(root: Path) -> tuple[int, float] | None:
    try:
        marked = json.loads((root / "best.json").read_text())
        step, score = int(marked["step"]), float(marked["score"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return (step, score) if (root / _name(step)).is_dir() else None


def _prune(root: Path, step: int, keep: int) -> None:
    """Removes all but the newest ``keep`` up to ``step``, and the best."""
    marked = _read_best(root)
    earlier = [path for path in _candidates(root) if _step_of(path) <= step]
    kept = {path.name for path in earlier[: max(keep, 1)]}
    if marked is not None and marked[0] <= step:
        kept.add(_name(marked[0]))
    for path in _candidates(root):
        if path.name in kept:
            continue
        if _step_of(path) > step:
            _log.warning("removed %s: the run went on from an earlier step", path)
        # First out of its name, so that a kill leaves no half checkpoint under it.
        aside = root / f".tmp-{uuid.uuid4().hex}"
        os.rename(path, aside)
        shutil.rmtree(aside, ignore_errors=True)


def _name(step: int) -> str:
    return f"ckpt-{step:012d}"


def _step_of(path: Path) -> int:
    match = _NAME.fullmatch(path.name.removeprefix(_OLD))
    assert match is not None
    return int(match.group(1))
