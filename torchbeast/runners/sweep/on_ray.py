"""Runs on the nodes of a Ray cluster: each is a task that starts the process and reports."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import shutil
import socket
import tempfile
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from torchbeast import user_code
from torchbeast.runners.checks import ConfigError
from torchbeast.runners.cluster.session import connected
from torchbeast.runners.cluster.told import reason
from torchbeast.runners.config import ClusterConfig, RunConfig
from torchbeast.runners.sweep.cores import claimed_cores, described
from torchbeast.runners.sweep.place import LOST, Job, News
from torchbeast.runners.sweep.process import RunProcess
from torchbeast.runners.sweep.progress import Progress, read_progress
from torchbeast.runners.sweep.travel import newest_checkpoint, packed, unpack
from torchbeast.tools.files import write_atomically

PERIOD = 1.0  # seconds between two reports of a run
MOST = 10_000  # runs at once that can wait for the bell
STOPPED = 143  # exit code of a run that never began


class Report(NamedTuple):
    """What a node says of a run."""

    where: str
    progress: Progress
    exit_code: int | None = None
    message: str = ""
    files: bytes | None = None  # the directory of the run, where the nodes do not share it
    receipt: str = ""  # that the node waits for to remove that directory


class Errand(NamedTuple):
    """What a node is told of a run."""

    config: bytes  # a pickled RunConfig: its own classes may lie in ``code``
    code: dict[str, str]  # the user's, by its path on the machine of the sweep
    path: Path  # its directory on the machine of the sweep
    mark: Path  # a file beside it: a node that sees it shares the folder
    folder: str  # name of the folder that nodes which do not share it make for the run
    node_dir: str | None
    newest: str  # checkpoint in ``begun``
    begun: bytes | None  # the files that there are
    cpus: int


class RayNodes:
    """Runs as tasks of a Ray cluster, which chooses the nodes.

    Where a node sees the folder of the sweep, a run writes there. Where it does not, the run writes
    on its node, and its files come back with each checkpoint and at the end; what came back whole
    is removed there.

    Args:
        cluster: its address and token.
        folder: of the sweep, on this machine.
        cpus_per_run: cores of each run.
        gpus_per_run: GPUs of each run.
        node_dir: where runs write on the nodes; None: where the nodes see ``folder`` there, else
            below their temporary folder.

    Raises:
        ClusterError: there is no cluster, or it refuses.
        ValueError: no node is large enough, no token is given, or Ray is not installed.
    """

    def __init__(
        self,
        cluster: ClusterConfig,
        folder: Path,
        cpus_per_run: int,
        gpus_per_run: float,
        node_dir: str | None,
    ) -> None:
        self._connection = contextlib.ExitStack()
        self._ray = ray = self._connection.enter_context(
            connected(cluster.address, cluster.cluster_token, cluster.trust_network)
        )
        try:
            _check_nodes(ray.nodes(), cpus_per_run, gpus_per_run)
        except ConfigError:
            self._connection.close()
            raise
        # Another try is the sweep's to decide: it has the files to go on from.
        self._task = ray.remote(
            num_cpus=cpus_per_run, num_gpus=gpus_per_run, max_retries=0, num_returns="streaming"
        )(_run_on_node)
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=False
        )  # no other node that dies takes the bell with it
        bell = ray.remote(num_cpus=0, max_concurrency=MOST, scheduling_strategy=here)
        self._bell = bell(Bell).remote()
        folder.mkdir(parents=True, exist_ok=True)
        self._mark = folder / f".seen-{uuid.uuid4().hex}"
        self._mark.touch()
        self._id = _id_of(folder)
        self._cpus = cpus_per_run
        self._node_dir = node_dir
        self._code: dict[tuple[str, ...], dict[str, str]] = {}
        self._running: dict[Path, tuple[Job, Any]] = {}
        self._last: dict[Path, News] = {}

    def free(self) -> bool:
        """Returns True: what finds no room waits in the cluster."""
        return True

    def start(self, job: Job) -> None:
        """Hands a run to the cluster, with what there is of it."""
        newest, names = newest_checkpoint(job.path), job.config.references()
        if names not in self._code:  # once: another try has the same code
            self._code[names] = user_code.carry_out(names)
        errand = Errand(
            pickle.dumps(job.config),
            self._code[names],
            job.path,
            self._mark,
            uuid.uuid5(self._id, job.path.name).hex,
            self._node_dir,
            newest,
            packed(job.path)[0] if newest else None,
            self._cpus,
        )
        self._running[job.path] = job, self._task.remote(errand, self._bell)
        self._last[job.path] = News(job, "", read_progress(job.path))

    def poll(self) -> list[News]:
        """Returns how far each run is, and which have ended."""
        ray = self._ray
        for path, (job, reports) in list(self._running.items()):
            try:
                while ray.wait([reports], timeout=0, fetch_local=False)[0]:
                    self._take(job, ray.get(next(reports)))
                continue
            except StopIteration:
                self._lose(job, "it ended without a word")
            except ray.exceptions.RayError as error:
                self._lose(job, reason(error))
            del self._running[path]
        # A run is over when its node has cleared up: another try may go there.
        over = self._last.keys() - self._running.keys()
        news = [n for path, n in self._last.items() if n.exit_code is None or path in over]
        self._last = {path: self._last[path] for path in self._running}
        return news

    def stop(self) -> None:
        """Asks every run to save and leave; what waits for room does not begin."""
        self._bell.ring.remote()
        for path, (job, reports) in list(self._running.items()):
            if not self._last[path].where:
                self._ray.cancel(reports)
                del self._running[path]
                self._last[path] = News(job, "", read_progress(path), STOPPED)

    def close(self) -> None:
        """Ends at once what still goes on, and leaves the cluster."""
        for _, reports in self._running.values():
            self._ray.cancel(reports, force=True)
        self._running.clear()
        self._mark.unlink(missing_ok=True)
        self._connection.close()

    def _take(self, job: Job, report: Report) -> None:
        if report.files is not None:
            unpack(report.files, job.path)
        if report.receipt:
            self._bell.arrived.remote(report.receipt)
        self._last[job.path] = News(job, *report[:4])

    def _lose(self, job: Job, why: str) -> None:
        if self._last[job.path].exit_code is None:
            self._last[job.path] = self._last[job.path]._replace(exit_code=LOST, message=why)


class Bell:
    """An actor that tells every run when to save and leave, and what has arrived."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()
        self._arrived: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    async def ring(self) -> None:
        """Asks all to leave."""
        self._rung.set()

    async def wait(self) -> None:
        """Returns once all should leave."""
        await self._rung.wait()

    async def arrived(self, receipt: str) -> None:
        """Notes that the files of a report are where they belong."""
        self._arrived[receipt].set()

    async def wait_for(self, receipt: str) -> None:
        """Returns once they are."""
        await self._arrived[receipt].wait()


