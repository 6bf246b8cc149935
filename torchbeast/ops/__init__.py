"""The equations: pure functions of plain tensors, time-major [T, B]; knows no other folder."""

from torchbeast.ops.distributions import (
    Bernoulli,
    Categorical,
    DiagonalGaussian,
    Distribution,
    Joint,
    MultiCategorical,
    mask_logits,
)
from torchbeast.ops.moments import Moments, batch_sums, discounted_sums, initial_moments, merge
from torchbeast.ops.optimizers import (
    RMSPropTF,
    clip_grad_norm,
    make_optimizer,
    set_learning_rate,
)
from torchbeast.ops.policy_gradient import (
    approximate_kl,
    clipped_surrogate_loss,
    entropy_loss,
    masked,
    policy_gradient_loss,
    standardise,
)
from torchbeast.ops.returns import NStepReturns, gae, lambda_returns, n_step_returns
from torchbeast.ops.schedules import SCHEDULES, constant, linear
from torchbeast.ops.value import baseline_loss, clipped_baseline_loss
from torchbeast.ops.vtrace import VTrace, VTraceFromLogits, vtrace, vtrace_from_logits

__all__ = [
    "SCHEDULES",
    "Bernoulli",
    "Categorical",
    "DiagonalGaussian",
    "Distribution",
    "Joint",
    "Moments",
    "MultiCategorical",
    "NStepReturns",
    "RMSPropTF",
    "VTrace",
    "VTraceFromLogits",
    "approximate_kl",
    "baseline_loss",
    "batch_sums",
    "clip_grad_norm",
    "clipped_baseline_loss",
    "clipped_surrogate_loss",
    "constant",
    "discounted_sums",
    "entropy_loss",
    "gae",
    "initial_moments",
    "lambda_returns",
    "linear",
    "make_optimizer",
    "mask_logits",
    "masked",
    "merge",
    "n_step_returns",
    "policy_gradient_loss",
    "set_learning_rate",
    "standardise",
    "vtrace",
    "vtrace_from_logits",
]
