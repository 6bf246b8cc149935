"""The equations: pure functions of plain tensors, time-major [T, B]; knows no other folder."""

from torchbeast.ops.distributions import (
    Categorical,
    DiagonalGaussian,
    MultiCategorical,
    mask_logits,
)
from torchbeast.ops.optimizers import RMSPropTF, clip_grad_norm
from torchbeast.ops.policy_gradient import entropy_loss, masked, policy_gradient_loss
from torchbeast.ops.schedules import constant, linear
from torchbeast.ops.value import baseline_loss
from torchbeast.ops.vtrace import VTrace, VTraceFromLogits, vtrace, vtrace_from_logits

__all__ = [
    "Categorical",
    "DiagonalGaussian",
    "MultiCategorical",
    "RMSPropTF",
    "VTrace",
    "VTraceFromLogits",
    "baseline_loss",
    "clip_grad_norm",
    "constant",
    "entropy_loss",
    "linear",
    "mask_logits",
    "masked",
    "policy_gradient_loss",
    "vtrace",
    "vtrace_from_logits",
]
