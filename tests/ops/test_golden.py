"""The equations against numbers computed elsewhere (rlax, scipy); `--golden DIR` reads others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from torchbeast import ops

from .golden import TOLERANCE, Case, cases, check

OPERATIONS = (
    "vtrace_from_importance_weights",
    "vtrace_from_logits",
    "vtrace_truncation",
    "impala_loss",
    "distributions",
    "misc",
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    op = metafunc.function.__name__.removeprefix("test_")
    if op in OPERATIONS:
        found = list(cases(op, metafunc.config.getoption("--golden")))
        params = [
            pytest.param(case, dtype, id=f"{case.name}-{str(dtype).removeprefix('torch.')}")
            for case in found
            for dtype in TOLERANCE
        ]
        metafunc.parametrize(("case", "dtype"), params)


def successors(values: torch.Tensor, bootstrap_value: torch.Tensor) -> torch.Tensor:
    return torch.cat((values[1:], bootstrap_value[None]))


def clips(case: Case) -> dict[str, Any]:
    return {
        "clip_rho": case.params["clip_rho_threshold"],
        "clip_pg_rho": case.params["clip_pg_rho_threshold"],
        "clip_c": case.params.get("clip_c_threshold", 1.0),
        "lambda_": case.params.get("lambda_", 1.0),
    }


def test_vtrace_from_importance_weights(case: Case, dtype: torch.dtype) -> None:
    x = case.tensors(dtype)
    v_t = successors(x["values"], x["bootstrap_value"])
    rho = x["log_rhos"].exp()
    out = ops.vtrace(x["values"], v_t, x["rewards"], x["discounts"], rho, **clips(case))
    check(out.target, case.expected["vs"], dtype, "vs")
    check(out.advantage, case.expected["pg_advantages"], dtype, "pg_advantages")


def test_vtrace_from_logits(case: Case, dtype: torch.dtype) -> None:
    x = case.tensors(dtype)
    out = ops.vtrace_from_logits(
        x["behavior_policy_logits"],
        x["target_policy_logits"],
        x["actions"],
        x["values"],
        successors(x["values"], x["bootstrap_value"]),
        x["rewards"],
        x["discounts"],
        **clips(case),
    )
    check(out.log_rho, case.expected["log_rhos"], dtype, "log_rhos")
    behaviour, target = "behavior_action_log_probs", "target_action_log_probs"
    check(out.behaviour_log_prob, case.expected[behaviour], dtype, behaviour)
    check(out.target_log_prob, case.expected[target], dtype, target)
    check(out.target, case.expected["vs"], dtype, "vs")
    check(out.advantage, case.expected["pg_advantages"], dtype, "pg_advantages")


def test_vtrace_truncation(case: Case, dtype: torch.dtype) -> None:
    x = case.tensors(dtype)
    ended = (x["terminated"] + x["truncated"]) > 0
    out = ops.vtrace(
        x["values"],
        x["next_values"],
        x["rewards"],
        case.params["gamma"] * (1 - x["terminated"]).to(dtype),
        x["log_rhos"].exp(),
        trace_t=~ended,
        **clips(case),
    )
    check(out.target, case.expected["vs"], dtype, "vs")
    check(out.advantage, case.expected["pg_advantages"], dtype, "pg_advantages")


def test_impala_loss(case: Case, dtype: torch.dtype) -> None:
    assert case.params["reduction"] == "sum"
    x = case.tensors(dtype)
    logits = x["target_policy_logits"].requires_grad_()
    values = x["values_Tp1"].requires_grad_()
    out = ops.vtrace_from_logits(
        x["behavior_policy_logits"],
        logits,
        x["actions"],
        values[:-1],
        values[1:],
        x["rewards"],
        x["discounts"],
        **clips(case),
    )
    losses = {
        "pg_loss": ops.policy_gradient_loss(out.target_log_prob, out.advantage).sum(),
        "baseline_loss": case.params["baseline_cost"]
        * ops.baseline_loss(values[:-1], out.target).sum(),
        "entropy_loss": case.params["entropy_cost"]
        * ops.entropy_loss(ops.Categorical(logits).entropy()).sum(),
    }
    total = sum(losses.values(), torch.zeros((), dtype=dtype))
    total.backward()
    for name, loss in {**losses, "total_loss": total}.items():
        check(loss, case.expected[name], dtype, name)
    check(logits.grad, case.expected["grad_target_logits"], dtype, "grad_target_logits")
    check(values.grad, case.expected["grad_values"], dtype, "grad_values")
    assert values.grad is not None
    assert bool((values.grad[-1] == 0).all())


def test_distributions(case: Case, dtype: torch.dtype) -> None:
    x = case.tensors(dtype)
    one, two = ops.Categorical(x["logits"]), ops.Categorical(x["logits2"])
    masked = ops.Categorical(ops.mask_logits(x["logits"], x["action_mask"]))
    gauss = ops.DiagonalGaussian(x["mean"], x["log_std"])
    gauss2 = ops.DiagonalGaussian(x["mean2"], x["log_std2"])
    computed = {
        "cat_log_prob": one.log_prob(x["actions"]),
        "cat_entropy": one.entropy(),
        "cat_kl_1_2": one.kl(two),
        "masked_log_prob": masked.log_prob(x["actions"]),
        "masked_entropy": masked.entropy(),
        "gauss_log_prob": gauss.log_prob(x["x"]),
        "gauss_entropy": gauss.entropy(),
        "gauss_kl_1_2": gauss.kl(gauss2),
    }
    for name, value in computed.items():
        check(value, case.expected[name], dtype, name)


def descend(make: Any, param: torch.Tensor, grads: torch.Tensor) -> torch.Tensor:
    param = torch.nn.Parameter(param.clone())
    optimizer = make([param])
    for grad in grads:
        param.grad = grad.clone()
        optimizer.step()
    return param.detach()


def test_misc(case: Case, dtype: torch.dtype) -> None:
    x, p = case.tensors(dtype), case.params
    common = {"lr": p["lr"], "alpha": p["rms_alpha"], "eps": p["rms_eps"]}
    forms = {
        "rmsprop_eps_inside_ms1_tf1": lambda q: ops.RMSPropTF(q, **common),
        "rmsprop_eps_inside_ms0": lambda q: ops.RMSPropTF(q, **common, initial_square=0.0),
        "rmsprop_torch": lambda q: torch.optim.RMSprop(q, **common),
    }
    for name, make in forms.items():
        check(descend(make, x["param"], x["grads"]), case.expected[name], dtype, name)
    param = torch.nn.Parameter(torch.zeros_like(x["grad_vec"]))
    param.grad = x["grad_vec"].clone()
    norm = ops.clip_grad_norm([param], p["max_norm"])
    check(norm, case.expected["grad_norm"], dtype, "grad_norm")
    check(param.grad, case.expected["clipped_grad"], dtype, "clipped_grad")


def test_every_operation_has_cases(pytestconfig: pytest.Config) -> None:
    root = pytestconfig.getoption("--golden")
    counts = {op: len(list(cases(op, root))) for op in OPERATIONS}
    assert all(counts.values()), f"no cases: {counts}"


def test_check_can_fail() -> None:
    with pytest.raises(AssertionError):
        check(torch.tensor([1.0 + 1e-7], dtype=torch.float64), [1.0], torch.float64, "off by 1e-7")
    with pytest.raises(AssertionError):
        check(np.ones(2), [1.0], torch.float64, "shape")
