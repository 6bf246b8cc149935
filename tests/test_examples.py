"""The user's own code, as the guide has it: trained, resumed and played by the same commands."""

from __future__ import annotations

import dataclasses
import pathlib
import pickle

import pytest
from test_cli import Run, refused, run  # noqa: F401

from torchbeast.runners.config import default_config, load_config

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
    config = default_config(ALGORITHM)
    settings = dataclasses.replace(config.algorithm, learning_rate=0.5)
    config = dataclasses.replace(config, algorithm=settings)
    again = pickle.loads(pickle.dumps(config))
    assert again == config
    assert again.algo == ALGORITHM
    assert again.algorithm.learning_rate == 0.5


INHERITS = """
from torchbeast.algorithms.ppo import PPO

class Loud(PPO):
    def update(self, batch, steps):
        update = super().update(batch, steps)
        return update._replace(metrics=update.metrics | {"loud": update.metrics["kl"] * 0 + 7})
"""


def test_it_may_inherit_the_settings(run: Run, tmp_path: pathlib.Path) -> None:  # noqa: F811
    (tmp_path / "loud.py").write_text(INHERITS)
    flags = ["--num_learners", "2", "--xpid", "own"]
    code, out, err = run("train", f"{tmp_path}/loud.py:Loud", *SMALL, *flags)
    assert code == 0, out + err
    header = (tmp_path / "own" / "logs.csv").read_text().splitlines()[0]
    assert "loud" in header.split(",")


def test_files_are_found_from_any_folder(
    run: Run,  # noqa: F811
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(EXAMPLES)
    flags = ["--env", "own_env.py:make_env", "--network", "own_network.py:Encoder"]
    common = ["--unroll_length", "8", "--batch_size", "4", *QUIET, "--xpid", "own"]
    code, out, err = run(
        "train", "own_algorithm.py:Reinforce", *flags, *common, "--total_steps", "64"
    )
    assert code == 0, out + err
    monkeypatch.chdir(tmp_path)
    code, out, err = run("resume", "own", "--total_steps", "128")
    assert code == 0, out + err


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
        (
            "import dataclasses\nfrom torchbeast.algorithms import Algorithm\n"
            "@dataclasses.dataclass\nclass Config:\n  batch_size: int = 8\n"
            "  unroll_length: int = 8\n  seed: int = 0\n"
            "class Own(Algorithm):\n  config_type = Config\n",
            ["seed", "names of their own"],
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


@pytest.mark.parametrize("place", ["algorithm", "network", "env"])
def test_a_file_that_cannot_be_imported(run: Run, tmp_path: pathlib.Path, place: str) -> None:  # noqa: F811
    file = tmp_path / f"broken_{place}.py"
    file.write_text("def f(:")
    name = f"{file}:Own"
    flags = {"network": ["--network", name], "env": ["--env", name]}.get(place, [])
    code, out, err = run("train", name if place == "algorithm" else "ppo", *SMALL, *flags)
    assert code == 2
    assert file.name in out + err
    assert "SyntaxError" in out + err  # with the user's own traceback
    assert "torchbeast/commands" not in out + err
