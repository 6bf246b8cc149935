"""Heads of Q-learning: shapes, the duel, and quantiles at any fraction."""

import math

import pytest
import torch
from ops.golden import cases, check

from torchbeast.nets.noisy import NoisyLinear
from torchbeast.nets.q_heads import QHead, QuantileHead, duel

F, A = 6, 4


def pytest_generate_tests(metafunc):
    """Makes one test of each golden case; `--golden DIR` reads others."""
    if "case" in metafunc.fixturenames:
        root = metafunc.config.getoption("--golden", None)
        found = list(cases("noisy_dueling", root))
        metafunc.parametrize("case", found, ids=[case.name for case in found])


def test_golden(case):
    dtype = torch.float64
    x = case.tensors(dtype)
    q = duel(x["value"].unsqueeze(-1), x["advantage"].unsqueeze(-1)).squeeze(-1)
    check(q, case.expected["dueling_q"], dtype, "dueling_q")
    logits = duel(x["value_atoms"], x["advantage_atoms"])
    check(logits, case.expected["dueling_logits"], dtype, "dueling_logits")


@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("hidden", [(), (5,), (5, 7)])
@pytest.mark.parametrize("numbers", [1, 3])
def test_shapes_and_gradients(dueling, noisy, hidden, numbers):
    head = QHead(F, A, numbers, hidden, "relu", dueling, noisy, layer_norm=True)
    y = head(torch.randn(2, 3, F))
    assert y.shape == (2, 3, A, numbers)
    (y * torch.randn_like(y)).sum().backward()
    assert all(p.grad.isfinite().all() for p in head.parameters())
    sigmas = [p for name, p in head.named_parameters() if name.endswith("weight_sigma")]
    assert len(sigmas) == (len(hidden) + 1) * (1 + dueling) * noisy
    assert all(p.grad.any() for p in sigmas)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("layer_norm", [False, True])
def test_a_head_equals_its_definition(activation, layer_norm):
    torch.manual_seed(0)
    head = QHead(F, A, 3, (5,), activation, True, False, layer_norm).double()
    x = torch.randn(2, 3, F, dtype=torch.float64)

    def stream(part):
        (hidden,) = part.layers
        h = x @ hidden.weight.T + hidden.bias
        if layer_norm:
            spread = (h.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
            h = (h - h.mean(-1, keepdim=True)) / spread
        return getattr(torch, activation)(h) @ part.last.weight.T + part.last.bias

    value, advantage = stream(head.value), stream(head.actions).view(2, 3, A, 3)
    expected = value.view(2, 3, 1, 3) + advantage - advantage.mean(2, keepdim=True)
    torch.testing.assert_close(head(x), expected)


@pytest.mark.parametrize("numbers", [1, 3])
def test_a_constant_in_the_advantages_changes_nothing(numbers):
    head = QHead(F, A, numbers, (5,), dueling=True).double()
    x = torch.randn(2, 3, F, dtype=torch.float64)
    before = head(x)
    with torch.no_grad():
        head.actions.last.bias.add_(torch.arange(1.0, 1 + numbers).repeat(A))
    torch.testing.assert_close(head(x), before)
    with torch.no_grad():
        head.value.last.bias.add_(1)
    torch.testing.assert_close(head(x), before + 1)


def test_every_linear_layer_of_a_noisy_head_is_noisy():
    head = QHead(F, A, 1, (5, 7), dueling=True, noisy=True)
    layers = [m for m in head.modules() if isinstance(m, torch.nn.Linear)]
    assert len(layers) == 6
    assert all(isinstance(layer, NoisyLinear) for layer in layers)
    x = torch.randn(1, 2, F)
    assert not torch.equal(head(x), head(x))
    assert torch.equal(head(x, False), head(x, False))


def test_quantiles_equal_their_definition():
    torch.manual_seed(0)
    head = QuantileHead(QHead(F, A, 1, (5,), dueling=True), F).double()
    x, taus = torch.randn(2, 3, F).double(), torch.rand(2, 3, 7).double()
    answer = head(x, taus)
    assert answer.shape == (2, 3, A, 7)
    for k in range(7):
        cosines = [torch.cos(math.pi * i * taus[..., k]) for i in range(64)]
        phi = torch.relu(torch.stack(cosines, -1) @ head.phi.weight.T + head.phi.bias)
        torch.testing.assert_close(answer[..., k], head.head(x * phi).squeeze(-1))
    only = head(x, taus[..., :1])
    torch.testing.assert_close(only, answer[..., :1])  # each quantile depends on its own tau


def test_quantiles_of_a_noisy_head():
    head = QuantileHead(QHead(F, A, 1, (5,), noisy=True), F)
    x, taus = torch.randn(2, 3, F), torch.rand(2, 3, 7)
    assert not torch.equal(head(x, taus), head(x, taus))
    assert torch.equal(head(x, taus, False), head(x, taus, False))
    head(x, taus).square().sum().backward()
    assert head.phi.weight.grad.any()
    assert head.head.actions.last.weight_sigma.grad.any()
