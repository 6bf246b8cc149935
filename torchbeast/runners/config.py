"""All that one run is told, as nested dataclasses; each is a group of flags."""

from __future__ import annotations

import dataclasses
import pathlib
import types
import typing
from typing import Annotated, Any, Literal

import tyro
import yaml

from torchbeast import algorithms, user_code
from torchbeast.envs import EnvConfig
from torchbeast.nets import NetworkConfig


def parse_count(text: str) -> int:
    """Returns the whole number that ``text`` says: 3000000, 3_000_000, 3e6, 3M or 500k."""
    factor = {"k": 1_000, "m": 1_000_000, "g": 1_000_000_000}.get(text[-1:].lower())
    number = float(text[:-1]) * factor if factor else float(text)
    if number != int(number):
        raise ValueError(f"expected a whole number, got {text}")
    return int(number)


# Steps are long numbers: flags take them as people write them.
Count = typing.Annotated[
    int,
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="INT",
        instance_from_str=lambda arguments: parse_count(arguments[0]),
        is_instance=lambda x: isinstance(x, int),
        str_from_instance=lambda x: [str(x)],
    ),
]


@dataclasses.dataclass(frozen=True)
class SystemConfig:
    """Who runs where."""

    total_steps: Count = 100_000
    """Agent steps to learn from (an Atari step is 4 frames); 6000000, 6e6 or 6M."""
    seed: int = 1
    """Seeds weights, actions and every environment."""
    num_envs: int = 0
    """Environments that this process steps when it acts itself; 0: the batch size, or twice that
    where an algorithm takes rollouts of older weights (max_lag above 0 or None); 8 with a
    replay."""
    env_groups: int = 1
    """Groups of environments that take turns: while some step, others are answered; 1: all step
    together. Pays with --env_workers or native environments."""
    num_actors: int = 0
    """Actor processes; 0: the learner's process acts and learns in turn."""
    envs_per_actor: int = 1
    """Environments that each actor process steps and answers together."""
    inference: Literal["local", "central"] = "local"
    """Who answers actor processes: local, each with a model of its own; central, one process for
    all actors of a learner, many rows at a time. Pays with a GPU, or networks that are large."""
    inference_device: str = "auto"
    """Where central inference computes: auto (where the learner does), cpu, cuda, cuda:1, ..."""
    inference_min_batch: int = 1
    """Actors that must ask before central inference answers; 1: it takes whoever waits."""
    inference_max_batch: int = 512
    """Actors that central inference answers at once, at most."""
    inference_timeout_ms: float = 100.0
    """Milliseconds after which central inference answers fewer than --inference_min_batch."""
    inference_threads: int = 0
    """Threads of PyTorch in the process of central inference; 0: half of the learner's."""
    num_buffers: int = 0
    """Rollouts in shared memory between actors and learner; 0: enough for two batches."""
    num_learners: int = 1
    """Processes that each act and learn with a share of the batch, gradients summed. As many as
    there are cores is the fastest shape on a small machine."""
    torch_threads: int = 0
    """Threads of PyTorch in a learner; 0: the cores divided by the learners, half of that beside
    actors which act meanwhile, 1 for small networks, which compute fastest so."""
    device: str = "auto"
    """Where the learner computes: auto, cpu, cuda, cuda:1, ..."""
    disable_cuda: bool = False
    """Use the CPU even when there is a GPU."""
    max_restarts: int = 3
    """Times that each dead, failing or hung worker is started again before the run ends."""
    step_timeout: float = 60.0
    """Seconds without progress after which a worker counts as hung."""
    replay_dir: str | None = None
    """Folder for the file that holds a replay larger than memory; it is gone after the run."""
    replay_whole_stacks: bool = False
    """Keep stacks of frames as they are in the replay, not each frame once: four times the memory,
    for environments whose observations only look like stacks."""


@dataclasses.dataclass(frozen=True)
class ClusterConfig:
    """Acting on the machines of a Ray cluster."""

    runner: Literal["machine", "cluster"] = "machine"
    """machine: every process on this one. cluster: actors, and learners but the first, wherever a
    Ray cluster has room."""
    address: str | None = None
    """Head of the cluster, `host:port`, or `auto` for the one that this machine is part of; left
    out: a cluster of this machine alone, which ends with the run."""
    cluster_token: str | None = None
    """A file with the token of the cluster."""
    trust_network: bool = False
    """Use a cluster without a token, where nobody else can reach it."""
    actors_per_worker: int = 0
    """Actor processes that one worker of the cluster runs on its node; --num_actors are so many in
    all. 0: as many as every node has room for."""
    cpus_per_actor: float = 1.0
    """CPUs that Ray reserves for each actor."""
    codec: Literal["auto", "none", "lz4", "zlib"] = "auto"
    """How rollouts are compressed; auto: as fits the network, which each worker probes."""
    weights_interval: float = 0.0
    """Seconds between two versions of the weights that a worker is sent, at least, where the lag is
    not limited; 0: ten times what they take to get there, so that they fill a tenth of the link."""
    learner_restarts: int = 3
    """Times in a row, without a checkpoint between, that a learner which died goes on from the
    last checkpoint."""


