"""TensorFlow's RMSProp against its recurrence written out, and gradient clipping."""

from __future__ import annotations

import io
import math

import pytest
import torch

from torchbeast import ops


def param(value: float, grad: float) -> torch.nn.Parameter:
    p = torch.nn.Parameter(torch.tensor([value], dtype=torch.float64))
    p.grad = torch.tensor([grad], dtype=torch.float64)
    return p


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_rmsprop_follows_the_recurrence(momentum: float) -> None:
    lr, alpha, eps = 0.01, 0.95, 0.1
    p = param(1.0, 0.0)
    optimizer = ops.RMSPropTF([p], lr=lr, alpha=alpha, eps=eps, momentum=momentum)
    value, square, buffer = 1.0, 1.0, 0.0
    for g in (0.5, -2.0, 3.0, 0.1):
        lr *= 0.5  # a schedule changes it between steps
        optimizer.param_groups[0]["lr"] = lr
        p.grad = torch.tensor([g], dtype=torch.float64)
        optimizer.step()
        square = alpha * square + (1 - alpha) * g * g
        buffer = momentum * buffer + lr * g / math.sqrt(square + eps)
        value -= buffer
        assert p.item() == pytest.approx(value, rel=1e-12)


def test_parameters_without_gradient_stay_and_groups_have_their_own_rate() -> None:
    a, b, c = param(1.0, 1.0), param(1.0, 1.0), param(1.0, 1.0)
    c.grad = None
    optimizer = ops.RMSPropTF([{"params": [a, c]}, {"params": [b], "lr": 0.2}], lr=0.1)
    optimizer.step()
    assert c.item() == 1.0
    assert c not in optimizer.state
    assert 1 - b.item() == pytest.approx(2 * (1 - a.item()))


def test_closure_returns_its_loss() -> None:
    p = param(3.0, 0.0)
    optimizer = ops.RMSPropTF([p], lr=0.1)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (p**2).sum()
        loss.backward()
        return loss

    losses = [optimizer.step(closure).item() for _ in range(50)]
    assert losses[0] == 9.0
    assert losses[-1] < 1e-2


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_resume_is_no_interruption(momentum: float) -> None:
    def net() -> torch.nn.Module:
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 1))

    def steps(model: torch.nn.Module, optimizer: torch.optim.Optimizer, n: int) -> None:
        for i in range(n):
            optimizer.zero_grad()
            model(torch.full((2, 3), 1.0 + i)).square().sum().backward()
            optimizer.step()

    one = net()
    optimizer = ops.RMSPropTF(one.parameters(), lr=0.01, momentum=momentum)
    steps(one, optimizer, 3)
    file = io.BytesIO()
    torch.save({"model": one.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    two = net()
    resumed = ops.RMSPropTF(two.parameters(), lr=1.0, momentum=momentum)
    two.load_state_dict(saved["model"])
    resumed.load_state_dict(saved["optimizer"])
    steps(one, optimizer, 2)
    steps(two, resumed, 2)
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), two.parameters(), strict=True))


@pytest.mark.parametrize(
    "bad", [{"lr": -1.0}, {"eps": 0.0}, {"alpha": 1.5}, {"momentum": -0.1}, {"initial_square": -1}]
)
def test_nonsense_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"expected .*{next(iter(bad))}"):
        ops.RMSPropTF([param(1.0, 1.0)], **bad)


@pytest.mark.parametrize("name", ["rmsprop", "rmsprop_tf", "adam", "radam"])
def test_optimizers_by_name(name: str) -> None:
    p, q = param(1.0, 0.3), param(1.0, 0.3)
    common = {"lr": 0.01, "eps": 1e-3}
    expected: torch.optim.Optimizer = {
        "rmsprop": lambda: torch.optim.RMSprop([q], **common, alpha=0.9, momentum=0.5),
        "rmsprop_tf": lambda: ops.RMSPropTF([q], **common, alpha=0.9, momentum=0.5),
        "adam": lambda: torch.optim.Adam([q], **common),
        "radam": lambda: torch.optim.RAdam([q], **common),
    }[name]()
    generator = (x for x in [p])
    made = ops.make_optimizer(name, generator, 0.01, epsilon=1e-3, alpha=0.9, momentum=0.5)
    assert type(made) is type(expected)
    for _ in range(3):
        made.step()
        expected.step()
    assert p.item() != 1.0
    assert p.item() == pytest.approx(q.item(), rel=1e-12)


def test_unknown_optimizer_is_refused() -> None:
    with pytest.raises(ValueError, match="rmsprop, rmsprop_tf, adam or radam, got 'sgd'"):
        ops.make_optimizer("sgd", [param(1.0, 1.0)], 0.1, epsilon=1e-3)


@pytest.mark.parametrize("max_norm", [1.0, 4.9, 5.1])
def test_clipping_scales_all_gradients_together(max_norm: float) -> None:
    a, b, c = param(0.0, 3.0), param(0.0, 4.0), param(0.0, 1.0)
    c.grad = None
    norm = ops.clip_grad_norm((p for p in (a, b, c)), max_norm)
    scale = min(1.0, max_norm / 5.0)
    assert norm.item() == pytest.approx(5.0, rel=1e-12)
    assert a.grad is not None
    assert a.grad.item() == pytest.approx(3 * scale, rel=1e-12)
    assert b.grad is not None
    assert b.grad.item() == pytest.approx(4 * scale, rel=1e-12)


def test_clipping_without_gradients_or_with_zero_ones() -> None:
    p = torch.nn.Parameter(torch.zeros(2))
    assert ops.clip_grad_norm([p], 1.0) == 0
    p.grad = torch.zeros(2)
    assert ops.clip_grad_norm([p], 1.0) == 0
    assert (p.grad == 0).all()
