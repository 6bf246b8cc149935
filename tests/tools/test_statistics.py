import json
import math

import numpy as np
import pytest

from torchbeast.envs.vector import Episode
from torchbeast.tools.statistics import EpisodeStatistics


def episode(value: float, length: int = 1) -> Episode:
    return Episode(0, value, length, False)


def test_means_since_the_last_row_and_over_the_last_hundred():
    statistics = EpisodeStatistics()
    first = statistics.take()
    assert first["episodes"] == 0
    assert all(math.isnan(value) for name, value in first.items() if name != "episodes")
    statistics.add([episode(float(i), i) for i in range(150)])
    row = statistics.take()
    assert row["mean_episode_return"] == pytest.approx(np.mean(range(150)))
    assert row["mean_return_100"] == pytest.approx(np.mean(range(50, 150)))
    assert row["mean_episode_step"] == pytest.approx(np.mean(range(150)))
    assert row["episodes"] == 150
    assert statistics.last_return == 149
    statistics.add([episode(7.0)])
    assert statistics.take()["mean_episode_return"] == 7
    again = statistics.take()
    assert math.isnan(again["mean_episode_return"])
    assert again["mean_return_100"] == pytest.approx((sum(range(51, 150)) + 7) / 100)
    statistics.add([episode(1.0)])
    assert statistics.take()["mean_episode_return"] == 1
    statistics.add([episode(4.0)])
    assert statistics.take(same_row=True)["mean_episode_return"] == 2.5
    assert statistics.take(same_row=True)["mean_episode_return"] == 2.5
    assert math.isnan(statistics.take()["mean_episode_return"])


def test_luck_at_the_start_is_no_score():
    statistics = EpisodeStatistics()
    statistics.add([episode(9.0)] * 99)
    assert statistics.score is None
    statistics.add([episode(0.0)])
    assert statistics.score == pytest.approx(8.91)


def test_state_goes_through_json():
    statistics = EpisodeStatistics()
    statistics.add([Episode(0, np.float32(i), np.int64(i), False) for i in range(120)])
    statistics.take()
    statistics.add([episode(3.0, 5)])
    other = EpisodeStatistics()
    other.load_state_dict(json.loads(json.dumps(statistics.state_dict())))
    for each in (statistics, other):
        each.add([episode(-1.0)])
    assert other.take() == statistics.take()
    assert other.mean_length == statistics.mean_length