def _run_on_node(errand: Errand, bell: Any) -> Iterator[Report]:
    """Yields reports of a run that goes on in a process of this node, until it has ended."""
    user_code.carry_in(errand.code)
    config: RunConfig = pickle.loads(errand.config)
    shared = errand.node_dir is None and errand.mark.exists()
    run = errand.path if shared else _folder_here(errand) / errand.path.name
    if not shared and errand.begun is not None and newest_checkpoint(run) < errand.newest:
        unpack(errand.begun, run)
    with claimed_cores(errand.cpus) as cores:
        where = " of ".join(filter(None, [described(cores), socket.gethostname()]))
        process = RunProcess(run, config, cores)
        try:
            yield from _reports(process, run, where, bell, shared)
        finally:
            process.kill()


def _reports(
    process: RunProcess, run: Path, where: str, bell: Any, shared: bool
) -> Iterator[Report]:
    sent, asked = newest_checkpoint(run), False
    rung = bell.wait.remote().future()  # `ray.get` would lend this run's cores to another
    yield Report(where, read_progress(run))
    while (code := process.poll()) is None:
        time.sleep(PERIOD)
        if not asked and rung.done() and rung.exception() is None:
            asked = True
            process.stop()
        newest = newest_checkpoint(run)
        files = packed(run)[0] if newest != sent and not shared else None
        sent = newest
        yield Report(where, read_progress(run), files=files)
    last = Report(where, read_progress(run), code, process.last_words() if code else "")
    if shared:
        yield last
        return
    files, whole = packed(run)
    receipt = uuid.uuid4().hex if whole else ""
    yield last._replace(files=files, receipt=receipt)
    if receipt:
        bell.wait_for.remote(receipt).future().result()
        shutil.rmtree(run.parent, ignore_errors=True)


def _folder_here(errand: Errand) -> Path:
    """Returns the folder of this run and user on a node that does not share that of the sweep."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    root = Path(errand.node_dir or tempfile.gettempdir())
    folder = root / f"torchbeast-{user}-sweep-{errand.folder}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _id_of(folder: Path) -> uuid.UUID:
    """Returns what tells the sweep in ``folder`` from others, such as one of its name before it."""
    path = folder / "sweep.id"
    if not path.exists():
        write_atomically(path, uuid.uuid4().hex.encode())
    return uuid.UUID(path.read_text())


def _check_nodes(nodes: list[dict[str, Any]], cpus: int, gpus: float) -> None:
    found = [node["Resources"] for node in nodes if node["Alive"]]
    if not any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in found):
        have = "; ".join(f"{n.get('CPU', 0):g} cores, {n.get('GPU', 0):g} GPUs" for n in found)
        raise ConfigError(
            f"expected a node with {cpus} cores and {gpus:g} GPUs for each run, got nodes with "
            f"{have}; lower --cpus_per_run or --gpus_per_run"
        )
