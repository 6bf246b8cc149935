"""Evaluation: acting without learning, on environments of its own."""

from __future__ import annotations

from collections.abc import Callable

import torch

from torchbeast.algorithms.base import Algorithm
from torchbeast.data.slots import Slot
from torchbeast.envs.vector import Episode, VectorEnv
from torchbeast.loops.actor import Actor
from torchbeast.loops.policy import Policy, places
from torchbeast.loops.weights import LocalWeights


def evaluate(
    algorithm: Algorithm,
    env: VectorEnv,
    explore: bool = False,
    max_steps: int | None = None,
    on_row: Callable[[], None] | None = None,
) -> list[Episode]:
    """Returns one full game of each environment of ``env``, played with the algorithm's model.

    The first game of each counts, so that short games are not over-represented.

    Args:
        algorithm: whose model plays.
        env: as many environments as games are wanted; not those of training.
        explore: play as in training; else as the algorithm thinks best.
        max_steps: give up then; games not finished are left out.
        on_row: called before each row is answered, e.g. to draw it; may raise to stop.
    """
    games: dict[int, Episode] = {}
    device = algorithm.device
    # Evaluation draws random numbers; training must not notice.
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        where = places(env.num_envs) if explore else None
        policy = Policy(algorithm, algorithm.model, LocalWeights(), env.num_envs, where)
        one_step = Slot(algorithm.rollout_spec(), 1, env.num_envs)
        actor = Actor(env, policy, on_row)
        steps = 0
        while len(games) < env.num_envs and (max_steps is None or steps < max_steps):
            actor.collect(one_step)
            steps += 1
            for episode in env.episodes():
                games.setdefault(episode.env, episode)
    return [games[i] for i in sorted(games)]
