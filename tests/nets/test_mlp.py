"""The MLP starts orthogonal and is what it says."""

import pytest
import torch

from torchbeast.nets.mlp import MLP


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_an_mlp_equals_its_definition(activation):
    torch.manual_seed(0)
    net = MLP(5, (8, 6), activation)
    x = torch.randn(4, 2, 5)
    y = x
    for layer in net.layers:
        y = getattr(torch, activation)(y @ layer.weight.T + layer.bias)
    assert net.out_features == 6
    torch.testing.assert_close(net(x), y, rtol=1e-5, atol=1e-6)


def test_weights_start_orthogonal_with_gain_sqrt_2():
    (layer,) = MLP(4, (8,)).layers
    weight = layer.weight.detach()
    torch.testing.assert_close(weight.T @ weight, 2 * torch.eye(4), rtol=1e-4, atol=1e-5)
    assert not layer.bias.any()
