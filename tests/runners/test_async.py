"""Acting in processes: rows stay whole, lag stays bounded, and no fault hangs or leaks."""

from __future__ import annotations

import collections
import itertools
import os
import pathlib
import random
import signal
import statistics
import subprocess
import sys
import time

import psutil
import pytest
import torch
from processes import gone, in_time, stopped, workers
from runners import fakes
from runners.fakes import Deadline, Fault, Setup, T, make
from runners.rows import Continuity, check_rows, take

from torchbeast.data import tree_leaves
from torchbeast.data.queue import RolloutQueue
from torchbeast.data.slots import Slot
from torchbeast.loops.actor import Actor
from torchbeast.loops.learner import Learner
from torchbeast.loops.policy import Policy, places
from torchbeast.loops.weights import LocalWeights
from torchbeast.runners.async_ import ActorFailed
from torchbeast.runners.process import actor_seed
from torchbeast.runners.source import Interrupted

SOON = 10.0  # seconds in which a death is noticed; what only hangs, after 60


def take_many(pool, learner):
    while True:
        take(pool, learner)


def seeds(batch):
    return batch.obs[0, :, 0].tolist()


@pytest.mark.parametrize(("envs_per_actor", "batch_size"), [(2, 4), (4, 2)])
def test_rows_are_whole_and_in_order(run, envs_per_actor, batch_size):
    num_actors = batch_size // 2
    setup = Setup(batch_size)
    pool, learner = run(setup, num_actors=num_actors, envs_per_actor=envs_per_actor)
    continuous = Continuity()
    episodes, total = [], collections.Counter()
    while learner.version < 60 or len(total) < num_actors * envs_per_actor:
        batch = take(pool, learner)
        check_rows(batch)
        continuous(batch)
        episodes += pool.episodes()
        total.update(zip(seeds(batch), batch.obs[0, :, 1].tolist(), strict=True))
    assert {e.env for e in episodes} == set(range(num_actors * envs_per_actor))
    for e in episodes:
        length = 3 + e.env % envs_per_actor
        assert (e.length, e.episode_return) == (length, length * (length + 1) / 2)
    assert {e.truncated for e in episodes} == {False, True}
    assert pool.metrics()["dropped_rollouts"] == pool.metrics()["actor_restarts"] == 0
    assert pool.snapshot() is None


def test_without_lag_actors_act_with_the_newest_weights_and_runs_repeat(run):
    def first_batches():
        pool, learner = run(Setup(8, max_lag=0), seed=5)
        batches = []
        for update in range(20):
            batch = take(pool, learner)
            check_rows(batch)
            assert batch.version.tolist() == [update] * 8
            batches.append(batch)
        return batches

    runs = [first_batches(), first_batches()]
    a, b = (actor_seed(5, i) for i in range(2))
    for one, other in zip(*runs, strict=True):
        assert seeds(one) == [a, a, b, b, a, a, b, b]
        assert all(map(torch.equal, tree_leaves(tuple(one)), tree_leaves(tuple(other))))


def test_one_actor_without_lag_equals_acting_and_learning_in_turn(run):
    setup = Setup(4, max_lag=0)
    pool, learner = run(setup, num_actors=1, envs_per_actor=2)
    algorithm, weights = setup.algorithm(), LocalWeights()
    env = setup.env(2, actor_seed(1, 0))
    spec = algorithm.rollout_spec()
    free = [Slot(spec, T, 2) for _ in range(2)]
    queue = RolloutQueue(spec, T, 2, 4, free.append)
    actor = Actor(env, Policy(algorithm, algorithm.model, weights, 2, places(2)))
    serial = Learner(algorithm, queue, weights)
    torch.manual_seed(actor_seed(1, 0))

    class Turns:
        def fill(self):
            while not queue.ready():
                slot = free.pop()
                actor.collect(slot)
                queue.put(slot)

    for _ in range(20):
        here, there = take(Turns(), serial), take(pool, learner)
        assert all(map(torch.equal, tree_leaves(tuple(here)), tree_leaves(tuple(there))))
    assert env.episodes() == pool.episodes()


