"""The user's own code, as the guide has it: trained, resumed and played by the same commands."""

from __future__ import annotations

import pathlib
import pickle

import pytest
from test_cli import Run, refused, run  # noqa: F401

from torchbeast import algorithms
from torchbeast.runners.config import RunConfig, load_config

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"
ALGORITHM = f"{EXAMPLES / 'own_algorithm.py'}:Reinforce"
QUIET = ["--eval_episodes", "1", "--disable_tensorboard", "--torch_threads", "1"]
CARTPOLE = ["--env", "CartPole-v1", "--hidden_sizes", "16", *QUIET]
SMALL = ["--unroll_length", "8", "--batch_size", "4", "--total_steps", "320", *CARTPOLE]
SHAPES = {
    "serial": (),
    "learners": ("--num_learners", "2"),
    "actors": ("--num_actors", "2", "--envs_per_actor", "2"),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_an_algorithm_of_ones_own(run: Run, tmp_path: pathlib.Path, shape: str) -> None:  # noqa: F811
    code, out, err = run("train", ALGORITHM, *SMALL, *SHAPES[shape], "--xpid", "own")
    assert code == 0, out + err
    assert load_config(tmp_path / "own" / "config.yaml").algo == ALGORITHM
    code, out, err = run("resume", "own", "--total_steps", "640")
    assert code == 0, out + err
    assert "640 steps" in out
    code, out, _ = run("eval", "own", "--episodes", "2")
    assert code == 0
    assert "mean return" in out


def test_its_settings_are_flags(run: Run, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    code, out, _ = run("train", ALGORITHM, "--help")
    assert code == 0
    assert "--baseline_cost" in out
    assert "Weight of the baseline's loss" in out
    assert "--gae_lambda" not in out


def test_it_learns(run: Run) -> None:  # noqa: F811
    settings = ["--total_steps", "60k", "--seed", "2", "--xpid", "own"]
    code, out, err = run("train", ALGORITHM, *CARTPOLE, *settings)
    assert code == 0, out + err
    mean = float(out.split("last 100 games ")[1].split()[0])
    assert mean > 60  # 20 without learning


@pytest.mark.parametrize("kind", ["Encoder", "Model"])
@pytest.mark.parametrize("algorithm", ["impala", "a2c", "ppo"])
def test_a_network_of_ones_own(run: Run, algorithm: str, kind: str) -> None:  # noqa: F811
    network = f"{EXAMPLES / 'own_network.py'}:{kind}"
    flags = ["--network", network, "--num_learners", "2", "--xpid", "own"]
    code, out, err = run("train", algorithm, *SMALL, *flags)
    assert code == 0, out + err
    code, out, err = run("eval", "own", "--episodes", "1")
    assert code == 0, out + err


def test_an_environment_of_ones_own(run: Run) -> None:  # noqa: F811
    env = [f"{EXAMPLES / 'own_env.py'}:make_env", "--env_kwargs", "size=6"]
    flags = ["--total_steps", "20k", "--learning_rate", "0.003", "--xpid", "own", *QUIET]
    code, out, err = run("train", "ppo", "--env", *env, *flags)
    assert code == 0, out + err
    mean = float(out.split("last 100 games ")[1].split()[0])
    assert mean > 0.9  # of 1 at the end of the corridor


def test_another_process_makes_the_config_again() -> None:
    config = RunConfig(algorithm=algorithms.find(ALGORITHM).config_type(learning_rate=0.5))
    again = pickle.loads(pickle.dumps(config))
    assert again == config
    assert again.algo == ALGORITHM


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("class Own: pass", ["Own", "subclass of torchbeast.algorithms.Algorithm"]),
        (
            "from torchbeast.algorithms import A2C as Base\nclass Own(Base):\n  config_type = 3",
            ["config_type"],
        ),
        (
            "import dataclasses\nfrom torchbeast.algorithms import Algorithm\n"
            "@dataclasses.dataclass\nclass Config:\n  batch_size: int = 8\n"
            "class Own(Algorithm):\n  config_type = Config\n",
            ["unroll_length"],
        ),
        ("", ["'Own'"]),
    ],
)
def test_mistakes_are_told(
    run: Run,  # noqa: F811
    tmp_path: pathlib.Path,
    text: str,
    words: list[str],
) -> None:
    file = tmp_path / f"own_{abs(hash(text))}.py"
    file.write_text(text)
    refused(run("train", f"{file}:Own"), *words)
    refused(run("train", str(tmp_path / "missing.py:Own")), "missing.py")
