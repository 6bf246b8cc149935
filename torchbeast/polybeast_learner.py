"""The learner of PolyBeast, by the flags of 2019.

python -m torchbeast.polybeast_learner
python -m torchbeast.polybeast_learner --mode test --xpid example

IMPALA with as many actors as ``num_actors``, each on an environment server of its own
(polybeast_env), and one batched inference for all of them. A translation to `torchbeast train
impala --env_servers` is all this file does. What differs on purpose: what the servers serve is
asked of them, a server that dies does not end the run, Ctrl-C saves, the servers are told when
training is over, test mode works, and returns are those of full games.
"""

from __future__ import annotations

import dataclasses
import sys
import threading
from collections.abc import Sequence

from gymnasium import spaces

from torchbeast import envs
from torchbeast.commands.ancestor import ImpalaFlags, impala, test
from torchbeast.commands.errors import UsageError, ending
from torchbeast.commands.flags import parse
from torchbeast.commands.servers import address_of
from torchbeast.data import EnvSpec
from torchbeast.envs import EnvConfig
from torchbeast.nets.config import choose
from torchbeast.runners.build import cores
from torchbeast.runners.config import RunConfig

PATIENCE = 3.0  # seconds of waiting for servers before a person is told


@dataclasses.dataclass(frozen=True)
class Flags(ImpalaFlags):
    """The learner and its actors, with the flags of PolyBeast."""

    pipes_basename: str = "unix:/tmp/polybeast"
    """`unix:/path` or `host:port` of the servers: actor i connects to path.i, or port + i. Of
    several machines, separated by commas, actors take one in turn."""
    savedir: str = "~/palaas/torchbeast"
    """Root directory of the runs."""
    num_actors: int = 4
    """Number of actors; each steps environments of one server."""
    envs_per_actor: int = 1
    """Environments of each actor, all in one message; more are faster (the ancestor had one)."""
    num_learner_threads: int = 2
    """Threads of the learner: here, those that PyTorch computes with, on half of the cores at
    most."""
    num_inference_threads: int = 2
    """Threads of batched inference: here, those that PyTorch computes with, on half of the cores
    at most."""
    num_actions: int | None = None
    """Actions of the environment; asked of the servers, and only compared (the ancestor: 6)."""
    max_learner_queue_size: int | None = None
    """Rollouts that wait for the learner at most; by default batch_size."""
    network: str = "auto"
    """auto: deep for pictures, as the ancestor's, else an mlp; shallow computes faster."""
    write_profiler_trace: bool = False
    """Record 50 updates, or 30 seconds of them, as chrome-TIME.trace.gz in the run's directory."""
    env_token: str | None = None
    """A file with the token that the servers want."""
    env_certificate: str | None = None
    """A file (PEM) with the certificate that proves them; without it nothing is encrypted."""
    step_timeout: float = 60.0
    """Seconds that a step of the environments of a server, or of an actor, may take."""


def addresses(flags: Flags) -> list[str]:
    """Returns the server of each actor.

    Raises:
        UsageError: --pipes_basename is no address.
    """
    machines = flags.pipes_basename.split(",")
    return [
        address_of(machines[i % len(machines)], i // len(machines), "--pipes_basename")
        for i in range(flags.num_actors)
    ]


def meet(flags: Flags, where: Sequence[str]) -> tuple[str, EnvSpec]:
    """Returns name and spec of what the servers serve, asked of the first of each machine.

    Waits a minute for each at most. That all serve the same is checked with the run's settings.

    Raises:
        UsageError: they are too few, or serve not what the flags say.
        EnvError: one is not there, or refuses.
    """
    text = f"waiting for environment servers at {flags.pipes_basename}; start them: polybeast_env"
    patience = threading.Timer(PATIENCE, print, [text], {"flush": True})
    patience.daemon = True
    patience.start()
    machines = len(flags.pipes_basename.split(","))
    needed = -(-flags.num_actors // machines)  # on each
    env = EnvConfig(env_token=flags.env_token, env_certificate=flags.env_certificate)
    try:
        found = []
        for address in where[:machines]:
            server = envs.ask(env, address)
            if server.num_servers < needed:
                raise UsageError(
                    f"expected at least {needed} servers at {flags.pipes_basename}, one for each "
                    f"of --num_actors {flags.num_actors}, got {server.num_servers}; start "
                    f"polybeast_env with --num_servers {needed}, or lower --num_actors"
                )
            found.append(server)
    except ValueError as error:
        raise UsageError(str(error)) from error
    finally:
        patience.cancel()
    first = found[0]
    _check_actions(flags.num_actions, first.spec.action)
    return first.name or where[0], first.spec


def _check_actions(num_actions: int | None, action: spaces.Space) -> None:
    served = int(action.n) if isinstance(action, spaces.Discrete) else action
    if num_actions not in (None, served):
        raise UsageError(
            f"expected --num_actions {served} as the servers', got {num_actions}; leave it out"
        )


def run_config(flags: Flags, where: Sequence[str], name: str, spec: EnvSpec) -> RunConfig:
    """Returns the config of `torchbeast train impala` that the flags mean.

    Args:
        flags: what a person said.
        where: the server of each actor.
        name: of the environment that they serve.
        spec: what it shows and takes.

    Raises:
        UsageError: the queue is too short.
    """
    queue = flags.max_learner_queue_size
    queue = flags.batch_size if queue is None else queue
    if queue < flags.batch_size:
        raise UsageError(
            f"expected --max_learner_queue_size of at least the batch size {flags.batch_size}, "
            f"got {queue}"
        )
    network = flags.network
    if network == "auto" and choose("auto", spec.observation) != "mlp":
        network = "deep"
    env = EnvConfig(
        env=name,
        env_servers=tuple(where),
        env_token=flags.env_token,
        env_certificate=flags.env_certificate,
    )
    half = max(1, cores() // 2)  # threads of two sides that wait for each other's cores crawl
    system = {
        # One rollout of each actor is being filled while others wait.
        "num_buffers": flags.num_actors + -(-queue // flags.envs_per_actor),
        "torch_threads": min(half, flags.num_learner_threads),
        "inference": "central",
        "inference_threads": min(half, flags.num_inference_threads),
    }
    return impala(flags, env, {"network": network, "lstm_size": 256}, system)


def check(flags: Flags) -> None:
    """Tells what is wrong with the flags before anything starts or is waited for.

    Raises:
        UsageError: a number is too small.
    """
    for flag in ("num_actors", "envs_per_actor", "num_inference_threads", "num_learner_threads"):
        if getattr(flags, flag) < 1:
            raise UsageError(f"expected --{flag} of at least 1, got {getattr(flags, flag)}")
    machines = flags.pipes_basename.count(",") + 1
    if flags.num_actors < machines:
        raise UsageError(
            f"expected an actor at least for each of the {machines} machines of --pipes_basename, "
            f"got --num_actors {flags.num_actors}; raise it, or name fewer: servers without one "
            f"are not told when training is over"
        )


def train(flags: Flags) -> int:
    """Returns the exit code of a run on servers that run, or soon will."""
    from torchbeast.commands.train import learn

    check(flags)
    where = addresses(flags)
    config = run_config(flags, where, *meet(flags, where))
    return learn(config, again="the same command and --xpid {xpid}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code of `python -m torchbeast.polybeast_learner`."""
    flags = parse(Flags(), "polybeast_learner", sys.argv[1:] if arguments is None else arguments)
    return ending("polybeast_learner", lambda: (train if flags.mode == "train" else test)(flags))


if __name__ == "__main__":
    sys.exit(main())