def test_a_slow_actor_stops_nobody(run, tmp_path):
    pool, learner = run(Setup(2, fault=Fault("held", tmp_path)), num_buffers=8)
    counts = collections.Counter()
    for _ in range(50):
        counts.update(seeds(take(pool, learner)))
    assert len(counts) == 1
    (tmp_path / "go").touch()
    while len(counts) < 2:
        counts.update(seeds(take(pool, learner)))


def test_a_slow_actor_bounds_the_lag(run, tmp_path):
    pool, learner = run(Setup(2, 1, Fault("slow", tmp_path)), num_buffers=8)
    lags, counts = [], collections.Counter()
    for update in range(12):
        batch = take(pool, learner)
        lags += (update - batch.version).tolist()
        counts.update(seeds(batch))
    assert len(counts) == 2
    assert max(lags) == 1  # and never more


def test_killed_actors_come_back_and_rollouts_keep_coming(run, caplog):
    pool, learner = run(Setup(4), max_restarts=10, on_wait=Deadline(110))
    continuous = Continuity()

    def step():
        batch = take(pool, learner)
        check_rows(batch)
        continuous(batch)
        return set(seeds(batch))

    rng = random.Random(0)
    noticed = []
    for kill in range(5):
        for _ in range(rng.randrange(5, 30)):
            step()
        victim = rng.choice([r for r in pool._remotes if r.worker is not None])
        os.kill(victim.worker.pid, signal.SIGKILL)
        killed_at = time.time()
        while pool.metrics()["actor_restarts"] == kill:
            step()
        noticed.append(caplog.records[-1].created - killed_at)
    assert statistics.median(noticed) < 1.0
    assert max(noticed) < SOON
    assert caplog.text.count("ended: killed by SIGKILL; it starts again in") == 5
    missing = {actor_seed(1, r.actor, r.incarnation + (r.worker is None)) for r in pool._remotes}
    while missing:  # the last incarnation of each has to deliver
        missing -= step()


def test_rollouts_in_order_go_on_around_a_dead_actor(run):
    pool, learner = run(Setup(4, max_lag=0))
    check_rows(take(pool, learner))
    pool.fill()
    worker = pool._remotes[0].worker
    os.kill(worker.pid, signal.SIGSTOP)
    take(pool, learner)
    pool._grant_more()
    os.kill(worker.pid, signal.SIGKILL)
    for _ in range(50):
        batch = take(pool, learner)
        check_rows(batch)
        assert (learner.version - 1 - batch.version == 0).all()
    assert pool.metrics()["dropped_rollouts"] == 1


@pytest.mark.parametrize("kind", ["raise", "hang"])
def test_a_broken_environment_is_made_anew(run, tmp_path, caplog, kind):
    setup = Setup(2, fault=Fault(kind, tmp_path, at=7))
    limit = {"step_timeout": 3.0} if kind == "hang" else {}
    pool, learner = run(setup, num_actors=1, **limit)
    while learner.version < 10:
        check_rows(take(pool, learner))
    if kind == "hang":
        assert caplog.records[0].created - (tmp_path / "0").stat().st_mtime < 3 + SOON
        assert "made no progress for 3 s (limit: --step_timeout; was at row" in caplog.text
    else:
        assert caplog.text.count("ZeroDivisionError: the ball left the universe") == 1
        assert "raised an error; it starts again" in caplog.text
    assert f"actor 0 (incarnation 0, seed {actor_seed(1, 0)})" in caplog.text
    assert pool.metrics()["actor_restarts"] == pool.metrics()["dropped_rollouts"] == 1


def test_too_many_restarts_end_the_run_with_the_traceback(run, tmp_path):
    setup = Setup(2, fault=Fault("raise", tmp_path, at=7, times=100))
    pool, learner = run(setup, num_actors=1, max_restarts=1)
    with pytest.raises(ActorFailed, match="after 1 restarts") as failure:
        take_many(pool, learner)
    assert 'raise ZeroDivisionError("the ball left the universe")' in str(failure.value)


def test_an_environment_that_cannot_be_made_is_not_tried_again(run, tmp_path, caplog):
    pool, _ = run(Setup(2, fault=Fault("construct", tmp_path, times=100)))
    with pytest.raises(ActorFailed, match="before any actor had worked") as failure:
        pool.fill()
    assert "OSError: no such game: Pitfull" in str(failure.value)
    assert caplog.text == ""


