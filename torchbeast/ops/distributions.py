"""Policies as distributions over actions: only what acting and learning use, unvalidated.

Acting builds one of these for every row, and `torch.distributions` halves its speed.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


def mask_logits(logits: Tensor, mask: Tensor) -> Tensor:
    """Returns logits [..., A] under which actions with mask 0 have probability exactly 0.

    The forbidden ones become the smallest finite number, not -inf: entropies, gradients and
    ratios stay finite, and a row that forbids everything (as some games send with their final
    observation) is uniform instead of nan.
    """
    if mask.shape[-1] != logits.shape[-1]:
        raise ValueError(
            f"expected a mask of {logits.shape[-1]} actions for logits {list(logits.shape)}, "
            f"got {list(mask.shape)}"
        )
    return logits.masked_fill(mask == 0, torch.finfo(logits.dtype).min)


class Categorical:
    """One discrete action from logits [..., A]; actions are int64 [...]."""

    def __init__(self, logits: Tensor) -> None:
        # Half precision has too few values for the noise of `sample` (ties go to the first
        # action) and for the ratios of off-policy learning.
        self.logits = logits if logits.dtype.itemsize >= 4 else logits.float()
        self._log_probs: Tensor | None = None

    @property
    def log_probs(self) -> Tensor:
        """Normalised logits, [..., A]; computed when first needed."""
        if self._log_probs is None:
            self._log_probs = torch.log_softmax(self.logits, -1)
        return self._log_probs

    def sample(self) -> Tensor:
        """Returns actions [...] drawn with torch's global generator."""
        # argmax(p / E) with E ~ Exp(1), the Gumbel trick without its second logarithm: needs no
        # normalisation, no reshaping and no check of the input, as multinomial does.
        with torch.no_grad():
            noise = torch.empty_like(self.logits).exponential_().log_()
            return torch.sub(self.logits, noise).argmax(-1)

    def mode(self) -> Tensor:
        """Returns the most probable actions [...]."""
        return self.logits.argmax(-1)

    def log_prob(self, action: Tensor) -> Tensor:
        """Returns log p(action) [...]."""
        return self.log_probs.gather(-1, action.unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Tensor:
        """Returns the entropy in nats [...]; impossible actions contribute 0."""
        return -(self.log_probs.exp() * _finite(self.log_probs)).sum(-1)

    def kl(self, other: Categorical) -> Tensor:
        """Returns KL(self || other) [...]."""
        difference = _finite(self.log_probs) - _finite(other.log_probs)
        return (self.log_probs.exp() * difference).sum(-1)


class MultiCategorical:
    """K independent discrete actions from logits [..., sum(nvec)]; actions are int64 [..., K]."""

    def __init__(self, logits: Tensor, nvec: Sequence[int]) -> None:
        nvec = tuple(int(n) for n in nvec)
        if logits.shape[-1] != sum(nvec):
            raise ValueError(
                f"expected {sum(nvec)} logits for nvec {nvec}, got {list(logits.shape)}"
            )
        self.nvec = nvec
        self._parts = Categorical(_pad_parts(logits, nvec))

    def sample(self) -> Tensor:
        """Returns actions [..., K] drawn with torch's global generator."""
        return self._parts.sample()

    def mode(self) -> Tensor:
        """Returns the most probable actions [..., K]."""
        return self._parts.mode()

    def log_prob(self, action: Tensor) -> Tensor:
        """Returns log p(action) [...], summed over the K parts."""
        return self._parts.log_prob(action).sum(-1)

    def entropy(self) -> Tensor:
        """Returns the entropy in nats [...], summed over the K parts."""
        return self._parts.entropy().sum(-1)

    def kl(self, other: MultiCategorical) -> Tensor:
        """Returns KL(self || other) [...], summed over the K parts."""
        return self._parts.kl(other._parts).sum(-1)


class DiagonalGaussian:
    """Independent normals from mean [..., D] and log_std (broadcasts); actions are [..., D]."""

    def __init__(self, mean: Tensor, log_std: Tensor) -> None:
        self.mean = mean
        self.log_std = log_std.expand_as(mean)

    def sample(self) -> Tensor:
        """Returns actions [..., D] drawn with torch's global generator, without gradient."""
        with torch.no_grad():
            return self.rsample()

    def rsample(self) -> Tensor:
        """Returns actions [..., D] through which gradients reach mean and log_std."""
        return torch.addcmul(self.mean, self.log_std.exp(), torch.randn_like(self.mean))

    def mode(self) -> Tensor:
        """Returns the mean [..., D]."""
        return self.mean

    def log_prob(self, action: Tensor) -> Tensor:
        """Returns log p(action) [...], summed over D."""
        z = (action - self.mean) * torch.exp(-self.log_std)
        return (-0.5 * z * z - self.log_std - _LOG_SQRT_2PI).sum(-1)

    def entropy(self) -> Tensor:
        """Returns the differential entropy [...], summed over D."""
        return (self.log_std + (0.5 + _LOG_SQRT_2PI)).sum(-1)

    def kl(self, other: DiagonalGaussian) -> Tensor:
        """Returns KL(self || other) [...], summed over D."""
        log_ratio = self.log_std - other.log_std
        z = (self.mean - other.mean) * torch.exp(-other.log_std)
        return (0.5 * (torch.expm1(2 * log_ratio) + z * z) - log_ratio).sum(-1)


def _finite(log_probs: Tensor) -> Tensor:
    # A caller may mask with -inf, and 0 * -inf is nan.
    return log_probs.clamp_min(torch.finfo(log_probs.dtype).min)


def _pad_parts(logits: Tensor, nvec: tuple[int, ...]) -> Tensor:
    """Returns logits [..., K, max(nvec)], padded with impossible actions."""
    if min(nvec) < max(nvec):
        padded = functional.pad(logits, (0, 1), value=torch.finfo(logits.dtype).min)
        logits = padded.index_select(-1, _part_index(nvec, logits.device))
    return logits.reshape(*logits.shape[:-1], len(nvec), max(nvec))


@functools.lru_cache(maxsize=64)
def _part_index(nvec: tuple[int, ...], device: torch.device) -> Tensor:
    """Returns where each padded logit comes from, [K * max(nvec)]; sum(nvec) is the padding."""
    index, start = [], 0
    for n in nvec:
        index += [*range(start, start + n), *[sum(nvec)] * (max(nvec) - n)]
        start += n
    # The first caller may be acting in inference mode; a learner must be able to reuse its index.
    with torch.inference_mode(False):
        return torch.tensor(index, device=device)
