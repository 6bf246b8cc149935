"""The policy of SAC: a normal distribution squashed by tanh into (-1, 1)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

_LOG_2 = math.log(2)
_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


class TanhGaussian:
    """tanh of independent normals with mean and log_std [..., D]; actions are [..., D]."""

    def __init__(self, mean: Tensor, log_std: Tensor) -> None:
        self.mean = mean
        self.log_std = log_std

    def sample(self) -> Tensor:
        """Returns actions [..., D] drawn with torch's global generator, without gradient."""
        with torch.no_grad():
            return torch.addcmul(self.mean, self.log_std.exp(), torch.randn_like(self.mean)).tanh_()

    def mode(self) -> Tensor:
        """Returns tanh of the mean [..., D]: the median, and what evaluation plays."""
        return self.mean.tanh()

    def sample_with_log_prob(self, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Returns actions [..., D] and their log-probabilities [...]; gradients reach both.

        ``noise`` [..., D] is standard normal; None draws it. SAC, arXiv:1812.05905 appendix C, with
        log(1 - tanh(u)^2) as 2 (log 2 - u - softplus(-2 u)): the difference itself is 0 for |u| > 9
        in float32, and the 1e-6 that is often added to it there is wrong by nats.
        """
        noise = torch.randn_like(self.mean) if noise is None else noise
        u = torch.addcmul(self.mean, self.log_std.exp(), noise)
        # u = mean + std noise, so the normal's density needs no division by std.
        normal = noise.square().mul(-0.5) - self.log_std - _LOG_SQRT_2PI
        return u.tanh(), (normal - _log_slope(u)).sum(-1)


def _log_slope(u: Tensor) -> Tensor:
    """Returns log(d tanh(u) / du) [...]."""
    return 2 * (_LOG_2 - u - functional.softplus(-2 * u))
