"""The equations against numbers computed elsewhere (rlax, scipy); `--golden DIR` reads others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from torchbeast import ops
from torchbeast.algorithms.target import MovingTarget
from torchbeast.nets import ActionUnits
from torchbeast.nets.encoders import box_units

from .golden import TOLERANCE, Case, cases, check

OPERATIONS = (
    "vtrace_from_importance_weights",
    "vtrace_from_logits",
    "vtrace_truncation",
    "impala_loss",
    "gae",
    "lambda_returns",
    "nstep_returns",
    "ppo_losses",
    "reward_normalization",
    "distributions",
    "q_learning",
    "c51",
    "quantile_huber",
    "value_rescale",
    "r2d2_sequence",
    "sac_tanh_gaussian",
    "sac_losses",
    "td3",
    "per",
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


def episodes(case: Case, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The rollouts of the files: transitions without the step from one episode into the next."""
    x = case.tensors(dtype)
    return {
        "r_t": x["rewards"],
        "discount_t": case.params["gamma"] * (1 - x["terminated"]).to(dtype),
        "trace_t": (x["terminated"] + x["truncated"]) == 0,
    }


def test_gae(case: Case, dtype: torch.dtype) -> None:
    x = case.tensors(dtype)
    lambda_, rollout = case.params["gae_lambda"], episodes(case, dtype)
    advantage = ops.gae(x["values"], x["next_values"], lambda_=lambda_, **rollout)
    check(advantage, case.expected["advantages"], dtype, "advantages")
    check(advantage + x["values"], case.expected["returns"], dtype, "returns")


def test_lambda_returns(case: Case, dtype: torch.dtype) -> None:
    v_t = case.tensors(dtype)["next_values"]
    rollout = episodes(case, dtype)
    returns = ops.lambda_returns(v_t, lambda_=case.params["lambda_"], **rollout)
    check(returns, case.expected["returns"], dtype, "returns")


def test_nstep_returns(case: Case, dtype: torch.dtype) -> None:
    out = ops.n_step_returns(n=case.params["n"], **episodes(case, dtype))
    check(out.reward, case.expected["returns"], dtype, "returns")
    check(out.discount, case.expected["bootstrap_discount"], dtype, "bootstrap_discount")
    steps = 1 + out.last - torch.arange(len(out.last)).unsqueeze(1)
    assert steps.tolist() == case.expected["n_actual"]
    assert out.full.int().tolist() == case.expected["full"]
    target = out.target(case.tensors(dtype)["next_values"])
    check(target, case.expected["targets"], dtype, "targets")


def test_ppo_losses(case: Case, dtype: torch.dtype) -> None:
    x, p = case.tensors(dtype), case.params
    logits, value = x["new_logits"].requires_grad_(), x["new_values"].requires_grad_()
    policy = ops.Categorical(logits)
    old_log_prob = ops.Categorical(x["old_logits"]).log_prob(x["actions"])
    log_ratio = policy.log_prob(x["actions"]) - old_log_prob
    advantage = x["advantages"]
    if p["normalize_advantage"]:
        advantage = ops.standardise(advantage)
    if p["value_clip"] is None:
        value_loss = ops.baseline_loss(value, x["returns"])
    else:
        old_value, target = x["old_values"], x["returns"]
        value_loss = ops.clipped_baseline_loss(value, old_value, target, p["value_clip"])
    losses = {
        "policy_loss": ops.clipped_surrogate_loss(log_ratio, advantage, p["clip_coef"]).mean(),
        "value_loss": value_loss.mean(),
        "entropy": policy.entropy().mean(),
    }
    policy_loss, vf_loss, entropy = losses.values()
    total = policy_loss + p["vf_coef"] * vf_loss - p["ent_coef"] * entropy
    total.backward()
    computed = {
        **losses,
        "old_log_probs": old_log_prob,
        "ratio": log_ratio.exp(),
        "total_loss": total,
        "grad_new_logits": logits.grad,
        "grad_new_values": value.grad,
        "approx_kl_k1": -log_ratio.mean(),
        "approx_kl_k3": ops.approximate_kl(log_ratio).mean(),
        "clipfrac": ((log_ratio.exp() - 1).abs() > p["clip_coef"]).to(dtype).mean(),
    }
    assert computed.keys() == case.expected.keys()
    for name, expected in case.expected.items():
        check(computed[name], expected, dtype, name)


