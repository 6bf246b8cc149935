"""Games that a run plays without learning from them: every so many steps, and at its end."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from torchbeast import envs
from torchbeast.algorithms.base import Algorithm
from torchbeast.envs.vector import Episode
from torchbeast.loops.evaluate import evaluate
from torchbeast.runners.build import rank_seed
from torchbeast.runners.config import RunConfig

EVALUATION = 2**31  # in place of a rank, for the seeds


class Evaluation:
    """Plays ``eval_episodes`` games with the weights of the moment, the same seeds each time.

    ``games`` are those of the last time, at step ``step``; -1: there was none.

    Args:
        config: the checked config of the run.
        algorithm: whose model plays.
        steps: of the run so far.
        on_row: called before each row is answered; may raise to stop.
        note: shows a line to the user.
    """

    def __init__(
        self,
        config: RunConfig,
        algorithm: Algorithm,
        steps: int,
        on_row: Callable[[], None],
        note: Callable[[str], None],
    ) -> None:
        self._config, self._algorithm = config, algorithm
        self._on_row, self._note = on_row, note
        self._interval = config.output.eval_interval if config.output.eval_episodes else 0
        self._next = self._interval and steps - steps % self._interval + self._interval
        self.games: list[Episode] = []
        self.step = -1

    def is_due(self, steps: int) -> bool:
        """Returns whether an interval is over since this last said so."""
        if not self._interval or steps < self._next:
            return False
        self._next = steps - steps % self._interval + self._interval
        return True

    def play(self, steps: int) -> float | None:
        """Returns the mean return of the games at step ``steps``; None if none was finished."""
        config = self._config
        count, most = config.output.eval_episodes, config.output.eval_max_steps
        seed = rank_seed(config.system.seed, EVALUATION)
        env_config = dataclasses.replace(config.env, life_loss=False, env_workers=0)
        env = envs.make(env_config, count, seed, step_timeout=config.system.step_timeout)
        try:
            self.games = evaluate(self._algorithm, env, max_steps=most, on_row=self._on_row)
        finally:
            env.close()
        self.step = steps
        if len(self.games) < count:
            self._note(
                f"{count - len(self.games)} of {count} games of the evaluation were not over after "
                f"{most:,} steps (--eval_max_steps)"
            )
        if not self.games:
            return None
        mean = sum(game.episode_return for game in self.games) / len(self.games)
        self._note(f"evaluation at step {steps:,}: {mean:.1f}")
        return mean
