"""The replay beside the checkpoints of a run: ``<run>/replay-000000012345/``, when asked for."""

from __future__ import annotations

import shutil
from pathlib import Path

from torchbeast.data.buffer import Buffer
from torchbeast.data.replay import Replay, ReplayMismatch
from torchbeast.runners.config import RunConfig
from torchbeast.tools.archive import CheckpointError
from torchbeast.tools.files import StorageError


class ReplayCheckpoint:
    """Saves and restores what a buffer keeps; does nothing for a queue, which keeps nothing.

    A checkpoint of step N belongs to ``replay-N``: it is written first, and those of other steps
    are removed only when the checkpoint is on disk.
    """

    def __init__(self, run: Path, buffer: Buffer, config: RunConfig) -> None:
        self._run = run
        self._replay = buffer if isinstance(buffer, Replay) else None
        self._wanted = config.output.checkpoint_replay
        self.whole = self._replay is None  # nothing was lost between save and restore

    def save(self, step: int) -> None:
        """Writes the replay, if there is one and it is wanted.

        Raises:
            StorageError: the disk does not take it; what was saved before is untouched.
        """
        if self._replay is None or not self._wanted:
            return
        try:
            self._replay.save(self._folder(step))
        except OSError as error:
            raise StorageError(
                f"expected room for the replay in {self._run}, got: {error}; make room, or leave "
                f"--checkpoint_replay out"
            ) from error

    def restore(self, step: int) -> None:
        """Takes back the replay of a checkpoint, if it was saved and is wanted.

        Raises:
            CheckpointError: it is damaged, or of other environments or another size.
        """
        folder = self._folder(step)
        if self._replay is None or not self._wanted or not folder.is_dir():
            return
        try:
            self._replay.restore(folder)
        except ReplayMismatch as error:
            raise CheckpointError(
                f"{folder} does not fit this run: {error}; remove it to begin with an empty replay"
            ) from error
        self.whole = True

    def forget_others(self, step: int) -> None:
        """Removes replays of other checkpoints, which take much room."""
        if self._replay is None:
            return
        # Also what a kill left half written, which begins with a dot.
        for pattern in ("replay-*", ".replay-*"):
            for folder in self._run.glob(pattern):
                if folder != self._folder(step):
                    shutil.rmtree(folder, ignore_errors=True)

    def _folder(self, step: int) -> Path:
        return self._run / f"replay-{step:012d}"
