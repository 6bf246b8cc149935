"""Networks of the user's own learn like ours, and their mistakes show at the start."""

import pytest
import torch
from gymnasium import spaces

from torchbeast.data import EnvSpec
from torchbeast.nets import NetworkConfig, Normalised, PolicyValueNet, build, is_recurrent

from .samples import sample_rows

SPEC = EnvSpec(spaces.Box(-9, 9, (3, 2)), spaces.Discrete(4))
HEAD = """
import torch
from torch import nn
from torchbeast.nets import PolicyValue
from torchbeast.ops import Categorical
"""
ENCODER = """
class Net(nn.Module):
    def __init__(self, spec):
        super().__init__()
        self.out_features = 5
        self.linear = nn.Linear(6, 5)

    def forward(self, obs):
        return self.linear(obs.flatten(2)).relu()
"""
MODEL = """
class Net(nn.Module):
    def __init__(self, spec):
        super().__init__()
        self.linear = nn.Linear(6, int(spec.action.n) + 1)
        self.norm = nn.BatchNorm1d(6)

    def forward(self, rows, state):
        x = self.norm(rows.obs.flatten(2).flatten(0, 1)).unflatten(0, rows.reward.shape)
        x = self.linear(x)
        return PolicyValue(x[..., 1:], x[..., 0]), (state[0] + 1,)

    def initial_state(self, batch_size):
        return (torch.zeros(1, batch_size, 1),)

    def distribution(self, logits):
        return Categorical(logits)
"""


@pytest.fixture
def write(tmp_path):
    def write(code, *changes):
        for old, new in changes:
            assert old in code
            code = code.replace(old, new)
        path = tmp_path / "net.py"
        path.write_text(HEAD + code)
        return f"{path}:Net"

    return write


ACTIONS = [SPEC.action, spaces.Box(-2, 2, (2,)), spaces.Dict({"a": spaces.MultiBinary(2)})]


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("use_lstm", [False, True])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_an_encoder_gets_memory_heads_and_the_rest(write, action, use_lstm, precision):
    spec = EnvSpec(SPEC.observation, action)
    config = NetworkConfig(
        network=write(ENCODER),
        use_lstm=use_lstm,
        precision=precision,
        normalize_observations=True,
    )
    net = build(config, spec)
    assert isinstance(net, Normalised)
    assert isinstance(net.model, PolicyValueNet)
    assert is_recurrent(net) == use_lstm
    rows = sample_rows(spec, 4, 2)
    state = net.initial_state(2)
    assert all(x.shape == (1, 2, 256) for x in state)
    output, _ = net(rows, state)
    policy = net.distribution(output.logits)
    (policy.log_prob(policy.sample()) + output.value).sum().backward()
    assert net.model.encoder.linear.weight.grad.abs().sum() > 0


def test_an_encoder_is_not_shown_the_mask(write):
    observation = spaces.Dict({"action_mask": spaces.MultiBinary(4), "x": SPEC.observation})
    spec = EnvSpec(observation, SPEC.action)
    code = (
        ("super().__init__()", "super().__init__(); self.keys = list(spec.observation)"),
        ("return", "assert list(obs) == self.keys == ['x']; obs = obs['x']; return"),
    )
    net = build(NetworkConfig(network=write(ENCODER, *code)), spec)
    rows = sample_rows(spec, 1, 2)
    rows.obs["action_mask"][:] = torch.tensor([0, 0, 1, 0])
    output, _ = net(rows, ())
    assert (net.distribution(output.logits).sample() == 2).all()


def test_a_whole_model_stays_what_it_is(write):
    net = build(NetworkConfig(network=write(MODEL)), SPEC)
    assert type(net).__name__ == "Net"
    assert net.training
    assert net.norm.num_batches_tracked == 0, "the trial left a trace"
    assert is_recurrent(net)
    output, _ = net(sample_rows(SPEC, 3, 2), net.initial_state(2))
    assert output.logits.shape == (3, 2, 4)


def test_a_whole_model_can_be_normalised(write):
    config = NetworkConfig(network=write(MODEL), normalize_rewards=True)
    net = build(config, SPEC)
    _, state = net(sample_rows(SPEC, 3, 2), net.initial_state(2))
    assert state["return"].shape == (1, 2, 1)
    assert state["model"][0].tolist() == [[[1.0], [1.0]]]


@pytest.mark.parametrize(
    ("code", "old", "new", "message"),
    [
        (ENCODER, "out_features = 5", "out_features = 7", r"features \[3, 2, 7\].*\[3, 2, 5\]"),
        (ENCODER, "flatten(2)", "flatten(1)", r"failed on observations.*net\.py"),
        (ENCODER, ".relu()", ".relu()[0]", r"features \[3, 2, 5\].*got torch.float32 \[2, 5\]"),
        (ENCODER, "nn.Linear(6, 5)", "nn.Linear(6)", r"could not be made.*net\.py"),
        (ENCODER, "class Net(nn.Module)", "class Net(object)", r"make an nn.Module"),
        (MODEL, "initial_state", "start", r"got neither out_features nor initial_state"),
        (MODEL, "distribution", "policy", r"got neither out_features nor distribution"),
        (MODEL, "x[..., 0])", "x[..., :1])", r"value \[3, 2\] from.*got torch.float32 \[3, 2, 1\]"),
        (MODEL, "x[..., 1:]", "x[0, :, 1:]", r"logits \[3, 2, P\]"),
        (MODEL, "PolicyValue(x[..., 1:], x[..., 0])", "x", r"return \(PolicyValue"),
        (MODEL, "(state[0] + 1,)", "()", r"a state like its initial_state"),
        (MODEL, "(1, batch_size, 1)", "(batch_size, 1)", r"a tree of \[N, 2, ...\] or \(\)"),
        (MODEL, "Categorical(logits)", "Categorical(logits[0])", r"expected actions \[3, 2\]"),
    ],
)
def test_a_mistake_is_told_before_the_run(write, code, old, new, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        build(NetworkConfig(network=write(code, (old, new))), SPEC)


def test_settings_that_a_whole_model_cannot_follow(write):
    name = write(MODEL)
    with pytest.raises(ValueError, match="no --use_lstm with the whole model"):
        build(NetworkConfig(network=name, use_lstm=True), SPEC)
    with pytest.raises(ValueError, match="no --precision with the whole model"):
        build(NetworkConfig(network=name, precision="bf16"), SPEC)


def test_a_class_that_is_not_there():
    with pytest.raises(ValueError, match=r"expected a Python file, got 'nets\.py'"):
        build(NetworkConfig(network="nets.py:Net"), SPEC)
