"""Worker processes: what they survive, and that nothing of them is left."""

from __future__ import annotations

import logging
import os
import pathlib
import signal
import time
from typing import Any

import numpy as np
import pytest
from processes import workers

from torchbeast import envs
from torchbeast.envs import EnvConfig, EnvError
from torchbeast.envs.processes import ProcessEnv

from .test_contract import PROBES

NO_ACTION = np.zeros(2, np.int64)


def make(workers: int = 1, num_envs: int = 2, **kwargs: Any) -> ProcessEnv:
    options = {k: kwargs.pop(k) for k in ("step_timeout", "max_restarts") if k in kwargs}
    config = EnvConfig(f"{PROBES}:fault", kwargs, env_workers=workers)
    spec = envs.spec(EnvConfig(f"{PROBES}:counting"))
    return ProcessEnv(config, spec, num_envs, 0, **options)


def test_killed_worker_is_replaced(caplog: pytest.LogCaptureFixture) -> None:
    env = make(workers=2, kind="grandchild", max_restarts=1)
    env.reset()
    env.send(NO_ACTION)
    env.recv()
    os.kill(env._crews[1].worker.pid, signal.SIGKILL)
    with caplog.at_level(logging.WARNING, "torchbeast"):
        env.send(NO_ACTION)
        arrival = env.recv()
    assert "killed by SIGKILL" in caplog.text
    assert env.restarts == 1
    assert arrival.first.tolist() == [False, True]
    assert arrival.discount.tolist() == [1, 1]
    assert arrival.reward.tolist() == [2, 0]
    assert arrival.obs.tolist() == [[0, 2], [0, 0]]
    for _ in range(3):
        env.send(NO_ACTION)
        arrival = env.recv()
    # The broken episode counts for nothing; the new one is whole.
    assert [(e.env, e.length, e.episode_return) for e in env.episodes()] == [(0, 3, 6), (1, 3, 6)]
    os.kill(env._crews[0].worker.pid, signal.SIGKILL)
    began = time.monotonic()
    env.send(NO_ACTION)
    with pytest.raises(EnvError, match=r"died: killed by SIGKILL, after 1 restarts"):
        env.recv()
    assert time.monotonic() - began < 30  # not after --step_timeout
    with pytest.raises(EnvError, match="cannot go on"):
        env.send(NO_ACTION)
    env.close()
    assert workers() == []  # also no `sleep` that the environments started


def test_hung_worker_is_replaced(tmp_path: pathlib.Path) -> None:
    env = make(kind="hang", at_step=2, marker=str(tmp_path / "hung"), step_timeout=2.0)
    env.reset()
    firsts = []
    for _ in range(3):
        env.send(NO_ACTION)
        firsts.append(env.recv().first.all())
    assert firsts == [False, True, False]
    assert env.restarts == 1
    env.close()
    env.close()
    assert workers() == []


def test_exception_comes_with_its_traceback() -> None:
    env = make(kind="raise", at_step=2)
    env.reset()
    env.send(NO_ACTION)
    env.recv()
    env.send(NO_ACTION)
    with pytest.raises(EnvError, match=r"(?s)fault: worker 0 .*seed 0.*in step\n.*broken in step"):
        env.recv()
    env.close()
    assert workers() == []


def test_exception_in_the_constructor() -> None:
    with pytest.raises(EnvError, match="broken in the constructor"):
        make(kind="constructor")
    assert workers() == []
