"""What a run needs of its environment servers, asked of each before anything starts."""

from __future__ import annotations

from collections import Counter

from torchbeast import envs, user_code
from torchbeast.data import EnvSpec
from torchbeast.runners.config import RunConfig
from torchbeast.runners.jobs import servers_of


def met(config: RunConfig) -> EnvSpec:
    """Returns what the environments of a run's servers show and take; waits for each server.

    Raises:
        EnvError: one is not there, or refuses.
        ValueError: they serve different environments, or others than --env, or have no place for
            all connections of the run.
    """
    env = config.env
    found = {address: envs.ask(env, address) for address in env.env_servers}
    (where, first), *others = found.items()
    for address, other in others:
        if other.spec != first.spec or not user_code.same(other.name, first.name):
            raise ValueError(
                f"expected servers of one environment, got {first.name} at {where} and "
                f"{other.name} at {address}; start them with the same --env and --env_kwargs"
            )
    if first.name and env.factory is None and not user_code.same(first.name, env.env):
        raise ValueError(
            f"expected --env {first.name} as served at {where}, got {env.env}; say the same --env "
            f"here as there"
        )
    for address, needed in _connections(config).items():
        places = found[address].max_streams
        if places and needed > places:
            raise ValueError(
                f"expected {needed} places at {address}, one for each group (--env_groups) of an "
                f"actor (or learner that acts) and one for evaluation, got --max_streams "
                f"{places}; start it with more, or start more servers"
            )
    return first.spec


def _connections(config: RunConfig) -> Counter[str]:
    """Returns how many connections with environments each server has at once."""
    system = config.system
    actors = range(system.num_actors or system.num_learners)
    count = Counter(server for actor in actors for server in servers_of(config, actor))
    for server in count:
        count[server] *= system.env_groups
    if config.output.eval_episodes:
        count[config.env.env_servers[0]] += 1
    return count
