"""Policies as distributions over actions: only what acting and learning use, unvalidated.

Acting builds one of these for every row, and `torch.distributions` halves its speed.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


class Distribution(Protocol):
    """What every policy can do; its actions are a tensor, or a dict or tuple of them."""

    def sample(self) -> Any:
        """Returns actions drawn with torch's global generator."""

    def mode(self) -> Any:
        """Returns the most probable actions."""

    def log_prob(self, action: Any) -> Tensor:
        """Returns log p(action) [...]."""

    def entropy(self) -> Tensor:
        """Returns the entropy in nats [...]."""

    def kl(self, other: Any) -> Tensor:
        """Returns KL(self || other) [...], for another of the same kind."""


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
        return self.log_probs.gather(-1, action.long().unsqueeze(-1)).squeeze(-1)

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


class Bernoulli:
    """D independent switches from logits [..., D]; actions are 0 or 1, int8 [..., D]."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits if logits.dtype.itemsize >= 4 else logits.float()

    def sample(self) -> Tensor:
        """Returns actions [..., D] drawn with torch's global generator."""
        with torch.no_grad():
            probs = self.logits.sigmoid()
            return torch.rand_like(probs).lt(probs).to(torch.int8)

    def mode(self) -> Tensor:
        """Returns the most probable actions [..., D]."""
        return (self.logits > 0).to(torch.int8)

    def log_prob(self, action: Tensor) -> Tensor:
        """Returns log p(action) [...], summed over D."""
        return functional.logsigmoid(torch.where(action > 0, self.logits, -self.logits)).sum(-1)

    def entropy(self) -> Tensor:
        """Returns the entropy in nats [...], summed over D."""
        return self._cross_entropy(self).sum(-1)

    def kl(self, other: Bernoulli) -> Tensor:
        """Returns KL(self || other) [...], summed over D."""
        return (self._cross_entropy(other) - self._cross_entropy(self)).sum(-1)

    def _cross_entropy(self, other: Bernoulli) -> Tensor:
        # -p log q - (1 - p) log(1 - q); softplus(x) is -log sigmoid(-x)
        off, on = functional.softplus(other.logits), functional.softplus(-other.logits)
        return torch.lerp(off, on, self.logits.sigmoid())


class Shaped:
    """A distribution over vectors [..., D] as one over arrays [..., *shape] of ``dtype``."""

    def __init__(self, flat: Distribution, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self.flat = flat
        self.shape = shape
        self.dtype = dtype

    def sample(self) -> Tensor:
        """Returns actions [..., *shape] drawn with torch's global generator."""
        return self._arrays(self.flat.sample())

    def mode(self) -> Tensor:
        """Returns the most probable actions [..., *shape]."""
        return self._arrays(self.flat.mode())

    def log_prob(self, action: Tensor) -> Tensor:
        """Returns log p(action) [...], summed over the array."""
        lead = action.shape[: action.dim() - len(self.shape)]
        return self.flat.log_prob(action.reshape(*lead, math.prod(self.shape)))

    def entropy(self) -> Tensor:
        """Returns the entropy in nats [...], summed over the array."""
        return self.flat.entropy()

    def kl(self, other: Shaped) -> Tensor:
        """Returns KL(self || other) [...], summed over the array."""
        return self.flat.kl(other.flat)

    def _arrays(self, action: Tensor) -> Tensor:
        return action.reshape(*action.shape[:-1], *self.shape).to(self.dtype)


class Joint:
    """Independent parts, a dict or a tuple of distributions; actions are trees alike."""

    def __init__(self, parts: dict[str, Distribution] | tuple[Distribution, ...]) -> None:
        self.parts = parts

    def sample(self) -> Any:
        """Returns a tree of actions drawn with torch's global generator."""
        return self._tree({key: part.sample() for key, part in self._items()})

    def mode(self) -> Any:
        """Returns the tree of the most probable actions."""
        return self._tree({key: part.mode() for key, part in self._items()})

    def log_prob(self, action: Any) -> Tensor:
        """Returns log p(action) [...], summed over the parts."""
        return _sum(part.log_prob(action[key]) for key, part in self._items())

    def entropy(self) -> Tensor:
        """Returns the entropy in nats [...], summed over the parts."""
        return _sum(part.entropy() for _, part in self._items())

    def kl(self, other: Joint) -> Tensor:
        """Returns KL(self || other) [...], summed over the parts."""
        return _sum(part.kl(other.parts[key]) for key, part in self._items())

    def _items(self) -> list[tuple[Any, Distribution]]:
        return list(self.parts.items() if isinstance(self.parts, dict) else enumerate(self.parts))

    def _tree(self, actions: dict[Any, Any]) -> Any:
        return actions if isinstance(self.parts, dict) else tuple(actions.values())


def _sum(terms: Iterable[Tensor]) -> Tensor:
    return functools.reduce(torch.add, terms)


def _finite(log_probs: Tensor) -> Tensor:
    # A caller may mask with -inf, and 0 * -inf is nan.
    return log_probs.clamp_min(torch.finfo(log_probs.dtype).min)


def _pad_parts(logits: Tensor, nvec: tuple[int, ...]) -> Tensor:
    """Returns logits [..., K, max(nvec)], padded with impossible actions."""
    if min(nvec) < max(nvec):
        # Infinitely worse than masked: where a mask forbids everything, padding is still out.
        padded = functional.pad(logits, (0, 1), value=-torch.inf)
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
