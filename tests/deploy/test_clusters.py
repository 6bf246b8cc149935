"""The files to start from on SLURM and Kubernetes, without either."""

from __future__ import annotations

import os
import pathlib
import shlex
import signal
import stat
import subprocess
import time

import pytest
import yaml

from torchbeast.commands.flags import train_config

ROOT = pathlib.Path(__file__).parents[2]
# Each writes down how it was called; `ray` and the run go on until they are ended.
FAKES = {
    "scontrol": 'if [ "$1" = show ]; then printf "node1\\nnode2\\nnode3\\n"; fi',
    "hostname": "echo 10.0.0.7 10.1.0.7",
    "srun": 'echo "step of $SRUN_CPUS_PER_TASK cores" >> "$LOG"; '
    'while [[ "$1" == --* ]]; do shift; done; exec "$@"',
    "ray": 'stat -c "token %a" "$RAY_AUTH_TOKEN_PATH" >> "$LOG"; exec sleep 60',
    # The one that waits for the nodes does: else a fast run ends before they have written.
    "python": 'if [ "$1" = -c ]; then echo secret; else cat > /dev/null; '
    'while [ "$(grep -c "^token" "$LOG")" -lt 2 ]; do sleep 0.05; done; fi',
    "torchbeast": 'trap "exit 143" TERM; touch "$LOG.trains"; [ "$END" ] && exit "$END"; '
    "while true; do sleep 0.1; done",
    "torchrun": "exit 0",
}


@pytest.fixture
def slurm(tmp_path: pathlib.Path) -> dict[str, str]:
    """Gives the variables of a job on three nodes, where commands of SLURM are fakes."""
    binaries = tmp_path / "bin"
    binaries.mkdir()
    for name, body in FAKES.items():
        file = binaries / name
        file.write_text(f'#!/bin/bash\necho "{name} $*" >> "$LOG"\n{body}\n')
        file.chmod(0o755)
    return os.environ | {
        "PATH": f"{binaries}:{os.environ['PATH']}",
        "LOG": str(tmp_path / "log"),
        "END": "",
        "SLURM_JOB_ID": "1234567",
        "SLURM_JOB_NODELIST": "node[1-3]",
        "SLURM_CPUS_PER_TASK": "16",
        "SRUN_CPUS_PER_TASK": "",
    }


