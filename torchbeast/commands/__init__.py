"""The commands of `torchbeast`, one file for each subject."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torchbeast.commands.bench import bench
from torchbeast.commands.evaluate import evaluate, play
from torchbeast.commands.serve import serve
from torchbeast.commands.show import list_, plot
from torchbeast.commands.sweep import sweep
from torchbeast.commands.train import resume, train

COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "train": train,
    "resume": resume,
    "sweep": sweep,
    "eval": evaluate,
    "play": play,
    "plot": plot,
    "bench": bench,
    "serve": serve,
    "list": list_,
}
