"""The ancestor's command: its flags, their defaults, and that its README's commands work."""

from __future__ import annotations

import dataclasses
import pathlib

import pytest

from torchbeast import monobeast
from torchbeast.commands.ancestor import NUM_TEST_EPISODES
from torchbeast.commands.errors import UsageError
from torchbeast.commands.flags import parse

# monobeast.py of 2019, its flags and defaults.
ANCESTOR = {
    "env": "PongNoFrameskip-v4",
    "mode": "train",
    "xpid": None,
    "disable_checkpoint": False,
    "savedir": "~/logs/torchbeast",
    "num_actors": 4,
    "total_steps": 100000,
    "batch_size": 8,
    "unroll_length": 80,
    "num_buffers": None,
    "num_learner_threads": 2,
    "disable_cuda": False,
    "use_lstm": False,
    "entropy_cost": 0.0006,
    "baseline_cost": 0.5,
    "discounting": 0.99,
    "reward_clipping": "abs_one",
    "learning_rate": 0.00048,
    "alpha": 0.99,
    "momentum": 0.0,
    "epsilon": 0.01,
    "grad_norm_clipping": 40.0,
}
BEEFY = (
    "--env PongNoFrameskip-v4 --num_actors 45 --total_steps 30000000 --learning_rate 0.0004 "
    "--epsilon 0.01 --entropy_cost 0.01 --batch_size 4 --unroll_length 80 --num_buffers 60 "
    "--num_threads 4 --xpid example"
)


def test_flags_and_defaults_are_the_ancestors() -> None:
    ours = {"seed": 1, "optimizer": "rmsprop", "vtrace_lambda": 1.0}
    assert dataclasses.asdict(monobeast.Flags()) == ANCESTOR | ours


def test_the_settings_that_the_ancestor_had_not_reach_the_algorithm() -> None:
    flags = parse(
        monobeast.Flags(), "monobeast", ["--optimizer", "adam", "--vtrace_lambda", "0.95"]
    )
    algorithm = monobeast.run_config(flags).algorithm
    assert (algorithm.optimizer, algorithm.vtrace_lambda) == ("adam", 0.95)


def test_the_long_command_of_the_readme_sets_everything() -> None:
    config = monobeast.run_config(parse(monobeast.Flags(), "monobeast", BEEFY.split()))
    system = config.system
    assert (system.num_actors, system.total_steps, system.num_buffers) == (45, 30_000_000, 60)
    assert system.torch_threads == 4
    algorithm = config.algorithm
    assert (algorithm.learning_rate, algorithm.epsilon, algorithm.entropy_cost) == (
        4e-4,
        0.01,
        0.01,
    )
    assert (algorithm.batch_size, algorithm.unroll_length) == (4, 80)
    assert algorithm.optimizer == "rmsprop"
    assert config.output.xpid == "example"
    assert config.env.life_loss  # the ancestor's wrappers end a training episode with a life


def test_the_lstm_has_two_layers_as_the_ancestors() -> None:
    config = monobeast.run_config(monobeast.Flags(use_lstm=True))
    assert config.network.use_lstm
    assert config.network.lstm_layers == 2


@pytest.mark.parametrize(("actors", "buffers", "batch"), [(4, 4, 2), (2, 3, 8)])
def test_too_few_buffers_are_refused(actors: int, buffers: int, batch: int) -> None:
    flags = monobeast.Flags(num_actors=actors, num_buffers=buffers, batch_size=batch)
    with pytest.raises(UsageError, match="num_buffers"):
        monobeast.run_config(flags)


def test_unknown_flags_end_with_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        monobeast.main(["--num_actor", "3"])
    assert ended.value.code == 2
    captured = capsys.readouterr()
    assert "--num_actors" in captured.out + captured.err


@pytest.mark.parametrize("lstm", [False, True])
def test_it_trains_and_then_plays(
    tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str], lstm: bool
) -> None:
    where = ["--savedir", str(tmp_path), "--xpid", "example"]
    small = "--env CartPole-v1 --num_actors 2 --batch_size 2 --unroll_length 10 --total_steps 60"
    train = [*small.split(), *where, *(["--use_lstm"] if lstm else [])]
    assert monobeast.main(train) == 0
    header = (tmp_path / "example" / "logs.csv").read_text().splitlines()[0]
    assert header.startswith("# _tick,_time,step")
    capfd.readouterr()
    assert monobeast.main(["--mode", "test", *where]) == 0
    out = capfd.readouterr().out
    assert out.count("Episode ended after") == NUM_TEST_EPISODES
    assert "Average returns over 10 episodes" in out


def test_test_mode_names_what_there_is(
    tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert monobeast.main(["--mode", "test", "--xpid", "nope", "--savedir", str(tmp_path)]) == 2
    assert "nope" in capfd.readouterr().err
