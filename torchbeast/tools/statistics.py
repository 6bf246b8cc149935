"""How the games go: returns and lengths of the last episodes."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

from torchbeast.envs.vector import Episode

WINDOW = 100  # episodes in the mean that is shown


class EpisodeStatistics:
    """Returns and lengths of finished games: since the last row, and over the last 100.

    ``episodes`` counts all of them, also those before a resume.
    """

    def __init__(self) -> None:
        self.episodes = 0
        self.last_return = math.nan
        self._returns: deque[float] = deque(maxlen=WINDOW)
        self._lengths: deque[int] = deque(maxlen=WINDOW)
        self._new_returns: list[float] = []
        self._new_lengths: list[int] = []
        self._row_returns: list[float] = []
        self._row_lengths: list[int] = []

    def add(self, episodes: list[Episode]) -> None:
        """Counts the episodes that ended."""
        for episode in episodes:
            self._returns.append(float(episode.episode_return))
            self._lengths.append(int(episode.length))
            self._new_returns.append(float(episode.episode_return))
            self._new_lengths.append(int(episode.length))
        if episodes:
            self.episodes += len(episodes)
            self.last_return = self._returns[-1]

    @property
    def mean_return(self) -> float:
        """The mean return of the last 100 episodes; nan before the first."""
        return _mean(self._returns)

    @property
    def score(self) -> float | None:
        """What the best checkpoint is chosen by: the mean return of 100 episodes, None before.

        The mean of a few would crown a network that had luck at the start.
        """
        return self.mean_return if len(self._returns) == WINDOW else None

    @property
    def mean_length(self) -> float:
        """The mean length of the last 100 episodes; nan before the first."""
        return _mean(self._lengths)

    def take(self, same_row: bool = False) -> dict[str, float]:
        """Returns the columns of a log row: means since the last row are nan without episodes.

        With ``same_row``, it is the last row once more, with what came since.
        """
        if not same_row:
            self._row_returns, self._row_lengths = [], []
        self._row_returns += self._new_returns
        self._row_lengths += self._new_lengths
        self._new_returns, self._new_lengths = [], []
        return {
            "mean_episode_return": _mean(self._row_returns),
            "mean_return_100": self.mean_return,
            "mean_episode_step": _mean(self._row_lengths),
            "episodes": self.episodes,
        }

    def state_dict(self) -> dict[str, Any]:
        """Returns all of it as plain data."""
        return {
            "episodes": self.episodes,
            "last_return": self.last_return,
            "returns": list(self._returns),
            "lengths": list(self._lengths),
            "new_returns": list(self._new_returns),
            "new_lengths": list(self._new_lengths),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what ``state_dict`` returned."""
        self.episodes = int(state["episodes"])
        self.last_return = float(state["last_return"])
        self._returns = deque(state["returns"], maxlen=WINDOW)
        self._lengths = deque(state["lengths"], maxlen=WINDOW)
        self._new_returns = list(state["new_returns"])
        self._new_lengths = list(state["new_lengths"])


def _mean(values: deque[float] | deque[int] | list[float] | list[int]) -> float:
    return sum(values) / len(values) if values else math.nan
