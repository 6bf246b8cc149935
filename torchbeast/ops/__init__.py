"""The equations: pure functions of plain tensors, time-major [T, B]; knows no other folder."""

from torchbeast.ops.actor_critic import (
    explored,
    smoothed,
    soft_value,
    td_target,
    temperature_loss,
)
from torchbeast.ops.distributional import (
    categorical_loss,
    categorical_projection,
    expected_value,
    quantile_huber_loss,
    quantile_midpoints,
    value_atoms,
)
from torchbeast.ops.distributions import (
    Bernoulli,
    Categorical,
    DiagonalGaussian,
    Distribution,
    Joint,
    MultiCategorical,
    mask_logits,
)
from torchbeast.ops.exploration import epsilon_greedy, epsilon_ladder
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
from torchbeast.ops.priorities import importance_weights, sequence_priority
from torchbeast.ops.q_learning import (
    chosen,
    greedy,
    huber,
    q_target,
    transformed_n_step_targets,
)
from torchbeast.ops.returns import NStepReturns, gae, lambda_returns, n_step_returns
from torchbeast.ops.schedules import SCHEDULES, constant, linear
from torchbeast.ops.tanh_gaussian import TanhGaussian
from torchbeast.ops.transforms import rescale, unrescale
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
    "TanhGaussian",
    "VTrace",
    "VTraceFromLogits",
    "approximate_kl",
    "baseline_loss",
    "batch_sums",
    "categorical_loss",
    "categorical_projection",
    "chosen",
    "clip_grad_norm",
    "clipped_baseline_loss",
    "clipped_surrogate_loss",
    "constant",
    "discounted_sums",
    "entropy_loss",
    "epsilon_greedy",
    "epsilon_ladder",
    "expected_value",
    "explored",
    "gae",
    "greedy",
    "huber",
    "importance_weights",
    "initial_moments",
    "lambda_returns",
    "linear",
    "make_optimizer",
    "mask_logits",
    "masked",
    "merge",
    "n_step_returns",
    "policy_gradient_loss",
    "q_target",
    "quantile_huber_loss",
    "quantile_midpoints",
    "rescale",
    "sequence_priority",
    "set_learning_rate",
    "smoothed",
    "soft_value",
    "standardise",
    "td_target",
    "temperature_loss",
    "transformed_n_step_targets",
    "unrescale",
    "value_atoms",
    "vtrace",
    "vtrace_from_logits",
]
