"""Linear layers whose weights are noisy: exploration that is learned with them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class NoisyLinear(nn.Linear):
    """A linear layer with factorised noise in its weights, arXiv:1706.10295 equations 10 and 11.

    ``weight`` and ``bias`` are the means, which begin as those of any linear layer do: uniform in
    +-1 / sqrt(in). ``weight_sigma`` and ``bias_sigma`` are learned, too.

    Args:
        in_features: I.
        out_features: O.
        sigma0: the deviation at the start is sigma0 / sqrt(in).
    """

    def __init__(self, in_features: int, out_features: int, sigma0: float = 0.5) -> None:
        super().__init__(in_features, out_features)
        sigma = sigma0 / math.sqrt(in_features)
        self.weight_sigma = nn.Parameter(torch.full((out_features, in_features), sigma))
        self.bias_sigma = nn.Parameter(torch.full((out_features,), sigma))

    def forward(self, input: Tensor) -> Tensor:
        """Returns [..., O] of [..., I]; the noise is new at every call, and one for all rows."""
        weight = self.weight
        noise = torch.randn(
            self.in_features + self.out_features, dtype=weight.dtype, device=weight.device
        )
        return self.perturbed(input, *noise.split((self.in_features, self.out_features)))

    def perturbed(self, x: Tensor, noise_in: Tensor, noise_out: Tensor) -> Tensor:
        """Returns [..., O] of [..., I] for standard normal noise [I] and [O]."""
        f_in, f_out = _signed_sqrt(noise_in), _signed_sqrt(noise_out)
        # Two products instead of one with mu + sigma f_out f_in: making that weight costs memory,
        # whose pages are faulted in anew (dueling network of DQN, one thread: 8 rows in 6 ms
        # instead of 22, with gradient 21 instead of 35; from 64 rows on both cost the same).
        mean = functional.linear(x, self.weight, self.bias)
        deviation = functional.linear(x * f_in, self.weight_sigma, self.bias_sigma)
        return torch.addcmul(mean, deviation, f_out)


def linear(layer: nn.Module, x: Tensor, noise: bool) -> Tensor:
    """Returns what a linear layer makes of x [..., I]; a noisy one its mean without ``noise``."""
    if noise and type(layer) is NoisyLinear:
        return layer(x)
    # Without the call of the module, which costs as much as a small product.
    return functional.linear(x, layer.weight, layer.bias)  # type: ignore[arg-type]


def _signed_sqrt(x: Tensor) -> Tensor:
    return x.abs().sqrt().copysign(x)