@dataclasses.dataclass(frozen=True)
class OutputConfig:
    """What is written, and when."""

    xpid: str | None = None
    """Name of the run; by default the time of its start. The name of a run that exists
    continues it."""
    savedir: str = "~/logs/torchbeast"
    """Folder of all runs."""
    restart: Literal["resume", "fresh", "fail"] = "resume"
    """When the run exists: continue it, set it aside and start anew, or stop."""
    disable_checkpoint: bool = False
    """Never write checkpoints or model.tar."""
    checkpoint_replay: bool = False
    """Write the replay with each checkpoint, so that a run goes on with it; else it fills anew."""
    checkpoint_interval: float = 600.0
    """Seconds between checkpoints; there is one at the end and on Ctrl-C or SIGTERM too."""
    keep_checkpoints: int = 3
    """Newest checkpoints that are kept, besides the best."""
    log_interval: float = 1.0
    """Seconds between rows of logs.csv; 0: a row for each update (of a replay, for each step)."""
    eval_interval: Count = 0
    """Steps between evaluations on separate environments; 0: at the end only."""
    eval_episodes: int = 10
    """Full games per evaluation; 0: none."""
    eval_max_steps: Count = 30_000
    """Steps after which an evaluation gives up on the games that are not over."""
    disable_tensorboard: bool = False
    """Write no TensorBoard events."""
    write_profiler_trace: bool = False
    """Record the 50 updates after the first, or 30 seconds of them, with PyTorch's profiler, as
    chrome-TIME.trace.gz in the run's directory."""


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """One training run."""

    algo: Annotated[str, tyro.conf.Suppress] = ""  # empty: the built-in one with these settings
    env: EnvConfig = dataclasses.field(default_factory=EnvConfig)
    algorithm: Any = dataclasses.field(default_factory=algorithms.Impala.config_type)
    network: NetworkConfig = dataclasses.field(default_factory=NetworkConfig)
    system: SystemConfig = dataclasses.field(default_factory=SystemConfig)
    cluster: ClusterConfig = dataclasses.field(default_factory=ClusterConfig)
    output: OutputConfig = dataclasses.field(default_factory=OutputConfig)

    def __post_init__(self) -> None:
        if not self.algo:
            object.__setattr__(self, "algo", algorithms.name_of(self.algorithm))

    def references(self) -> tuple[str, ...]:
        """Returns the settings that may name code of the user's, in files or modules."""
        return (self.algo, self.env.env, self.network.network)

    def __reduce__(self) -> Any:
        """Returns how another process makes this again, where no file of the user is imported."""
        others = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return _unpickled, (_fields(others.pop("algorithm")), others)


def _unpickled(settings: dict[str, Any], others: dict[str, Any]) -> RunConfig:
    config_type = algorithms.find(others["algo"]).config_type
    return RunConfig(algorithm=config_type(**settings), **others)


def _fields(config: Any) -> dict[str, Any]:
    return {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.init}


def default_config(algo: str) -> RunConfig:
    """Returns the defaults of an algorithm, by its name or as path/to/file.py:Class.

    Raises:
        ValueError: there is none, or it does not keep the contract.
    """
    config_type = algorithms.find(algo).config_type
    return RunConfig(algo=user_code.absolute(algo), algorithm=config_type())


def save_config(config: RunConfig, path: pathlib.Path) -> None:
    """Writes ``config`` as YAML that ``load_config`` and a person can read."""
    path.write_text(yaml.safe_dump(to_dict(config), sort_keys=False))


def load_config(path: pathlib.Path, base: RunConfig | None = None) -> RunConfig:
    """Returns ``base`` with what the YAML file at ``path`` says.

    Without ``base``: the defaults of the algorithm that the file names as ``algo``.

    Raises:
        ValueError: the file is not YAML, is of another algorithm, or says something that no
            setting knows.
    """
    try:
        data = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"--config {path}: cannot be read: {error}") from None
    if not isinstance(data, dict):
        raise ValueError(f"--config {path}: expected groups of settings, got {type(data).__name__}")
    algo = data.pop("algo", None)
    if base is None:
        base = default_config(algo or "impala")
    elif algo is not None and algo != base.algo:
        raise ValueError(f"--config {path}: expected settings of {base.algo}, got those of {algo}")
    return _merged(base, data, str(path))


def to_dict(config: Any) -> dict[str, Any]:
    """Returns a config as plain nested data: no classes, no tuples, no functions."""
    plain: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            plain[field.name] = to_dict(value)
        elif not callable(value):
            plain[field.name] = list(value) if isinstance(value, tuple) else value
    return plain


def _merged(base: Any, data: dict[str, Any], where: str) -> Any:
    known = {field.name: field for field in dataclasses.fields(base)}
    hints = typing.get_type_hints(type(base))
    changes = {}
    for name, value in data.items():
        if name not in known:
            raise ValueError(f"{where}: no setting '{name}'; there are {', '.join(known)}")
        current = getattr(base, name)
        if dataclasses.is_dataclass(current):
            if not isinstance(value, dict):
                raise ValueError(f"{where}: expected settings under '{name}', got {value!r}")
            changes[name] = _merged(current, value, f"{where}: {name}")
        else:
            changes[name] = _checked(value, hints[name], f"{where}: {name}")
    return dataclasses.replace(base, **changes)


def _checked(value: Any, hint: Any, where: str) -> Any:
    """Returns ``value`` in the type that ``hint`` names; YAML knows no tuples."""
    origin = typing.get_origin(hint)
    if origin is tuple and isinstance(value, list):
        return tuple(value)
    if origin is Literal:
        ok = value in typing.get_args(hint)
    elif origin in (typing.Union, types.UnionType):
        ok = any(_fits(value, option) for option in typing.get_args(hint))
    else:
        ok = _fits(value, hint)
    if not ok:
        wanted = getattr(hint, "__name__", str(hint))
        if origin is Literal:
            wanted = " or ".join(map(str, typing.get_args(hint)))
        raise ValueError(f"{where}: expected {wanted}, got {value!r}")
    return float(value) if hint is float else value


def _fits(value: Any, hint: Any) -> bool:
    kind = typing.get_origin(hint) or hint
    if kind is Any or typing.get_origin(hint) is typing.Annotated:
        return True
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind) if isinstance(kind, type) else True
