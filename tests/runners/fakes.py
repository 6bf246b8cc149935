"""A counting environment and an algorithm whose rollouts can be checked row by row.

At the top level of an importable module, because actor processes unpickle them by name.
"""

from __future__ import annotations

import functools
import pathlib
import subprocess
import sys
import time
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from torchbeast.algorithms.base import Algorithm, Once, Update
from torchbeast.data import EnvSpec, Rollout, Tree
from torchbeast.envs.vector import Step, VectorEnv
from torchbeast.loops.learner import Learner
from torchbeast.loops.weights import SharedWeights
from torchbeast.runners.async_ import ActorPool
from torchbeast.runners.buffers import Acting, Keeping, check_buffer, make_buffer
from torchbeast.runners.source import ActingJob

T = 4
NUM_ACTIONS = 1000
SPEC = EnvSpec(
    spaces.Box(0, 2**40, (4,), np.int64),
    spaces.Discrete(NUM_ACTIONS),
)
SEED, INDEX, EPISODE, STEP = range(4)  # what the four numbers of an observation are


class CountingEnv(VectorEnv):
    """Environment i has episodes of 3 + i steps; the reward is the number of the step.

    Episodes end by termination and by a time limit in turn.
    """

    def __init__(self, num_envs: int, seed: int) -> None:
        super().__init__(SPEC, num_envs)
        self.seed = seed
        self.episode = np.zeros(num_envs, np.int64)
        self.step = np.zeros(num_envs, np.int64)
        self.closed = False

    def _reset(self) -> Tree:
        return self._obs()

    def _send(self, action: Tree) -> None:
        self.step += 1
        over = self.step > 3 + np.arange(self.num_envs)
        self.episode[over] += 1
        self.step[over] = 0

    def _recv(self) -> Step:
        end = self.step == 3 + np.arange(self.num_envs)
        odd = self.episode % 2 == 1
        return Step(self._obs(), self.step.astype(np.float32), end & odd, end & ~odd)

    def _obs(self) -> np.ndarray[Any, Any]:
        index = np.arange(self.num_envs)
        return np.stack([np.full_like(index, self.seed), index, self.episode, self.step], 1)

    def close(self) -> None:
        self.closed = True


class Fault(NamedTuple):
    """What goes wrong, after how many steps, and how often over all processes (by marker files)."""

    kind: str  # raise, hang, act-raise, act-hang; construct, slow, held, child: at once
    markers: pathlib.Path
    at: int = 0
    times: int = 1

    def claim(self) -> bool:
        """Returns whether it is to happen here and now."""
        for i in range(self.times):
            try:
                (self.markers / str(i)).touch(exist_ok=False)
                return True
            except FileExistsError:
                pass
        return False

    def strike(self, step: int) -> None:
        """Lets it happen if this is the step."""
        if step != self.at or not self.claim():
            return
        if self.kind.endswith("raise"):
            raise ZeroDivisionError("the ball left the universe")
        time.sleep(1e6)


class FaultyEnv(CountingEnv):
    def __init__(self, num_envs: int, seed: int, fault: Fault) -> None:
        super().__init__(num_envs, seed)
        self.fault = fault
        self.steps = 0
        if fault.kind == "construct" and fault.claim():
            raise OSError("no such game: Pitfull")
        self.slow = fault.kind == "slow" and fault.claim()
        self.held = fault.kind == "held" and fault.claim()
        if fault.kind == "child":
            child = subprocess.Popen(["sleep", "600"], close_fds=False)
            (fault.markers / f"child-{child.pid}").touch()

    def _send(self, action: Tree) -> None:
        self.steps += 1
        while self.held and not (self.fault.markers / "go").exists():
            time.sleep(0.01)
        if self.slow:
            time.sleep(0.05)
        elif self.fault.kind in ("raise", "hang"):
            self.fault.strike(self.steps)
        super()._send(action)


