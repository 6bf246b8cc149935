"""Where the learners of a run find each other, and what is left there for the others to read."""

from __future__ import annotations

import contextlib
import datetime
import os
import uuid
from urllib.parse import urlsplit

import torch
import torch.distributed as dist

from torchbeast.algorithms.ranks import connected
from torchbeast.runners.devices import choose_backend, place

# A dead learner is noticed at once; this bounds one that is frozen. Environments may be slow.
TIMEOUT = datetime.timedelta(minutes=5)

ARRIVED, FAILED, OVER = "arrived", "failed", "over"  # words in the store


class RankFailed(RuntimeError):
    """Another learner of this run ended; the message holds its traceback if there is one."""


class Meeting:
    """A store that every learner reads and writes, and from ``join`` on their process group.

    Its words outlive a broken connection, so they tell why it broke: a learner that fails leaves
    its traceback, and rank 0 leaves word that the run is over before it goes.

    On rank 0 ``admit`` must be called until it returns True; others wait for that meanwhile.

    Args:
        address: ``file:///path``, ``tcp://HOST:PORT`` (rank 0 listens there, 0: at any port), or
            ``env://`` with what torchrun sets. Nobody is asked who he is: for trusted networks.
        rank: which of the learners this is.
        size: how many there are.

    Raises:
        Disconnected: rank 0 or its store does not come.
    """

    def __init__(self, address: str, rank: int, size: int) -> None:
        self.rank = rank
        self.size = size
        name = uuid.uuid4().hex
        with connected():
            self._hall = _open(address, rank, size)
            if rank > 0:
                self._hall.set(f"come-{rank}", name)
                name = self._hall.get(f"room-{name}").decode()
            # torchrun's store outlives a restart: each time the learners meet in another room of
            # it, whose name rank 0 tells those who come.
            self._room = name
            self._store = dist.PrefixStore(name, self._hall)
            self._store.add(ARRIVED, 1)
        self.address = address
        if isinstance(self._hall, dist.TCPStore):
            self.address = f"tcp://{urlsplit(address).hostname}:{self._hall.port}"

    def admit(self) -> bool:
        """Returns whether every learner has come, after telling those who came where; on rank 0."""
        with connected():
            for rank in range(1, self.size):
                if self._hall.check([f"come-{rank}"]):
                    name = self._hall.get(f"come-{rank}").decode()
                    self._hall.set(f"room-{name}", self._room)
            return self._store.add(ARRIVED, 0) >= self.size

    def join(self, device: torch.device) -> None:
        """Connects this learner, which computes on ``device``, with all others; waits for them.

        Raises:
            Disconnected: one does not come.
        """
        if device.type == "cuda":
            torch.cuda.set_device(device)
        with connected():
            self._store.set(f"place-{self.rank}", place(device))
            places = [self._store.get(f"place-{rank}").decode() for rank in range(self.size)]
            # Else NCCL returns at once, and ends the process when another learner is gone.
            os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")
            dist.init_process_group(
                choose_backend(places),
                store=dist.PrefixStore("group", self._store),
                rank=self.rank,
                world_size=self.size,
                timeout=TIMEOUT,
            )

    def fail(self, text: str) -> None:
        """Leaves ``text``, why this learner ends, for the others; the first failure stays."""
        with contextlib.suppress(RuntimeError):  # nobody is left to read it
            self._store.compare_set(FAILED, "", text)

    def failure(self) -> str | None:
        """Returns the text that a learner left before it ended; None if there is none."""
        return self._read(FAILED)

    def end(self) -> None:
        """Leaves word that the run is over, so that the others go in peace."""
        with contextlib.suppress(RuntimeError):
            self._store.set(OVER, "yes")

    def over(self) -> bool:
        """Returns whether rank 0 said that the run is over.

        Raises:
            Disconnected: the store is gone, and with it whoever kept it.
        """
        with connected():
            return self._store.check([OVER])

    def close(self) -> None:
        """Leaves the group; the others notice."""
        # A group with dead members cannot be ended politely.
        with contextlib.suppress(RuntimeError):
            if dist.is_initialized():
                dist.destroy_process_group()

    def _read(self, word: str) -> str | None:
        with contextlib.suppress(RuntimeError):
            if self._store.check([word]):
                return self._store.get(word).decode()
        return None


def _open(address: str, rank: int, size: int) -> dist.Store:
    parts = urlsplit(address)
    if parts.scheme == "file":
        store: dist.Store = dist.FileStore(parts.path, size)
    elif parts.scheme == "tcp":
        # Not waiting for the others: rank 0 looks meanwhile whether they fail to start.
        store = dist.TCPStore(
            str(parts.hostname),
            int(parts.port or 0),
            size,
            is_master=rank == 0,
            timeout=TIMEOUT,
            wait_for_workers=False,
        )
    else:
        store, _, _ = next(dist.rendezvous(address, rank, size, timeout=TIMEOUT))
    store.set_timeout(TIMEOUT)
    return store
