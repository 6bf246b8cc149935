"""What ran, and on what: for meta.json, without any secret."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

import torchbeast
from torchbeast.tools.state import plain

_SECRET = re.compile(r"token|secret|passw|api[-_]?key|credential|private[-_]?key", re.IGNORECASE)
_HIDDEN = "(hidden)"
# Nothing else of the environment is written: variables hold keys.
_SLURM = (
    "SLURM_JOB_ID",
    "SLURM_JOB_NAME",
    "SLURM_JOB_PARTITION",
    "SLURM_ARRAY_JOB_ID",
    "SLURM_ARRAY_TASK_ID",
    "SLURM_CLUSTER_NAME",
    "SLURM_CPUS_PER_TASK",
    "SLURM_LOCALID",
    "SLURM_NNODES",
    "SLURM_NODEID",
    "SLURM_NTASKS",
    "SLURM_PROCID",
    "SLURM_RESTART_COUNT",
)


def describe_run(args: Any) -> dict[str, Any]:
    """Returns flags, command line, git, SLURM, versions and hardware of this process, JSON-able."""
    return {
        "args": without_secrets(plain(args, arrays_to_lists=True, where="args")),
        "argv": _argv_without_secrets(sys.argv),
        "git": _git(),
        "slurm": _slurm(),
        "versions": _versions(),
        "hardware": _hardware(),
    }


def without_secrets(tree: Any) -> Any:
    """Returns ``tree`` with the values of keys like ``token`` and ``api_key`` hidden."""
    if isinstance(tree, dict):
        return {
            key: _HIDDEN if _is_secret(key, value) else without_secrets(value)
            for key, value in tree.items()
        }
    if isinstance(tree, list):
        return [without_secrets(value) for value in tree]
    return tree


def _is_secret(key: str, value: Any) -> bool:
    is_number = value is None or isinstance(value, int | float)  # as in num_tokens
    return bool(_SECRET.search(key)) and not is_number and value != ""


def _argv_without_secrets(argv: list[str]) -> list[str]:
    shown: list[str] = []
    hide_next = False
    for word in argv:
        name, equals, _ = word.partition("=")
        is_flag = word.startswith("-") and bool(_SECRET.search(name))
        if hide_next and not word.startswith("-"):
            shown.append(_HIDDEN)
        else:
            shown.append(f"{name}={_HIDDEN}" if is_flag and equals else word)
        hide_next = is_flag and not equals
    return shown


def _git() -> dict[str, Any] | None:
    """Returns commit, branch, is_dirty and path of the repository around, None without one."""
    try:
        path = _git_says("rev-parse", "--show-toplevel")
        if not path:
            return None
        return {
            "commit": _git_says("rev-parse", "--verify", "-q", "HEAD"),
            "branch": _git_says("symbolic-ref", "--short", "-q", "HEAD"),
            "is_dirty": bool(_git_says("status", "--porcelain", "--untracked-files=no")),
            "path": path,
        }
    except (OSError, subprocess.TimeoutExpired):  # no git, or a file system that hangs
        return None


def _git_says(*words: str) -> str | None:
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0"}
    done = subprocess.run(
        ["git", *words], capture_output=True, text=True, timeout=5, env=environment, check=False
    )
    return done.stdout.strip() or None if done.returncode == 0 else None


def _slurm() -> dict[str, str] | None:
    if "SLURM_JOB_ID" not in os.environ:
        return None
    return {
        name.removeprefix("SLURM_").lower(): os.environ[name]
        for name in _SLURM
        if name in os.environ
    }


def _versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "torchbeast": torchbeast.__version__,
    }
    for name in ("numpy", "gymnasium"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def _hardware() -> dict[str, Any]:
    allowed = getattr(os, "sched_getaffinity", None)
    return {
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "cpu_allowed": len(allowed(0)) if allowed else os.cpu_count(),
        "cpu_model": _cpu_model(),
        "gpu": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found.group(1) if found else platform.processor()