def test_reward_normalization(case: Case, dtype: torch.dtype) -> None:
    x, p = case.tensors(dtype), case.params
    rewards, dones = x["rewards"], x["dones"]
    moments = ops.initial_moments(1, samples=1e-4)
    returns, first = torch.zeros_like(rewards[:1]), torch.zeros_like(dones[:1])
    normalised = []
    for reward, done in zip(rewards.split(1), dones.split(1), strict=True):
        returns = ops.discounted_sums(reward, first, p["gamma"], start=returns[-1])
        moments = ops.merge(moments, ops.batch_sums(returns.reshape(-1, 1), moments.mean))
        std = (moments.var + p["epsilon"]).sqrt().to(dtype)
        normalised.append((reward / std).clamp(-p["clip"], p["clip"]))
        first = done
    check(torch.cat(normalised), case.expected["normalized"], dtype, "normalized")
    # The moments are float64 whatever the rewards are.
    check(moments.samples.item(), case.expected["final_count"], dtype, "final_count")
    check(moments.mean.item(), case.expected["final_mean"], dtype, "final_mean")
    check(moments.var.item(), case.expected["final_var"], dtype, "final_var")


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


def not_terminal(case: Case, dtype: torch.dtype) -> torch.Tensor:
    return case.params["discount"] * (1 - case.tensors(dtype)["terminated"]).to(dtype)


def test_q_learning(case: Case, dtype: torch.dtype) -> None:
    x, discount = case.tensors(dtype), not_terminal(case, dtype)
    q = ops.chosen(x["q_tm1"], x["actions"])
    for kind, chooser in {"dqn": "q_next_target", "double": "q_next_online"}.items():
        next_action = ops.greedy(x[chooser])
        td = ops.q_target(x["rewards"], discount, x["q_next_target"], next_action) - q
        check(td, case.expected[f"td_{kind}"], dtype, f"td_{kind}")
        loss = ops.huber(td, case.params["huber_kappa"])
        check(loss, case.expected[f"huber_{kind}"], dtype, f"huber_{kind}")


def test_c51(case: Case, dtype: torch.dtype) -> None:
    x, p = case.tensors(dtype), case.params
    atoms = torch.linspace(p["v_min"], p["v_max"], p["n_atoms"], dtype=dtype)
    logits = ops.chosen(x["logits"], x["actions"])
    for kind, chooser in {"dqn": "next_logits_target", "double": "next_logits_online"}.items():
        expected = case.expected[kind]
        next_action = ops.greedy(ops.expected_value(x[chooser], atoms))
        assert next_action.tolist() == expected["next_action"]
        z = ops.chosen(x["next_logits_target"], next_action).softmax(-1)
        m = ops.categorical_projection(atoms, z, x["rewards"], not_terminal(case, dtype))
        check(m, expected["projected"], dtype, "projected")
        loss = ops.categorical_loss(logits, m)
        check(loss, expected["loss"], dtype, "loss")
        check(loss + torch.xlogy(m, m).sum(-1), expected["kl"], dtype, "kl")


def test_quantile_huber(case: Case, dtype: torch.dtype) -> None:
    x, kappa = case.tensors(dtype), case.params["kappa"]
    quantiles = x["quantiles"].requires_grad_()
    loss = ops.quantile_huber_loss(quantiles, x["taus"], x["target_quantiles"], kappa)
    check(loss, case.expected["loss"], dtype, "loss")
    (grad,) = torch.autograd.grad(loss.sum(), quantiles)
    check(grad, case.expected["grad_quantiles"], dtype, "grad_quantiles")
    divided = ops.quantile_huber_loss(
        quantiles, x["taus"], x["target_quantiles"], kappa, over_kappa=True
    )
    check(divided, case.expected["loss_over_kappa"], dtype, "loss_over_kappa")


def test_value_rescale(case: Case, dtype: torch.dtype) -> None:
    x, eps = case.tensors(dtype)["x"], case.params["eps"]
    check(ops.rescale(x, eps), case.expected["h"], dtype, "h")
    check(ops.unrescale(x, eps), case.expected["h_inv"], dtype, "h_inv")


def test_r2d2_sequence(case: Case, dtype: torch.dtype) -> None:
    x, p, discount = case.tensors(dtype), case.params, not_terminal(case, dtype)
    next_action = ops.greedy(x["q_online"])
    target = ops.transformed_n_step_targets(
        x["q_target"], next_action, x["rewards"], discount, p["n"], p["eps"]
    )
    td = target - ops.chosen(x["q_online"][:-1], x["actions"])
    check(td, case.expected["td_error"], dtype, "td_error")
    check(ops.sequence_priority(td, eta=p["eta"]), case.expected["priority"], dtype, "priority")
    loss = ops.huber(td, None).sum(0)
    check(loss, case.expected["loss_sum_half_sq"], dtype, "loss_sum_half_sq")
    full = ops.n_step_returns(x["rewards"], discount, p["n"]).full
    assert full.int().tolist() == case.expected["full"]


def action_units(case: Case, dtype: torch.dtype) -> ActionUnits:
    low, high = (case.tensors(dtype)[f"action_{end}"].numpy() for end in ("low", "high"))
    space = spaces.Box(low, high, dtype=low.dtype.type)
    units = ActionUnits(space)
    # Its numbers are float32, as those of networks are: here they are not rounded to that.
    units.center, units.half_range = (torch.from_numpy(x).to(dtype) for x in box_units(space))
    return units


