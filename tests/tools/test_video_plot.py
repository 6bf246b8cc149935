import sys

import numpy as np
import pytest

from torchbeast.envs.vector import Episode
from torchbeast.tools import plot, video
from torchbeast.tools.logs import Curve, RunLog
from torchbeast.tools.plot import (
    bootstrap_interval,
    on_grid,
    plot_curves,
    plot_groups,
    running_mean,
)
from torchbeast.tools.video import write_video


def frames(count: int = 5, height: int = 21, width: int = 17) -> list[np.ndarray]:
    return [np.full((height, width, 3), 40 * i, np.uint8) for i in range(count)]


def test_mp4(tmp_path):
    av = pytest.importorskip("av")
    path = write_video(tmp_path / "new" / "x.mp4", frames(), fps=30)
    assert path == tmp_path / "new" / "x.mp4"
    with av.open(str(path)) as container:
        pictures = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
        assert container.streams.video[0].average_rate == 30
    assert len(pictures) == 5
    assert pictures[0].shape == (22, 18, 3)  # even sizes
    for i, picture in enumerate(pictures):
        assert abs(picture.mean() - 40 * i) < 8


@pytest.mark.parametrize("asked", ["x.gif", "x.mp4"])
def test_gif_when_asked_or_without_av(tmp_path, monkeypatch, asked):
    image = pytest.importorskip("PIL.Image")
    real = video.find_spec
    monkeypatch.setattr(video, "find_spec", lambda name: None if name == "av" else real(name))
    path = write_video(tmp_path / asked, frames(), fps=20)
    assert path == tmp_path / "x.gif"
    with image.open(path) as picture:
        assert picture.n_frames == 5
        assert picture.size == (17, 21)
        assert picture.info["duration"] == 50


def test_errors_of_videos(tmp_path, monkeypatch):
    path = tmp_path / "x.mp4"
    with pytest.raises(ValueError, match="got none"):
        write_video(path, [], 30)
    with pytest.raises(ValueError, match="float64 at frame 0"):
        write_video(path, [np.zeros((4, 4, 3))], 30)
    with pytest.raises(ValueError, match="one size"):
        write_video(path, [*frames(1), *frames(1, 8, 8)], 30)
    monkeypatch.setattr(video, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"torchbeast\[video\]"):
        write_video(path, frames(), 30)


def curve(steps, returns) -> Curve:
    return Curve(np.array(steps), np.array(returns, float), np.ones(len(steps)))


def test_running_mean_is_the_slow_one():
    returns = np.random.default_rng(0).normal(size=50)
    got = running_mean(curve(range(50), returns), window=7)
    slow = [returns[max(0, i - 6) : i + 1].mean() for i in range(50)]
    np.testing.assert_allclose(got, slow)


def test_grid_is_where_all_runs_were_and_looks_only_back():
    grid, values = on_grid([curve([0, 10, 20], [0, 2, 4]), curve([5, 30], [1, 3])], points=4)
    assert grid.tolist() == [5, 10, 15, 20]
    assert values[0].tolist() == [0, 1, 1, 2]
    assert values[1].tolist() == [1, 1, 1, 1]
    with pytest.raises(ValueError, match="ends at 2 "):
        on_grid([curve([1, 2], [0, 0]), curve([5, 6], [0, 0])])


def test_bootstrap_interval_covers_as_often_as_it_says():
    generator = np.random.default_rng(0)
    values = generator.normal(1.0, 2.0, size=(30, 400))  # 400 experiments of 30 runs
    low, high = bootstrap_interval(values, resamples=1000)
    covered = ((low < 1) & (high > 1)).mean()
    assert 0.90 < covered < 0.97
    same_low, same_high = bootstrap_interval(np.ones((3, 2)))
    np.testing.assert_allclose([same_low, same_high], 1.0)


def played(tmp_path, runs: int) -> list:
    paths = []
    for seed in range(runs):
        generator = np.random.default_rng(seed)
        path = tmp_path / f"run-{seed}"
        path.mkdir()
        log = RunLog(path, tensorboard=False)
        for step in range(0, 100_000, 200):
            score = step / 1000 + generator.normal(0, 15)
            log.episodes([Episode(0, score, 100, False)], step)
        log.close()
        paths.append(path)
    return paths


def colours_of(picture) -> set:
    return {colour for _, colour in picture.convert("RGB").getcolors(10**6)}


@pytest.mark.parametrize("runs", [1, 3])
def test_figures(tmp_path, runs):
    pytest.importorskip("matplotlib")
    image = pytest.importorskip("PIL.Image")
    paths = played(tmp_path, runs)
    out = plot_curves(paths, tmp_path / "plots" / "curve.png")
    with image.open(out) as picture:
        assert picture.size == (1050, 630)
        assert (0x1F, 0x5F, 0xA8) in colours_of(picture)  # the line is there


def test_a_line_for_each_group_of_runs(tmp_path):
    pytest.importorskip("matplotlib")
    image = pytest.importorskip("PIL.Image")
    paths = played(tmp_path, 3)
    out = plot_groups({"one": paths[:1], "two": paths[1:]}, tmp_path / "x.png", "title")
    with image.open(out) as picture:
        assert {(0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)} <= colours_of(picture)
        assert (0x00, 0x9E, 0x73) not in colours_of(picture)


def test_errors_of_figures(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="at least one run"):
        plot_curves([], tmp_path / "x.png")
    with pytest.raises(ValueError, match="at least one run"):
        plot_groups({}, tmp_path / "x.png", "title")
    with pytest.raises(ValueError, match="finished episodes"):
        plot_curves([tmp_path], tmp_path / "x.png")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ModuleNotFoundError, match=r"torchbeast\[plot\]"):
        plot.plot_curves([tmp_path], tmp_path / "x.png")
