"""How far acting and learning may be ahead of each other."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass
class Pacing:
    """Keeps transitions learned from in proportion to environment steps stored, from both sides.

    Args:
        replay_ratio: transitions learned from per environment step after the first ``min_size``.
        min_size: environment steps before anything is learned.
        slack: environment steps that acting may be ahead; at least those of one rollout.
    """

    replay_ratio: float
    min_size: int
    slack: int
    stored: int = 0
    learned: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.replay_ratio < float("inf"):
            raise ValueError(
                f"expected a --replay_ratio above 0 and finite, got {self.replay_ratio}"
            )

    def may_learn(self) -> bool:
        """Returns whether a batch may be learned from."""
        return self.learned <= self.replay_ratio * (self.stored - self.min_size)

    def may_store(self, under_way: int) -> bool:
        """Returns whether ``under_way`` environment steps may be made: those asked for, too."""
        # With a slack of one rollout: exactly where learning may not.
        ahead = self.stored + under_way - self.slack - self.min_size
        return ahead < 0 or self.learned > self.replay_ratio * ahead

    def settle(self) -> None:
        """Counts as if both sides had kept to the ratio so far."""
        self.learned = int(self.replay_ratio * max(0, self.stored - self.min_size))

    def achieved(self) -> float:
        """Returns transitions learned from per environment step since learning may begin."""
        return self.learned / max(1, self.stored - self.min_size)