class CountingModel(nn.Module):
    """One parameter, equal to the number of updates."""

    def __init__(self) -> None:
        super().__init__()
        self.updates = nn.Parameter(torch.zeros(1))

    def initial_state(self, batch_size: int) -> Tree:
        return (torch.zeros(1, batch_size, 1),)


class CountingAlgorithm(Algorithm):
    """Acts at random; leaves the weights in ``extras``, and counts rows in the state."""

    def __init__(self, batch_size: int, max_lag: int | None, fault: Fault | None = None) -> None:
        self.fault = fault
        self.answers = 0
        self.config = None
        self.spec = SPEC
        self.needs = Once(T, batch_size, max_lag)
        self.model = CountingModel()

    def act(
        self, model: nn.Module, rows: Rollout, state: Tree, explore: Tensor | None
    ) -> tuple[Tree, dict[str, Tensor], Tree]:
        first = rows.first
        self.answers += 1
        if self.fault is not None and self.fault.kind.startswith("act"):
            self.fault.strike(self.answers)
        (count,) = state
        count = torch.where(first[..., None], 0.0, count) + 1
        action = torch.randint(NUM_ACTIONS, first.shape)
        return action, {"weight": model.updates.detach().expand(first.shape)}, (count,)

    def update(self, batch: Rollout, steps: int) -> Update:
        with torch.no_grad():
            self.model.updates += 1
        return Update({"return": batch.reward.sum()})


class Setup(NamedTuple):
    """A factory of jobs that can be pickled."""

    batch_size: int
    max_lag: int | None = None
    fault: Fault | None = None

    def algorithm(self) -> CountingAlgorithm:
        return CountingAlgorithm(self.batch_size, self.max_lag, self.fault)

    def env(self, num_envs: int, seed: int, actor: int = 0) -> VectorEnv:
        if self.fault is None:
            return CountingEnv(num_envs, seed)
        return FaultyEnv(num_envs, seed, self.fault)


class MagicPool(ActorPool):
    """Fills each slot with the magic value before it is granted; remembers the most granted."""

    most_outstanding = 0

    def _grant(self, remote: Any) -> None:
        remote._slots[remote.free[0]].fill_magic()
        super()._grant(remote)
        granted = sum(len(r.granted) for r in self._remotes) * self._columns
        waiting = sum(g.filled for g in self._grants._out) * self._columns + self.buffer.waiting()
        self.most_outstanding = max(self.most_outstanding, granted + waiting)


def make(setup: Setup, pool: type[ActorPool] = MagicPool, **options: Any) -> tuple[Any, Learner]:
    """Returns a pool and the learner of its rollouts."""
    algorithm = setup.algorithm()
    weights = SharedWeights(algorithm.model)
    job = ActingJob(setup.algorithm, setup.env, T)
    acting = Acting(options.pop("envs_per_actor", 2), options.pop("num_actors", 2))
    options = {"num_buffers": 4} | options
    check_buffer(algorithm, acting, options["num_buffers"])
    defaults: dict[str, Any] = {
        "acting": acting,
        "make_buffer": functools.partial(make_buffer, algorithm, acting, Keeping()),
        "seed": 1,
        "on_wait": Deadline(60.0),
    }
    source = pool(job, algorithm, weights, **(defaults | options))
    return source, Learner(algorithm, source.buffer, weights)


class Deadline:
    """Fails a test that waits for too long, and counts the calls."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds
        self.calls = 0

    def __call__(self) -> None:
        self.calls += 1
        assert time.monotonic() < self.end, "waited for too long"


def main(folder: str) -> None:
    """Runs a pool for ever, for the test that kills its parent; writes the pids of the actors."""
    source, learner = make(Setup(2))
    path = pathlib.Path(folder)
    source.fill()
    pids = [str(r.worker.pid) for r in source._remotes]
    (path / "new").write_text(" ".join(pids))
    (path / "new").rename(path / "pids")
    while True:
        source.fill()
        learner.step()


if __name__ == "__main__":
    main(sys.argv[1])