def start(script: str, variables: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    folder = pathlib.Path(variables["LOG"]).parent
    return subprocess.Popen(
        ["bash", ROOT / "deploy" / script, *arguments],
        env=variables,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def calls(variables: dict[str, str]) -> list[list[str]]:
    return [shlex.split(line) for line in pathlib.Path(variables["LOG"]).read_text().splitlines()]


def trains(variables: dict[str, str]) -> None:
    deadline = time.monotonic() + 30
    while not pathlib.Path(variables["LOG"] + ".trains").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_ray_cluster_of_the_nodes_of_a_job(slurm: dict[str, str]) -> None:
    variables = slurm | {"END": "0"}
    process = start("slurm.sh", variables, "train", "ppo", "--runner", "cluster")
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, out
    made = calls(variables)
    ray = [call for call in made if call[:2] == ["ray", "start"]]
    (head,) = [call for call in ray if "--head" in call]
    (other,) = [call for call in ray if "--head" not in call]
    assert "--port=24567" in head
    assert "--address=10.0.0.7:24567" in other
    assert all("--num-cpus=16" in call and "--block" in call for call in ray)
    steps = [call for call in made if call[0] == "srun" and "ray" in call]
    assert any("--nodelist=node1" in call and "--head" in call for call in steps)
    assert any("--nodes=2" in call and "--exclude=node1" in call for call in steps)
    assert made.count(["step", "of", "16", "cores"]) == 3
    assert made.count(["token", "600"]) == 2
    assert ["python", "-", "10.0.0.7:24567", "3"] in made  # waits for three nodes
    (run,) = [call for call in made if call[0] == "torchbeast"]
    assert run[1:] == [
        *["train", "ppo", "--runner", "cluster", "--address", "10.0.0.7:24567"],
        *["--xpid", "slurm-1234567"],
    ]
    assert not list(pathlib.Path(variables["LOG"]).parent.glob(".ray-token*"))


@pytest.mark.parametrize(("number", "again"), [(signal.SIGTERM, False), (signal.SIGUSR1, True)])
def test_a_job_that_must_end_saves(
    slurm: dict[str, str], number: signal.Signals, again: bool
) -> None:
    process = start("slurm.sh", slurm, "train", "ppo", "--runner", "cluster")
    trains(slurm)
    process.send_signal(number)
    out, _ = process.communicate(timeout=30)  # `ray` ended too, or the pipe were open
    assert process.returncode == 143, out
    assert (["scontrol", "requeue", "1234567"] in calls(slurm)) == again


def test_a_failure_is_the_failure_of_the_job(slurm: dict[str, str]) -> None:
    process = start("slurm.sh", slurm | {"END": "3"}, "train", "ppo")
    process.communicate(timeout=30)
    assert process.returncode == 3
    assert not any("requeue" in call for call in calls(slurm))


def test_torchrun_on_the_nodes_of_a_job(slurm: dict[str, str]) -> None:
    process = start("slurm_torchrun.sh", slurm | {"LEARNERS": "4"}, "train", "ppo")
    process.communicate(timeout=30)
    assert process.returncode == 0
    assert ["step", "of", "16", "cores"] in calls(slurm)
    (run,) = [call for call in calls(slurm) if call[0] == "torchrun"]
    assert run[1:] == [
        *["--nnodes=3", "--nproc-per-node=4", "--rdzv-backend=c10d", "--rdzv-id=1234567"],
        *["--rdzv-endpoint=node1:24567", "-m", "torchbeast", "train", "ppo"],
        *["--xpid", "slurm-1234567"],
    ]


def test_scripts_of_slurm_are_executable_and_ask_before_the_first_command() -> None:
    for name in ("slurm.sh", "slurm_torchrun.sh"):
        path = ROOT / "deploy" / name
        assert path.stat().st_mode & stat.S_IXUSR
        subprocess.run(["bash", "-n", path], check=True)
        lines = path.read_text().splitlines()
        asks = [i for i, line in enumerate(lines) if line.startswith("#SBATCH")]
        commands = [i for i, line in enumerate(lines) if line and not line.startswith("#")]
        assert asks
        assert max(asks) < min(commands)  # SLURM reads no further


def test_kubernetes() -> None:
    documents = yaml.safe_load_all((ROOT / "deploy" / "kuberay.yaml").read_text())
    claim, job = documents
    spec = job["spec"]
    cluster = spec["rayClusterSpec"]
    pins = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    )
    assert cluster["rayVersion"] == pins["ray"]
    assert cluster["authOptions"] == {"mode": "token"}
    head = cluster["headGroupSpec"]["template"]["spec"]
    (volume,) = head["volumes"]
    assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    (mount,) = head["containers"][0]["volumeMounts"]
    assert mount["name"] == volume["name"]
    assert f"VOLUME {mount['mountPath']}" in (ROOT / "Dockerfile").read_text()
    workers = [group["template"]["spec"] for group in cluster["workerGroupSpecs"]]
    submitter = spec["submitterPodTemplate"]["spec"]
    pods = [head, submitter, *workers]
    assert {container["image"] for pod in pods for container in pod["containers"]} == {
        "torchbeast:kuberay"
    }
    assert all(pod["securityContext"]["runAsNonRoot"] for pod in [head, *workers])
    name, command, algorithm, *flags = shlex.split(spec["entrypoint"])
    assert (name, command) == ("torchbeast", "train")
    config = train_config(algorithm, "the entrypoint", flags)
    assert config is not None
    assert config.cluster.runner == "cluster"
    assert pathlib.PurePath("/home/beast/logs") == pathlib.PurePath(mount["mountPath"])
    assert config.output.savedir == "~/logs/torchbeast"  # of the user beast: in the volume
