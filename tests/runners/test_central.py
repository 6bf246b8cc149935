"""Central inference beside actor processes: rows stay whole, and no fault hangs or mixes states."""

from __future__ import annotations

import os
import random
import signal
import socket
import time

import pytest
from runners.fakes import CountingEnv, Deadline, Fault, Setup
from runners.rows import Continuity, check_rows, take

from torchbeast.loops.alternating import in_groups
from torchbeast.runners.async_ import ActorFailed
from torchbeast.runners.inference import Central, Desk
from torchbeast.runners.process import actor_seed

SOON = 10.0  # seconds in which a death is noticed; what only hangs, after 60


class GroupedSetup(Setup):
    def env(self, num_envs, seed, actor=0):
        return in_groups([CountingEnv, CountingEnv], num_envs, seed)


def take_many(pool, learner):
    while True:
        take(pool, learner)


def seeds(batch):
    return set(batch.obs[0, :, 0].tolist())


def test_rows_are_whole_and_a_killed_actor_leaves_no_state(run):
    central = Central(min_batch=2, timeout_ms=2.0)
    pool, learner = run(Setup(4), central=central, on_wait=Deadline(110))
    continuous = Continuity()
    rng = random.Random(0)

    def step():
        batch = take(pool, learner)
        check_rows(batch, served=True)  # a new incarnation counts from 0
        continuous(batch)
        return seeds(batch)

    missing = {actor_seed(1, actor) for actor in range(2)}
    while missing:
        missing -= step()
    for kill in range(2):
        for _ in range(rng.randrange(1, 20)):
            step()
        victim = rng.choice([r for r in pool._remotes if r.worker is not None and r.ready])
        os.kill(victim.worker.pid, signal.SIGKILL)
        missing = {actor_seed(1, victim.actor, victim.incarnation + 1)}
        while missing:  # the other goes on meanwhile
            missing -= step()
            time.sleep(0.02)
        assert pool.metrics()["actor_restarts"] == kill + 1
    assert pool.metrics()["inference_restarts"] == 0
    assert pool._server.incarnation == 0


@pytest.mark.parametrize("setup", [Setup, GroupedSetup])
def test_without_lag_all_rows_are_by_the_newest_weights(run, setup):
    pool, learner = run(setup(8, max_lag=0), central=Central())
    for update in range(20):
        batch = take(pool, learner)
        if setup is Setup:
            check_rows(batch)
        assert batch.version.tolist() == [update] * 8
        assert (batch.extras["weight"][:-1] == update).all()


def test_a_killed_server_is_replaced_and_actors_go_on(run, caplog):
    pool, learner = run(Setup(4), central=Central(), on_wait=Deadline(110))
    before = set()
    while len(before) < 2:
        before |= seeds(take(pool, learner))
    os.kill(pool._server.worker.pid, signal.SIGKILL)
    killed_at = time.time()
    seen = set()
    while seen != before:
        batch = take(pool, learner)
        check_rows(batch, served=True, forgets=True)
        again = pool._server.incarnation == 1 and pool._server.ready
        seen |= seeds(batch) if again else set()
    (record,) = caplog.records
    assert record.created - killed_at < SOON
    assert "inference server" in record.message
    assert "ended: killed by SIGKILL; it starts again in" in record.message
    told = pool.metrics()
    assert told["inference_restarts"] == 1
    assert told["actor_restarts"] == 0  # the same actors all the time, in the same environments
    assert 1 <= told["dropped_rollouts"] <= 2


@pytest.mark.parametrize("kind", ["act-raise", "act-hang"])
def test_a_broken_server_is_made_anew(run, tmp_path, caplog, kind):
    setup = Setup(2, max_lag=0, fault=Fault(kind, tmp_path, at=30))
    limit = {"step_timeout": 3.0} if kind == "act-hang" else {}
    pool, learner = run(setup, central=Central(), **limit)
    while learner.version < 15:
        check_rows(take(pool, learner), served=True, forgets=True)
    (record,) = caplog.records
    if kind == "act-raise":
        assert "raised an error; it starts again" in record.message
        assert "ZeroDivisionError: the ball left the universe" in record.message
    else:
        assert record.created - (tmp_path / "0").stat().st_mtime < 3 + SOON
        assert "made no progress for 3 s (limit: --step_timeout; was serving)" in record.message
    assert "inference server (incarnation 0, seed" in record.message
    assert pool.metrics()["inference_restarts"] == 1
    assert pool.metrics()["actor_restarts"] == 0


def test_an_event_of_an_old_pipe_is_not_awaited_on_the_new_one():
    desk = object.__new__(Desk)
    old, new = socket.socketpair()  # the new one came with the same events
    new.settimeout(1)  # it says nothing
    with old, new:
        desk._pipes = {0: new}
        desk._hear(0, old)
        assert desk._pipes == {0: new}


def test_too_many_restarts_end_the_run_with_the_traceback(run, tmp_path):
    setup = Setup(2, fault=Fault("act-raise", tmp_path, at=30, times=100))
    pool, learner = run(setup, num_actors=1, central=Central(), max_restarts=1)
    with pytest.raises(ActorFailed, match=r"inference server .* after 1 restarts") as failure:
        take_many(pool, learner)
    assert 'raise ZeroDivisionError("the ball left the universe")' in str(failure.value)


def test_a_server_that_cannot_start_is_not_tried_again(run):
    pool, _ = run(Setup(2), num_actors=1, central=Central(device="cuda:99"))
    with pytest.raises(ActorFailed, match=r"inference server .* before any actor had worked"):
        pool.fill()
