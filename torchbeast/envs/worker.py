"""What runs in one worker process of ``ProcessEnv``, and the memory that both sides see."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np

from torchbeast.data import ArraySpec, EnvSpec, Tree, array_specs, tree_leaves, tree_map
from torchbeast.data.shared import SharedBlock, aligned
from torchbeast.data.spec import tree_map_specs
from torchbeast.envs.gym import GymEnv
from torchbeast.envs.registry import EnvConfig, single_env

RESET, STEP = b"r", b"s"  # to a worker
DONE, ERROR = b"d", b"e"  # from a worker; ERROR is followed by the traceback


class Job(NamedTuple):
    """What a worker is told at its start."""

    config: EnvConfig
    spec: EnvSpec
    num_envs: int  # of all workers
    columns: slice  # its own
    seeds: list[int]


class Board:
    """Arrays over shared memory: what B environments show, and what they are told.

    ``obs`` and ``action`` are trees of [B, ...]; ``reward``, ``terminated``, ``truncated`` [B].
    """

    def __init__(self, spec: EnvSpec, num_envs: int, memory: Any) -> None:
        offset = 0

        def array(leaf: ArraySpec) -> np.ndarray[Any, Any]:
            nonlocal offset
            result: np.ndarray[Any, Any] = np.ndarray(
                (num_envs, *leaf.shape), leaf.dtype, memory, offset
            )
            offset += aligned(result.nbytes)
            return result

        fields = tree_map_specs(array, _fields(spec))
        self.obs: Tree = fields[0]
        self.action: Tree = fields[1]
        self.reward, self.terminated, self.truncated = fields[2:]

    @staticmethod
    def num_bytes(spec: EnvSpec, num_envs: int) -> int:
        """Returns the bytes that the board of ``num_envs`` environments takes."""
        total = 0

        def add(leaf: ArraySpec) -> None:
            nonlocal total
            total += aligned(int(np.prod(leaf.shape)) * leaf.dtype.itemsize * num_envs)

        tree_map_specs(add, _fields(spec))
        return total

    def rewind(self, columns: slice) -> None:
        """Shows these environments at the start of an episode."""
        self.reward[columns] = 0
        self.terminated[columns] = False
        self.truncated[columns] = False


def _fields(spec: EnvSpec) -> tuple[Any, ...]:
    flag = ArraySpec((), np.dtype(bool))
    reward = ArraySpec((), np.dtype(np.float64))
    return (array_specs(spec.observation), array_specs(spec.action), reward, flag, flag)


def work(pipe: Connection, job: Job, block: SharedBlock) -> None:
    """Steps the environments of one worker until the parent closes the pipe."""
    if "torch" in sys.modules:  # the environment may use it
        sys.modules["torch"].set_num_threads(1)
    try:
        env = GymEnv(lambda: single_env(job.config), job.seeds, job.config.name)
        if (env.spec.observation, env.spec.action) != (job.spec.observation, job.spec.action):
            raise ValueError(f"expected the spaces {job.spec}, got {env.spec}")
        os.write(pipe.fileno(), DONE)
        _serve(env, Board(job.spec, job.num_envs, block.memory), job.columns, pipe)
        env.close()
        sys.stdout.flush()
        os._exit(0)  # taking torch down politely would take half a second
    except Exception:
        with contextlib.suppress(OSError):
            os.write(pipe.fileno(), ERROR)
            pipe.send_bytes(traceback.format_exc().encode())


def _serve(env: GymEnv, board: Board, columns: slice, pipe: Connection) -> None:
    obs = [leaf[columns] for leaf in tree_leaves(board.obs)]
    action = tree_map(lambda leaf: leaf[columns], board.action)
    while True:
        message = os.read(pipe.fileno(), 1)
        if not message:  # the parent closed its end
            return
        if message == RESET:
            arrived = env._reset()
        else:
            env._send(action)
            step = env._recv()
            arrived = step.obs
            board.reward[columns] = step.reward
            board.terminated[columns] = step.terminated
            board.truncated[columns] = step.truncated
        for destination, source in zip(obs, tree_leaves(arrived), strict=True):
            destination[:] = source
        os.write(pipe.fileno(), DONE)
