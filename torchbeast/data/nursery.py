"""What the server that forks workers imports, once for all of them."""

import atexit
import os
import signal
import sys

import gymnasium  # noqa: F401
import torch  # noqa: F401

from torchbeast.data.process import name_process

if "multiprocessing.forkserver" in " ".join(sys.orig_argv):  # else somebody only looks
    name_process("forks workers")
    # What terminals and clusters send to everybody must not end the server, and so all workers.
    os.setpgid(0, 0)
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    # Taking torch down politely takes half a second, in which workers would outlive their parent.
    atexit.register(os._exit, 0)