def test_sac_tanh_gaussian(case: Case, dtype: torch.dtype) -> None:
    x, units = case.tensors(dtype), action_units(case, dtype)
    policy = ops.TanhGaussian(x["mean"], x["log_std"])
    squashed, log_prob = policy.sample_with_log_prob(x["noise"])
    computed = {
        "squashed": squashed,
        "log_prob_squashed": log_prob,
        "action": units.to_env(squashed),
        "log_prob_action": log_prob - units.half_range.log().sum(),
        "deterministic_action": units.to_env(policy.mode()),
    }
    for name, value in computed.items():
        check(value, case.expected[name], dtype, name)


def test_sac_losses(case: Case, dtype: torch.dtype) -> None:
    x, p = case.tensors(dtype), case.params
    log_alpha = torch.tensor(p["log_alpha"], dtype=dtype, requires_grad=True)
    alpha, discount = log_alpha.detach().exp(), p["gamma"] * (1 - x["terminated"]).to(dtype)
    next_q = torch.minimum(x["q1_target_next"], x["q2_target_next"])
    next_value = ops.soft_value(next_q, x["next_log_prob"], alpha)
    target = ops.td_target(x["rewards"], discount, next_value)
    check(target, case.expected["target"], dtype, "target")
    td = target - torch.stack([x["q1"], x["q2"]])
    critic_loss = ops.huber(td, None).sum(0).mean()
    name = "critic_loss_sum_half_mse"
    check(critic_loss, case.expected[name], dtype, name)
    value = torch.minimum(x["q1_pi"], x["q2_pi"])
    actor_loss = -ops.soft_value(value, x["log_prob"], alpha).mean()
    check(actor_loss, case.expected["actor_loss"], dtype, "actor_loss")
    loss = ops.temperature_loss(log_alpha, x["log_prob"], p["target_entropy"]).mean()
    check(loss, case.expected["alpha_loss_log_alpha"], dtype, "alpha_loss_log_alpha")
    loss.backward()
    check(log_alpha.grad, case.expected["alpha_grad_log_alpha"], dtype, "alpha_grad_log_alpha")


def test_td3(case: Case, dtype: torch.dtype) -> None:
    x, p = case.tensors(dtype), case.params
    high = x["action_high"]
    unit_action = x["target_mu"] / high
    smoothed = ops.smoothed(unit_action, x["unit_noise"], p["policy_noise"], p["noise_clip"])
    check(smoothed * high, case.expected["next_action"], dtype, "next_action")
    discount = p["gamma"] * (1 - x["terminated"]).to(dtype)
    lower = torch.stack([x["q1_target"], x["q2_target"]]).amin(0)
    for name, value in {"td3_target": lower, "ddpg_target": x["q1_target"]}.items():
        check(ops.td_target(x["rewards"], discount, value), case.expected[name], dtype, name)
    target = MovingTarget(torch.nn.ParameterList([x["target_param"]]), p["tau"])
    target.follow(torch.nn.ParameterList([x["online_param"]]))
    check(target.model[0], case.expected["polyak"], dtype, "polyak")


def test_per(case: Case, dtype: torch.dtype) -> None:
    # What is drawn, and with which probability, is the business of the replay.
    oversampling = torch.tensor(case.expected["probabilities"], dtype=dtype)
    oversampling *= len(oversampling)
    drawn = oversampling[case.expected["indices_stratified"]]
    weights = ops.importance_weights(drawn, case.params["beta"])
    name = "weights_batchmax_stratified"
    check(weights, case.expected[name], dtype, name)


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
    place = torch.linspace(0, 1, p["n_actors"], dtype=dtype)
    epsilons = ops.epsilon_ladder(place, p["eps_base"], p["eps_alpha"])
    check(epsilons, case.expected["apex_epsilons"], dtype, "apex_epsilons")
    moments = ops.initial_moments(len(case.expected["running_mean"]))
    for batch in case.inputs["batches"]:
        moments = ops.merge(moments, ops.batch_sums(torch.tensor(batch, dtype=dtype), moments.mean))
    check(moments.mean.numpy(), case.expected["running_mean"], dtype, "running_mean")
    variance = "running_var_population"
    check(moments.var.numpy(), case.expected[variance], dtype, variance)


def test_every_operation_has_cases(pytestconfig: pytest.Config) -> None:
    root = pytestconfig.getoption("--golden")
    counts = {op: len(list(cases(op, root))) for op in OPERATIONS}
    assert all(counts.values()), f"no cases: {counts}"


def test_check_can_fail() -> None:
    with pytest.raises(AssertionError):
        check(torch.tensor([1.0 + 1e-7], dtype=torch.float64), [1.0], torch.float64, "off by 1e-7")
    with pytest.raises(AssertionError):
        check(np.ones(2), [1.0], torch.float64, "shape")
