"""The Ray cluster of this process: found or started, and never open to strangers."""

from __future__ import annotations

import contextlib
import logging
import os
import pathlib
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

from torchbeast.data.process import environment
from torchbeast.data.shared import available_memory
from torchbeast.runners.build import cores
from torchbeast.runners.checks import ConfigError

log = logging.getLogger("torchbeast")

CONNECT_TIMEOUT = 60.0  # seconds; Ray itself tries a wrong token for 20
OBJECT_STORE = 0.3  # of the free memory, for rollouts and weights on their way


class ClusterError(RuntimeError):
    """There is no cluster at the address, or it does not let us in."""


@contextlib.contextmanager
def connected(
    address: str | None, token: str | None, trust_network: bool = False, followers: int = 0
) -> Iterator[Any]:
    """Gives the module ``ray``, connected to a cluster; leaves it, or ends its own, at the end.

    Args:
        address: ``host:port`` of the head, ``auto`` for the cluster that this machine is part of,
            None for one of this machine alone that ends with us.
        token: path of the file with the cluster's token.
        trust_network: go on without a token where others could reach the cluster.
        followers: learners beside this process, which do not take CPUs from the actors of a cluster
            that is this machine alone: no more than this process does.

    Raises:
        ClusterError: there is no cluster, or it refuses.
        ConfigError: no token is given, or Ray is not installed.
    """
    with contextlib.ExitStack() as stack:
        options: dict[str, Any] = {"address": address}
        if address is None:
            folder = stack.enter_context(_private_folder())
            options = {"address": "local", "object_store_memory": _object_store()}
            options |= {"include_dashboard": False, "_temp_dir": f"{folder}/ray"}
            options["num_cpus"] = cores() + followers
        else:
            stack.enter_context(_credentials(token, trust_network))
        ray = _ray()
        try:
            ray.init(**options, log_to_driver=False, configure_logging=False, namespace=_name())
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            raise ClusterError(_what_to_do(address, _last_line(error))) from error
        stack.callback(ray.shutdown)
        yield ray


def cpus(ray: Any) -> list[float]:
    """Returns the CPUs of each node that has any.

    Raises:
        ClusterError: none has.
    """
    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    found = [each["CPU"] for each in resources if each.get("CPU", 0.0) > 0]
    if not found:
        raise ClusterError("expected a cluster with CPUs, got none; start a node with some")
    return found


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ConfigError(
            "--runner cluster needs Ray, got none; pip install 'torchbeast[ray]'"
        ) from error
    return ray


@contextlib.contextmanager
def _private_folder() -> Iterator[str]:
    """Gives a folder that only this user can enter, for Ray's files and a token of its own."""
    folder = tempfile.mkdtemp(prefix="torchbeast-")  # Ray opens what it makes there to everybody
    try:
        token = pathlib.Path(folder, "token")
        with open(os.open(token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
        with environment(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(token)):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _credentials(token: str | None, trust_network: bool) -> Iterator[None]:
    """Shows a cluster its token."""
    if token is None:
        if not trust_network and os.environ.get("RAY_AUTH_MODE") != "token":
            raise ConfigError(
                "expected --cluster_token FILE with --address: whoever reaches a Ray cluster that "
                "wants no token runs code on it; start it with one (docs/cluster.md), or say "
                "--trust_network where nobody else can reach it"
            )
        yield
        return
    path = pathlib.Path(token).expanduser().absolute()
    if not path.is_file() or len(path.read_text().strip()) < 16:
        raise ConfigError(
            f"expected a file with a token of at least 16 characters, got --cluster_token {token}; "
            f"make one: python -c 'import secrets; print(secrets.token_hex())' > {token}"
        )
    with environment(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(path)):
        yield


def _what_to_do(address: str | None, why: str) -> str:
    if address is None:
        shorter = "set TMPDIR to a folder with a shorter name, or " if "AF_UNIX" in why else ""
        return (
            f"expected to start Ray on this machine, got: {why}; {shorter}name a running cluster "
            f"with --address"
        )
    return (
        f"expected a Ray cluster at --address {address}, got: {why}; start it with `ray start`, "
        f"and give both sides one --cluster_token"
    )


def _object_store() -> int:
    shm = shutil.disk_usage("/dev/shm").free if os.path.isdir("/dev/shm") else available_memory()
    return int(max(100e6, OBJECT_STORE * min(available_memory(), shm)))


def _name() -> str:
    return f"torchbeast-{secrets.token_hex(8)}"


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1]
