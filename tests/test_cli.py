"""The command, as a person types it."""

from __future__ import annotations

import json
import pathlib
import shutil
from collections.abc import Callable

import pytest
import torch
import yaml

from torchbeast import cli

Run = Callable[..., tuple[int, str, str]]
SMALL = ["--batch_size", "2", "--unroll_length", "5", "--torch_threads", "1"]
QUIET = ["--disable_tensorboard", "--eval_episodes", "1"]
CARTPOLE = ["--env", "CartPole-v1", "--total_steps", "100", "--num_envs", "4", *SMALL, *QUIET]


@pytest.fixture
def run(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command on runs in ``tmp_path``; gives its exit code and what it printed."""

    def command(*arguments: str) -> tuple[int, str, str]:
        given = [*arguments]
        if arguments[0] not in ("list", "help", "--help", "--version") and "--help" not in given:
            given += ["--savedir", str(tmp_path)]
        try:
            code = cli.main(given)
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return command


def train(run: Run, *more: str) -> pathlib.Path:
    code, out, err = run("train", "impala", *CARTPOLE, "--xpid", "first", *more)
    assert code == 0, err
    return pathlib.Path(out.split("results in ")[1].splitlines()[0])


def refused(result: tuple[int, str, str], *words: str, code: int = 2) -> str:
    """Checks that a command ended with a clear message."""
    came, out, err = result
    text = out + err
    assert came == code, text
    assert "Traceback" not in text
    for word in words:
        assert word in text, text
    return text


def test_a_run_from_training_to_figure(run: Run, tmp_path: pathlib.Path) -> None:
    path = train(run)
    for name in ("model.tar", "config.yaml", "logs.csv", "fields.csv", "meta.json", "out.log"):
        assert (path / name).is_file(), name
    assert (tmp_path / "latest").resolve() == path
    code, out, _ = run("eval", "latest", "--episodes", "3")
    assert code == 0
    assert out.count("game ") == 3
    assert "over 3 games" in out
    code, out, _ = run("eval", "first", "--episodes", "2", "--explore", "--best", "--json")
    games = json.loads(out)["games"]
    assert [game["env"] for game in games] == [0, 1]
    assert run("eval", str(path), "--episodes", "2", "--json") == run(
        "eval", "first", "--episodes", "2", "--json"
    )
    code, out, err = run("plot", "first")
    assert code == 0, err
    assert (path / "curve.png").stat().st_size > 1000
    code, out, _ = run("list", "runs", "--savedir", str(tmp_path))
    assert (code, "finished" in out) == (0, True)
    code, out, _ = run("resume", "first", "--total_steps", "200")
    assert code == 0
    assert "continues at step 100, exactly where it stopped" in out
    assert "200 steps, mean return" in out


def test_pong_and_its_video(run: Run) -> None:
    pong = ["--env", "PongNoFrameskip-v4", "--total_steps", "20", *SMALL]
    code, out, err = run("train", "impala", *pong, "--eval_episodes", "0", "--xpid", "pong")
    assert code == 0, err
    code, out, err = run("play", "pong", "--max_steps", "12")
    assert code == 0, err
    assert "not finished after 12 steps" in out
    video = pathlib.Path(out.split("video in ")[1].strip())
    assert video.stat().st_size > 500
    settings = yaml.safe_load((video.parents[1] / "config.yaml").read_text())
    assert settings["algorithm"]["entropy_cost"] == 0.01  # of the preset


@pytest.mark.parametrize(
    ("what", "word"),
    [
        ("environments", "CartPole-v1"),
        ("algorithms", "impala"),
        ("presets", "impala_atari"),
        ("networks", "shallow"),
    ],
)
def test_lists(run: Run, what: str, word: str) -> None:
    code, out, _ = run("list", what)
    assert code == 0
    assert word in out


def test_help_and_version(run: Run) -> None:
    assert "torchbeast" in run("--version")[1]
    for arguments in (["help"], ["--help"], ["train", "--help"], ["train", "impala", "--help"]):
        code, out, _ = run(*arguments)
        assert code == 0
        assert "train" in out
    assert "--unroll_length" in out
    assert cli.main([]) == 2
    assert "mlp" in run("list")[1]


def test_settings_go_into_a_file_and_back(run: Run, tmp_path: pathlib.Path) -> None:
    one, other = tmp_path / "one.yaml", tmp_path / "other.yaml"
    flags = [*CARTPOLE, "--network", "mlp", "--hidden_sizes", "7", "9", "--learning_rate", "0.5"]
    assert run("train", "impala", *flags, "--save_config", str(one))[0] == 0
    again = ["--config", str(one), "--save_config", str(other)]
    assert run("train", "impala", *again)[0] == 0
    assert one.read_text() == other.read_text()
    settings = yaml.safe_load(one.read_text())
    assert settings["network"]["hidden_sizes"] == [7, 9]
    assert settings["algorithm"]["learning_rate"] == 0.5
    assert settings["algorithm"]["optimizer"] == "adam"  # of the preset of CartPole
    assert not (tmp_path / "latest").exists()
    run("train", "impala", *again, "--learning_rate", "0.25", "--preset", "none")
    settings = yaml.safe_load(other.read_text())
    assert settings["algorithm"]["learning_rate"] == 0.25  # flags win


def test_presets(run: Run, tmp_path: pathlib.Path) -> None:
    def optimizer(*flags: str) -> str:
        path = tmp_path / "settings.yaml"
        assert run("train", "impala", *flags, "--save_config", str(path))[0] == 0
        return str(yaml.safe_load(path.read_text())["algorithm"]["optimizer"])

    assert optimizer("--env", "CartPole-v1") == "adam"
    assert optimizer("--env", "CartPole-v1", "--preset", "none") == "rmsprop"
    assert optimizer("--env", "TMaze-v0", "--preset", "impala_classic") == "adam"
    assert optimizer("--env", "CartPole-v1", "--optimizer", "rmsprop_tf") == "rmsprop_tf"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--env", "CartPol-v1"], ["CartPole-v1", "nearest"]),
        (["--env", "PonNoFrameskip-v4"], ["PongNoFrameskip-v4"]),
        (["--env", "nomodule:make"], ["nomodule"]),
        (["--preset", "impala_atarri"], ["impala_atari", "nearest"]),
        (["--config", "nothing.yaml"], ["nothing.yaml"]),
        (["--num_envs", "3"], ["batch_size", "3"]),
        (["--num_learners", "3"], ["--batch_size", "3 learners"]),
        (["--num_actors", "3", "--num_learners", "2"], ["--num_actors"]),
        (["--num_actors", "1", "--num_buffers", "1"], ["--num_buffers"]),
        (["--batch_size", "0"], ["--batch_size of at least 1"]),
        (["--total_steps", "-5"], ["--total_steps of at least 1"]),
        (["--network", "shallow"], ["image", "--network"]),
        (["--network", "mpl"], ["--network", "mlp"]),
        (["--network", "nothing.py:Net"], ["nothing.py"]),
        (["--env_workers", "3"], ["--env_workers"]),
        (["--life_loss"], ["--life_loss", "CartPole-v1"]),
        (["--max_lag", "0", "--num_envs", "4"], ["--max_lag 0"]),
        (["--device", "tpu9"], ["--device"]),
        (["--learning_rat", "1"], ["--learning_rate"]),
        (["--optimizer", "sgd"], ["rmsprop"]),
        (["--env_kwargs", "size"], ["NAME=VALUE"]),
        (["--discounting", "1.5"], ["--discounting of 0 to 1"]),
        (["--learning_rate", "-1"], ["--learning_rate of 0 or more"]),
        (["--hidden_sizes", "8", "0"], ["--hidden_sizes of 1 or more"]),
        (["--normalize_rewards", "--reward_clipping", "abs_one"], ["--reward_clipping none"]),
    ],
)
def test_mistakes_are_told_before_anything_starts(
    run: Run, tmp_path: pathlib.Path, flags: list[str], words: list[str]
) -> None:
    refused(run("train", "impala", *CARTPOLE, "--xpid", "x", *flags), *words)
    assert not (tmp_path / "x").exists()


def test_a_cluster_that_would_stay_unused_is_refused(run: Run, tmp_path: pathlib.Path) -> None:
    address = ["--address", "10.0.0.1:6379"]
    refused(run("train", "impala", *CARTPOLE, "--xpid", "first", *address), "--runner cluster")
    assert not (tmp_path / "first").exists()
    train(run)
    refused(run("resume", "first", *address), "--runner cluster")


def test_wrong_names_are_told_the_nearest(run: Run, tmp_path: pathlib.Path) -> None:
    train(run)
    refused(run("trian"), "train")
    refused(run("train", "impalla"), "impala")
    refused(run("train", "--env", "CartPole-v1"), "algorithm")
    refused(run("eval", "fist"), "first")
    refused(run("eval"), "RUN")
    refused(run("plot", "fist"), "first")
    refused(run("plot"), "RUN")
    refused(run("resume", "fist"), "first")
    refused(run("list", "enviroments"), "environments")
    refused(run("eval", "first", "--episodes", "0"), "--episodes")
    bad = tmp_path / "bad.yaml"
    bad.write_text("algorithm: {learning_rte: 1}\n")
    refused(run("train", "impala", "--config", str(bad)), "learning_rte", "learning_rate")


def test_what_exists_is_continued_or_not(run: Run, tmp_path: pathlib.Path) -> None:
    path = train(run)
    train(run, "--xpid", "second")
    again = ["train", "impala", *CARTPOLE, "--xpid", "first"]
    before = (path / "meta.json").read_bytes()
    refused(run(*again, "--restart", "fail"), "first", "--xpid")
    refused(run(*again, "--hidden_sizes", "9"), "--hidden_sizes", "--restart fresh")
    refused(run(*again, "--env", "Acrobot-v1"), "--env CartPole-v1")
    text = refused(run("resume", "first", "--use_lstm"), "--use_lstm")
    assert text.count("\n") <= 2
    assert (path / "meta.json").read_bytes() == before
    assert (tmp_path / "latest").resolve().name == "second"
    code, out, err = run(*again, "--restart", "fresh")
    assert code == 0
    assert "set aside as first.1" in err
    assert "continues" not in out
    assert (tmp_path / "first.1" / "model.tar").is_file()
    assert (path / "model.tar").is_file()


def test_damaged_checkpoints_are_never_a_silent_new_start(run: Run) -> None:
    path = train(run)
    again = ["train", "impala", *CARTPOLE, "--xpid", "first"]
    *older, newest = sorted((path / "checkpoints").glob("ckpt-*"))
    for checkpoint in older:  # nothing to fall back to
        shutil.rmtree(checkpoint)
    for name in ("model.safetensors", "optim.pt", "rng.pt"):
        file = newest / name
        whole = file.read_bytes()
        file.write_bytes(whole[:-20] + bytes([whole[-20] ^ 1]) + whole[-19:])
        refused(run(*again), str(path), name, code=7)
        refused(run("eval", "first"), str(path), name, code=7)
        file.write_bytes(whole)
    assert run(*again)[0] == 0
    shutil.rmtree(path / "checkpoints")
    tar = path / "model.tar"
    whole = tar.read_bytes()
    code, out, _ = run("eval", "first", "--episodes", "1")  # model.tar is enough to play
    assert code == 0
    tar.write_bytes(whole[: len(whole) // 2])
    refused(run(*again), "model.tar", code=7)
    refused(run("eval", "first"), "model.tar", code=7)
    torch.save({"model_state_dict": {"foreign": torch.zeros(1)}}, tar)
    refused(run(*again), "model.tar", code=7)
    parts = torch.load(_written(tar, whole), weights_only=True)
    parts["model_state_dict"] = {"foreign": torch.zeros(1)}
    torch.save(parts, tar)
    refused(run(*again), str(path), "foreign", code=7)
    refused(run("eval", "first"), str(path), "foreign", code=7)
    tar.write_bytes(whole)
    code, out, err = run(*again, "--total_steps", "150")
    assert code == 0, err
    assert "continues at step 100, with new episodes" in out
    (path / "model.tar").unlink()
    shutil.rmtree(path / "checkpoints")
    refused(run("resume", "first"), "checkpoint", code=7)


def _written(path: pathlib.Path, data: bytes) -> pathlib.Path:
    path.write_bytes(data)
    return path


def test_a_run_that_goes_on_is_left_alone(run: Run, tmp_path: pathlib.Path) -> None:
    from torchbeast.tools.run_directory import RunDirectory

    train(run)
    with RunDirectory(tmp_path, "first") as directory:
        assert "has not ended" in run("list", "runs", "--savedir", str(tmp_path))[1]
        refused(run("train", "impala", *CARTPOLE, "--xpid", "first"), "alone", code=6)
        fresh = run("train", "impala", *CARTPOLE, "--xpid", "first", "--restart", "fresh")
        refused(fresh, "alone", code=6)
        assert not (tmp_path / "first.1").exists()
        directory.close(successful=False)
    assert "stopped 20" in run("list", "runs", "--savedir", str(tmp_path))[1]


def test_settings_have_types(tmp_path: pathlib.Path) -> None:
    from torchbeast.runners.config import load_config, parse_count

    assert [parse_count(x) for x in ("300", "3e6", "3M", "500k", "1_000")] == [
        300,
        3_000_000,
        3_000_000,
        500_000,
        1000,
    ]
    with pytest.raises(ValueError, match="whole"):
        parse_count("0.5")

    settings = tmp_path / "settings.yaml"
    for text, words in [
        ("network: {activation: rleu}", "expected tanh or relu, got 'rleu'"),
        ("system: {seed: true}", "expected int, got True"),
        ("system: {sed: 1}", "no setting 'sed'"),
        ("env: 3", "expected settings under 'env'"),
        ("[", "cannot be read"),
    ]:
        settings.write_text(text)
        with pytest.raises(ValueError, match=words):
            load_config(settings)
    settings.write_text("{algorithm: {learning_rate: 1}, network: {hidden_sizes: [3]}}")
    config = load_config(settings)
    assert (config.algorithm.learning_rate, config.network.hidden_sizes) == (1.0, (3,))


def test_settings_of_another_algorithm(run: Run, tmp_path: pathlib.Path) -> None:
    from torchbeast.runners.config import load_config

    path = tmp_path / "settings.yaml"
    assert run("train", "ppo", *CARTPOLE[:2], "--save_config", str(path))[0] == 0
    assert load_config(path).algo == "ppo"
    assert load_config(path).algorithm.num_epochs == 20
    refused(run("train", "a2c", "--config", str(path)), "settings of a2c, got those of ppo")
    train(run)
    again = ["ppo", *CARTPOLE, "--xpid", "first", "--num_envs", "2"]
    refused(run("train", *again), "the algorithm impala", "--xpid")
