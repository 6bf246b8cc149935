"""The rescaling of values that lets returns of any size be learned without clipping rewards."""

from __future__ import annotations

from torch import Tensor


def rescale(x: Tensor, eps: float = 1e-3) -> Tensor:
    """Returns h(x) = sign(x) (sqrt(|x| + 1) - 1) + eps x, [...].

    arXiv:1805.11593, the transformed Bellman operator: about x / 2 near 0, a root far from it.
    """
    # x / (sqrt + 1) is sign(x) (sqrt - 1) without the difference that loses the digits of small x.
    return x / ((x.abs() + 1).sqrt() + 1) + eps * x


def unrescale(x: Tensor, eps: float = 1e-3) -> Tensor:
    """Returns h^-1(x) [...], the inverse of `rescale`, exact also for small x in float32.

    arXiv:1805.11593, proposition A.2, solved for w = sign(y) (sqrt(|y| + 1) - 1), of which both
    sides are plain: y = w (|w| + 2) and h(y) = w + eps y. The root of this quadratic equation is
    taken in the form that divides, where nothing cancels and eps may be 0.
    """
    b = 1 + 2 * eps
    w = 2 * x / (b + (b * b + 4 * eps * x.abs()).sqrt())
    return w * (w.abs() + 2)
