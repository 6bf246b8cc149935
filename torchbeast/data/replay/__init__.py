"""The replay of off-policy learning, put together from storage, window, selection and pacing."""

from torchbeast.data.replay.archive import ReplayMismatch
from torchbeast.data.replay.frame_stack import FrameStack, stacked
from torchbeast.data.replay.pacing import Pacing
from torchbeast.data.replay.replay import Replay
from torchbeast.data.replay.ring import Ring
from torchbeast.data.replay.selection import Prioritized, Uniform
from torchbeast.data.replay.windows import Sequences, Transitions

__all__ = [
    "FrameStack",
    "Pacing",
    "Prioritized",
    "Replay",
    "ReplayMismatch",
    "Ring",
    "Sequences",
    "Transitions",
    "Uniform",
    "stacked",
]
