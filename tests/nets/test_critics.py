"""Critics side by side are what each would be alone."""

import pytest
import torch
from torch import nn

from torchbeast.nets.critics import Critics, ParallelLinear
from torchbeast.nets.policy import Bottleneck

F64 = torch.float64
B, F, D, K = 7, 5, 2, 3
KINDS = {
    "plain": {},
    "normed": {"layer_norm": True},
    "relu": {"activation": "relu", "layer_norm": True},
    "many_numbers": {"numbers": 4},
    "discrete": {"action_size": 0, "numbers": 4},
    "one_layer": {"hidden": (6,)},
    "linear": {"hidden": ()},
    "single": {"members": 1},
}


def make(**kind):
    torch.manual_seed(0)
    settings = {"features": F, "action_size": D, "numbers": 1, "hidden": (8, 6)}
    settings |= {"activation": "tanh", "members": K, **kind}
    critics = Critics(**settings).to(F64)
    if critics.norms is not None:  # scales and shifts that differ between members
        with torch.no_grad():
            for p in critics.norms.parameters():
                p.add_(torch.randn_like(p))
    return critics


def inputs(action_size=D):
    features = torch.randn(B, F, dtype=F64)
    return features, torch.rand(B, action_size, dtype=F64) if action_size else None


def alone(critics, k):
    """Member k of PyTorch's own layers, and where the gradient of each of its parameters lies."""
    activation = {"tanh_": nn.Tanh, "relu_": nn.ReLU}[critics.activation.__name__]
    layers, sources = [], []
    for i, layer in enumerate([*critics.layers, critics.last]):
        linear = nn.Linear(*layer.weight.shape[1:], dtype=F64)
        linear.weight.data, linear.bias.data = layer.weight[k].t().detach(), layer.bias[k, 0].data
        sources += [(layer.weight, lambda x: x[k].t()), (layer.bias, lambda x: x[k, 0])]
        layers.append(linear)
        if i == len(critics.layers):
            continue
        if critics.norms is not None:
            norm = nn.LayerNorm(linear.out_features, dtype=F64)
            ours = critics.norms[i]
            norm.weight.data, norm.bias.data = ours.weight[k, 0].data, ours.bias[k, 0].data
            sources += [(ours.weight, lambda x: x[k, 0]), (ours.bias, lambda x: x[k, 0])]
            layers.append(norm)
        layers.append(activation())
    return nn.Sequential(*layers), sources


@pytest.mark.parametrize("kind", KINDS)
def test_members_are_networks_of_their_own(kind):
    critics = make(**KINDS[kind])
    features, action = inputs(KINDS[kind].get("action_size", D))
    members, numbers = KINDS[kind].get("members", K), KINDS[kind].get("numbers", 1)
    answer = critics(features, action)
    assert answer.shape == (members, B, numbers)
    weight = torch.randn_like(answer)
    (answer * weight).sum().backward()
    x = features if action is None else torch.cat([features, action], -1)
    for k in range(members):
        network, sources = alone(critics, k)
        expected = network(x)
        torch.testing.assert_close(answer[k], expected)
        (expected * weight[k]).sum().backward()
        assert len(sources) == len(list(network.parameters()))
        for p, (source, of) in zip(network.parameters(), sources, strict=True):
            torch.testing.assert_close(of(source.grad), p.grad)
    assert all(p.grad is not None for p in critics.parameters())


@pytest.mark.parametrize("kind", ["plain", "normed", "many_numbers"])
def test_the_first_few_members_are_those_of_all(kind):
    critics = make(**KINDS[kind])
    features, action = inputs()
    everyone = critics(features, action)
    for members in (1, 2, 3):
        some = critics(features, action, members=members)
        assert some.shape[0] == members
        torch.testing.assert_close(some, everyone[:members])
    critics(features, action, members=1).sum().backward()
    assert all((p.grad[1:] == 0).all() for p in critics.parameters())
    assert critics.last.weight.grad[0].any()


@pytest.mark.parametrize("members", [None, 1])
@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("convolved", [False, True])
def test_of_frozen_critics_the_gradient_reaches_the_actions(members, layer_norm, convolved):
    critics = make(layer_norm=layer_norm, bottleneck=Bottleneck(F) if convolved else None)
    features, action = inputs()

    def ask(frozen):
        given = action.clone().requires_grad_()
        answer = critics(features, given, members=members, frozen=frozen)
        answer.sum().backward()
        return answer, given.grad

    answer, slope = ask(frozen=True)
    assert all(p.grad is None for p in critics.parameters())
    assert slope.any()
    awake, expected = ask(frozen=False)
    torch.testing.assert_close(answer, awake)
    torch.testing.assert_close(slope, expected)
    assert all(p.grad is not None for p in critics.parameters())


def test_the_bottleneck_is_in_front_of_the_action_and_shared():
    bottleneck = Bottleneck(F)
    critics = make(bottleneck=bottleneck)
    features, action = inputs()
    few = bottleneck(features)
    assert few.shape == (B, 50)
    assert few.abs().max() <= 1
    x = torch.cat([few, action], -1)
    for k, answer in enumerate(critics(features, action)):
        torch.testing.assert_close(answer, alone(critics, k)[0](x))


def test_layers_begin_as_pytorchs_do():
    torch.manual_seed(0)
    for before, after in [(4, 400), (100, 50)]:
        layer, theirs = ParallelLinear(K, before, after), nn.Linear(before, after)
        bound = theirs.weight.detach().abs().max()
        for ours, other in [(layer.weight, theirs.weight), (layer.bias, theirs.bias)]:
            assert ours.abs().max() <= before**-0.5
            assert ours.abs().max() > 0.95 * bound
            assert ours.std().item() == pytest.approx(before**-0.5 / 3**0.5, rel=0.1)
            assert other.std().item() == pytest.approx(ours.std().item(), rel=0.2)
        assert not torch.equal(layer.weight[0], layer.weight[1])


def test_bf16_is_for_the_hidden_layers():
    exact, near = make().float(), make(bf16=True).float()
    features, action = (x.float() for x in inputs())
    a, b = exact(features, action), near(features, action)
    assert b.dtype == torch.float32
    assert not torch.equal(a, b)
    torch.testing.assert_close(a, b, rtol=0.05, atol=0.02)
    near(features, action.requires_grad_(), frozen=True).sum().backward()
    assert action.grad.any()
    assert all(p.grad is None for p in near.parameters())
