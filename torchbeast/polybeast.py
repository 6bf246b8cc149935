"""PolyBeast: environment servers and a learner in one command, by the flags of 2019.

python -m torchbeast.polybeast --env PongNoFrameskip-v4
python -m torchbeast.polybeast --mode test --xpid example

All flags of polybeast_env and polybeast_learner. What it starts ends with it, in every case: when
training is over, on Ctrl-C and errors, and when this process is killed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import sys
import threading
from collections.abc import Iterator, Sequence

from torchbeast import polybeast_env, polybeast_learner
from torchbeast.commands.ancestor import test
from torchbeast.commands.errors import UsageError, ending
from torchbeast.commands.flags import parse
from torchbeast.commands.servers import Servers, check

log = logging.getLogger("torchbeast")


@dataclasses.dataclass(frozen=True)
class Flags:
    """Servers and learner, with the flags of PolyBeast."""

    served: polybeast_env.Served = dataclasses.field(default_factory=polybeast_env.Served)
    learner: polybeast_learner.Flags = dataclasses.field(default_factory=polybeast_learner.Flags)


def train(flags: Flags) -> int:
    """Returns the exit code of a run with servers of its own."""
    served, learner = flags.served, flags.learner
    polybeast_learner.check(learner)
    if served.num_servers < learner.num_actors:
        raise UsageError(
            f"expected a server for each of --num_actors {learner.num_actors}, got --num_servers "
            f"{served.num_servers}; raise it, or lower --num_actors"
        )
    if learner.env_certificate is not None:
        raise UsageError(
            "expected no --env_certificate for servers and learner on one machine; leave it out, "
            "or start polybeast_env and polybeast_learner"
        )
    serving = polybeast_env.serving(served.env, token=learner.env_token)
    where = polybeast_env.addresses(learner.pipes_basename, served.num_servers)
    check(serving)
    servers = Servers(serving, where, "--pipes_basename")
    with watched(servers):
        print(f"{served.num_servers} servers of {served.env} at {learner.pipes_basename}")
        return polybeast_learner.train(learner)


@contextlib.contextmanager
def watched(servers: Servers) -> Iterator[None]:
    """Replaces servers that die, in a thread beside the learner; what they log goes to its log."""
    over = threading.Event()

    def watch() -> None:
        try:
            while not over.is_set():
                servers.watch(0.2)
        except UsageError as error:  # the learner's connections will tell the rest
            log.error("%s", error)
        finally:
            servers.close()

    thread = threading.Thread(target=watch, name="servers", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code of `python -m torchbeast.polybeast`."""
    flags = parse(Flags(), "polybeast", sys.argv[1:] if arguments is None else arguments)
    train_or_test = train if flags.learner.mode == "train" else lambda flags: test(flags.learner)
    return ending("polybeast", lambda: train_or_test(flags))


if __name__ == "__main__":
    sys.exit(main())
