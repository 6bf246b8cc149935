"""Noisy layers: equal to their definition, new noise each time, none in evaluation."""

import copy
import math

import pytest
import torch
from ops.golden import cases, check

from torchbeast.nets.noisy import NoisyLinear, linear


def pytest_generate_tests(metafunc):
    """Makes one test of each golden case; `--golden DIR` reads others."""
    if "case" in metafunc.fixturenames:
        root = metafunc.config.getoption("--golden", None)
        found = list(cases("noisy_dueling", root))
        metafunc.parametrize("case", found, ids=[case.name for case in found])


def test_golden(case):
    dtype = torch.float64
    x = case.tensors(dtype)
    layer = NoisyLinear(x["weight_mu"].shape[1], x["weight_mu"].shape[0]).to(dtype)
    layer.load_state_dict(
        {
            "weight": x["weight_mu"],
            "weight_sigma": x["weight_sigma"],
            "bias": x["bias_mu"],
            "bias_sigma": x["bias_sigma"],
        }
    )
    check(layer.perturbed(x["x"], x["eps_in"], x["eps_out"]), case.expected["y"], dtype, "y")
    check(linear(layer, x["x"], noise=False), case.expected["y_mean"], dtype, "y_mean")


def test_noise_is_new_at_every_call_and_in_every_copy():
    layer = NoisyLinear(4, 3)
    target = copy.deepcopy(layer)
    x = torch.randn(2, 4)
    outputs = [linear(layer, x, True), linear(layer, x, True), linear(target, x, True)]
    assert len({tuple(y.flatten().tolist()) for y in outputs}) == 3
    assert torch.equal(linear(layer, x, False), linear(target, x, False))
    torch.manual_seed(3)
    first = layer(x)
    torch.manual_seed(3)
    assert torch.equal(layer(x), first)


def test_a_plain_layer_has_no_noise():
    layer = torch.nn.Linear(4, 3)
    x = torch.randn(2, 4)
    assert torch.equal(linear(layer, x, True), layer(x))


def test_gradients_reach_means_and_deviations():
    layer = NoisyLinear(4, 3).double()
    x = torch.randn(5, 4, dtype=torch.float64)
    noise_in, noise_out = torch.randn(4).double(), torch.randn(3).double()
    f_in, f_out = (n.sign() * n.abs().sqrt() for n in (noise_in, noise_out))
    layer.perturbed(x, noise_in, noise_out).sum().backward()
    total = x.sum(0).expand(3, 4)
    torch.testing.assert_close(layer.weight.grad, total)
    torch.testing.assert_close(layer.weight_sigma.grad, total * torch.outer(f_out, f_in))
    torch.testing.assert_close(layer.bias_sigma.grad, 5 * f_out)


@pytest.mark.parametrize("sigma0", [0.5, 0.1])
def test_the_start_is_the_papers(sigma0):
    torch.manual_seed(0)
    layer = NoisyLinear(400, 30, sigma0)
    bound = 1 / math.sqrt(400)
    for mean in (layer.weight, layer.bias):
        assert bound * 0.9 < mean.abs().max() <= bound
    assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    for sigma in (layer.weight_sigma, layer.bias_sigma):
        assert sigma.unique().tolist() == pytest.approx([sigma0 * bound])


def test_the_deviation_of_the_output_is_what_sigma_says():
    torch.manual_seed(0)
    layer = NoisyLinear(1, 1, 1.0).double()
    x = torch.full((1, 1), 2.0, dtype=torch.float64)
    outputs = torch.cat([layer(x) for _ in range(4000)])
    # f(n)^2 = |n|, whose mean is sqrt(2 / pi): Var = 4 (2 / pi) + sqrt(2 / pi), uncorrelated.
    mean_abs = math.sqrt(2 / math.pi)
    assert outputs.var().item() == pytest.approx(4 * mean_abs**2 + mean_abs, rel=0.1)
    assert outputs.mean().item() == pytest.approx(linear(layer, x, False).item(), abs=0.1)
