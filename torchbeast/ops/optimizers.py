"""Optimizers that torch lacks, and gradient clipping as the papers did it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class RMSPropTF(torch.optim.Optimizer):
    """TensorFlow's RMSProp, which the IMPALA paper (arXiv:1802.01561, table G.1) was tuned with.

        ms = alpha ms + (1 - alpha) g^2            ms starts at 1
        buf = momentum buf + lr g / sqrt(ms + eps)
        p = p - buf

    `torch.optim.RMSprop`, which the ancestors used, starts ms at 0 and adds eps outside the root:
    its first steps are much longer, and an eps of one means about its square in the other.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        alpha: float = 0.99,
        eps: float = 0.1,
        momentum: float = 0.0,
        initial_square: float = 1.0,
    ) -> None:
        for name, value in (("lr", lr), ("momentum", momentum), ("initial_square", initial_square)):
            if value < 0.0:
                raise ValueError(f"expected {name} of at least 0, got {value}")
        if eps <= 0.0 or not 0.0 <= alpha <= 1.0:
            raise ValueError(f"expected eps above 0 and alpha in [0, 1], got {eps} and {alpha}")
        defaults = {"lr": lr, "alpha": alpha, "eps": eps, "momentum": momentum}
        super().__init__(params, {**defaults, "initial_square": initial_square})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Does one step on all parameters with a gradient; returns the closure's loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                self._step_group(group, params)
        return loss

    def _step_group(self, group: dict[str, Any], params: list[Tensor]) -> None:
        grads = [p.grad for p in params if p.grad is not None]
        states = [self._state_of(p, group) for p in params]
        squares = [state["square_avg"] for state in states]
        torch._foreach_mul_(squares, group["alpha"])
        torch._foreach_addcmul_(squares, grads, grads, value=1.0 - group["alpha"])
        scales = torch._foreach_add(squares, group["eps"])
        torch._foreach_sqrt_(scales)
        if group["momentum"] > 0.0:
            buffers = [state["momentum_buffer"] for state in states]
            # The learning rate goes into the buffer, as in TensorFlow: a schedule then acts on
            # new gradients only.
            torch._foreach_mul_(buffers, group["momentum"])
            torch._foreach_addcdiv_(buffers, grads, scales, value=group["lr"])
            torch._foreach_sub_(params, buffers)
        else:
            torch._foreach_addcdiv_(params, grads, scales, value=-group["lr"])

    def _state_of(self, param: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[param]
        if "square_avg" not in state:
            state["square_avg"] = torch.full_like(param, group["initial_square"])
        if group["momentum"] > 0.0 and "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(param)
        return state


def make_optimizer(
    name: str,
    parameters: Iterable[Tensor],
    learning_rate: float,
    *,
    epsilon: float,
    alpha: float = 0.99,
    momentum: float = 0.0,
) -> torch.optim.Optimizer:
    """Returns the optimizer of that name over the parameters.

    rmsprop is PyTorch's, rmsprop_tf is `RMSPropTF`; adam and radam have no use for
    alpha and momentum.
    """
    parameters = list(parameters)
    if name == "rmsprop":
        return torch.optim.RMSprop(parameters, learning_rate, alpha, epsilon, momentum=momentum)
    if name == "rmsprop_tf":
        return RMSPropTF(parameters, learning_rate, alpha, epsilon, momentum)
    if name == "adam":
        return torch.optim.Adam(parameters, learning_rate, eps=epsilon, fused=True)
    if name == "radam":
        return torch.optim.RAdam(parameters, learning_rate, eps=epsilon)
    raise ValueError(f"expected the optimizer rmsprop, rmsprop_tf, adam or radam, got {name!r}")


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Makes the next steps of all parameters that long."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


@torch.no_grad()
def clip_grad_norm(parameters: Iterable[Tensor], max_norm: float | None) -> Tensor:
    """Returns the global norm of the gradients [], after scaling them in place to max_norm at most.

    `tf.clip_by_global_norm`, as IMPALA used it (arXiv:1802.01561, table G.1). Unlike
    `torch.nn.utils.clip_grad_norm_` it adds no 1e-6 to the norm. No synchronisation with a GPU.
    None and infinity leave the gradients as they are.
    """
    grads = [p.grad for p in parameters if p.grad is not None]
    if not grads:
        return torch.zeros(())
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
    if max_norm is None or max_norm == math.inf:
        return norm
    # A GPU is not asked for the norm; a CPU is spared the pass over the gradients.
    if norm.is_cuda or norm > max_norm:
        torch._foreach_mul_(grads, max_norm / norm.clamp(min=max_norm))
    return norm
