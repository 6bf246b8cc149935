"""The `torchbeast` command: train, resume, sweep, eval, play, list, bench, plot, serve."""

from __future__ import annotations

import sys
from collections.abc import Sequence

# Heavy imports are inside the commands, so that help and typos answer at once.

USAGE = """usage: torchbeast COMMAND [...]

  train ALGORITHM [flags]   train an agent; `torchbeast train ppo --help` lists the flags
  resume RUN [flags]        continue a run from its last checkpoint
  sweep ALGORITHM [flags]   many runs at once: --vary NAME=V1,V2,... times --seeds N
  eval RUN                  play full games with a trained agent
  play RUN                  the same, written as a video
  plot RUN [RUN ...]        learning curves as a PNG, several seeds with an interval
  list [WHAT]               runs, environments, algorithms, presets or networks
  bench [flags]             speed of environment, forward pass, update, and all together
  serve [flags]             environments for runs elsewhere, which name it by --env_servers

RUN is an xpid in --savedir (~/logs/torchbeast), a path, or `latest`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code of one command: 2 bad input, others in docs/faults.md."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE)
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from torchbeast import __version__

        print(f"torchbeast {__version__}")
        return 0
    from torchbeast.commands import COMMANDS
    from torchbeast.commands.errors import ending, nearest

    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        print(
            f"torchbeast: no command '{name}'; did you mean {nearest(name, COMMANDS)}?",
            file=sys.stderr,
        )
        return 2
    return ending(f"torchbeast {name}", lambda: COMMANDS[name](rest))


if __name__ == "__main__":
    sys.exit(main())