@pytest.mark.parametrize("max_lag", [None, 0])
def test_a_sleeping_learner_holds_the_actors(run, max_lag):
    pool, learner = run(Setup(4, max_lag), num_actors=1, num_buffers=8)
    for _ in range(5):
        take(pool, learner)
    (actor,) = [psutil.Process(r.worker.pid) for r in pool._remotes]

    def worked():
        before = sum(actor.cpu_times()[:2])
        time.sleep(1.0)
        return sum(actor.cpu_times()[:2]) - before

    rss = psutil.Process().memory_info().rss
    assert in_time(lambda: worked() < 0.1)  # it waits for grants
    for _ in range(5):
        check_rows(take(pool, learner))
    assert pool.most_outstanding <= (16 if max_lag is None else 4)
    assert pool.metrics()["actor_wait_s"] > 0.5
    assert psutil.Process().memory_info().rss - rss < 8e6


def test_what_an_environment_started_ends_with_its_actor(run, tmp_path):
    pool, learner = run(Setup(2, fault=Fault("child", tmp_path)), num_actors=1)
    take(pool, learner)
    (first,) = [int(p.name.split("-")[1]) for p in tmp_path.glob("child-*")]
    assert psutil.Process(first).name() == "sleep"
    # The child holds the actor's pipe and sentinel open; the death shows all the same.
    os.kill(pool._remotes[0].worker.pid, signal.SIGKILL)
    while pool.metrics()["actor_restarts"] == 0:
        take(pool, learner)
    take(pool, learner)
    pool.close()
    pids = [int(p.name.split("-")[1]) for p in tmp_path.glob("child-*")]
    assert len(pids) == 2
    assert gone(found(pids))


def found(pids):
    return [process for process in psutil.process_iter() if process.pid in pids]


def test_actors_die_with_a_killed_parent(tmp_path):
    here = pathlib.Path(fakes.__file__).parent.parent
    code = f"import sys; sys.path.insert(0, {str(here)!r})\nfrom runners import fakes\n"
    code += f"fakes.main({str(tmp_path)!r})"
    parent = subprocess.Popen([sys.executable, "-c", code])
    assert in_time(lambda: (tmp_path / "pids").exists() or parent.poll() is not None, 60)
    assert parent.poll() is None
    actors = found([int(pid) for pid in (tmp_path / "pids").read_text().split()])
    assert len(actors) == 2
    parent.kill()
    parent.wait()
    assert gone(actors), "orphans"


def test_interrupted_and_strange_messages(run, caplog):
    asked = []

    def on_wait():
        asked.append(time.monotonic())
        if len(asked) == 3:
            raise Interrupted

    pool, learner = run(Setup(2), num_actors=1, on_wait=on_wait)
    pid = pool._remotes[0].worker.pid
    os.kill(pid, signal.SIGSTOP)  # else there may be a batch before it was asked so often
    assert stopped(pid)
    with pytest.raises(Interrupted):
        pool.fill()
    assert max(b - a for a, b in itertools.pairwise(asked)) < SOON
    os.kill(pid, signal.SIGCONT)
    batch = take(pool, learner)
    check_rows(batch)
    remote = pool._remotes[0]
    pool._on_message(remote, -1, "filled", remote.sequence + 1, 0, [], 0.0)  # an old incarnation
    pool._on_message(remote, 0, "filled", remote.sequence, 0, [], 0.0)  # the last one again
    assert pool.metrics()["dropped_rollouts"] == 2
    for _ in range(5):
        check_rows(take(pool, learner))
    pool.close()
    with pytest.raises(RuntimeError, match="closed"):
        pool.fill()


def test_numbers_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match=r"at least 4 rollouts of 2 .* raise --num_buffers"):
        make(Setup(8), num_buffers=2)
    with pytest.raises(ValueError, match="at most 2 environments per actor"):
        make(Setup(2, max_lag=0), envs_per_actor=4)
    assert workers() == []


def test_a_job_that_cannot_be_pickled_leaves_nothing():
    setup = Setup(2, fault=Fault("none", lambda: None))
    with pytest.raises(Exception, match=r"pickle|local object"):
        make(setup)
    assert workers() == []
