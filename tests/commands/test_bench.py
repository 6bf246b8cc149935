"""The bench measures what it says: its numbers fit together, and failures are told."""

from __future__ import annotations

import json
import multiprocessing
import sys

import pytest
from processes import in_time
from runners.test_run import PROBES

from torchbeast import cli
from torchbeast.envs import EnvConfig
from torchbeast.runners.checks import checked
from torchbeast.runners.config import RunConfig
from torchbeast.runners.pieces import Pieces
from torchbeast.runners.ranks import RankFailed
from torchbeast.runners.speed import measure, summary

SMALL = ["--env", "CartPole-v1", "--preset", "none", "--unroll_length", "5", "--batch_size", "4"]
FAST = ["--rounds", "2", "--seconds", "0.05", "--torch_threads", "1"]
PIECES = ("env", "forward", "update")


@pytest.mark.parametrize(
    "flags",
    [
        ["--num_learners", "1"],
        pytest.param(["--num_learners", "2"], marks=pytest.mark.slow),
        ["--num_actors", "1"],
    ],
)
def test_numbers_fit_together(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", *SMALL, *FAST, *flags, "--json"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    told = json.loads(out)
    for name in (*PIECES, "end_to_end", "all_reduce"):
        assert len(told["rounds"][name]) == told["num_rounds"] == 2
    for name in (*PIECES, "end_to_end"):
        speed = told[name]
        assert 0 < speed["min"] <= speed["median"] <= speed["max"]
        assert speed["median"] == pytest.approx(sum(told["rounds"][name]) / 2)
    bound = 1 / sum(1 / told[name]["median"] for name in PIECES)
    assert told["bound"] == pytest.approx(bound)
    assert told["efficiency"] == pytest.approx(told["end_to_end"]["median"] / bound)
    assert (told["all_reduce_ms"]["median"] > 0) == ("2" in flags and "--num_learners" in flags)
    assert told["settings"]["env"] == "CartPole-v1"
    assert told["settings"]["network"] == "mlp"
    assert {"cpu_model", "cpu_allowed", "torch", "load_average"} <= told["machine"].keys()
    assert in_time(lambda: multiprocessing.active_children() == [])


def test_the_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    speed = summary(
        {
            "env": [6000.0, 5000.0, 7000.0],
            "forward": [3000.0] * 3,
            "update": [2000.0] * 3,
            "all_reduce": [0.004, 0.005, 0.006],
            "end_to_end": [900.0, 800.0, 1000.0],
        }
    )
    assert speed.env == (6000, 5000, 7000)
    assert speed.bound == pytest.approx(1000)
    assert speed.efficiency == pytest.approx(0.9)
    module = sys.modules["torchbeast.commands.bench"]  # its room has a function of that name
    monkeypatch.setattr(module, "measure", lambda *_: speed)
    assert cli.main(["bench", "impala", *SMALL]) == 0
    out = capsys.readouterr().out
    for text in ("CartPole-v1", "6,000", "5,000", "7,000", "1,000", "90.0%", "5.00"):
        assert text in out, out


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--rounds", "0"], "--rounds"),
        (["--seconds", "0"], "--seconds"),
        (["--seconds", "999"], "--seconds"),
        (["--rounds", "few"], "--rounds"),
        (["--env", "CartPol-v1"], "CartPole-v1"),
        (["--num_learners", "3"], "3 learners"),
        (["--unroll_lenth", "3"], "--unroll_length"),
    ],
)
def test_mistakes_are_told(flags: list[str], word: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = cli.main(["bench", *SMALL, *flags])
    except SystemExit as end:
        code = int(end.code or 0)
    assert code == 2
    captured = capsys.readouterr()
    assert word in captured.out + captured.err


def test_an_unknown_algorithm_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "impalla"]) == 2
    assert "impala" in capsys.readouterr().err
    with pytest.raises(SystemExit) as end:
        cli.main(["bench", "--help"])
    assert end.value.code == 0
    out = capsys.readouterr().out
    assert "--rounds" in out
    assert "--unroll_length" in out


def test_the_update_leaves_the_weights_as_they_are() -> None:
    pieces = Pieces(checked(RunConfig(env=EnvConfig("CartPole-v1"))), 0)
    model = pieces._algorithm.model
    before = [p.detach().clone() for p in model.parameters()]
    for piece in (*PIECES, "all_reduce"):
        steps, seconds = pieces.measure(piece, 2)
        assert seconds > 0
        assert steps == 2 * 80 * (8 if piece in ("update", "all_reduce") else 16)
    assert all((p == q).all() for p, q in zip(model.parameters(), before, strict=True))
    assert any(p.grad.abs().sum() > 0 for p in model.parameters())
    pieces.close()


def test_an_environment_that_breaks_is_told() -> None:
    kwargs = {"kind": "raise", "at_step": 20}
    config = checked(RunConfig(env=EnvConfig(f"{PROBES}:fault", env_kwargs=kwargs)))
    with pytest.raises(RankFailed, match="broken in step"):
        measure(config, 1, 0.1)
