"""Environments in other processes or on other machines, over gRPC (see ``protocol.proto``).

A server: ``serve(lambda n, seed: envs.make(config, n, seed), envs.spec(config), address)``.
A client: ``RemoteEnv(address, num_envs, seed)``; ``ask(address)`` says what is served, and
``say_done(addresses)`` that training is over.
"""

import importlib.util
import os

if importlib.util.find_spec("grpc") is None:
    raise ModuleNotFoundError(
        "environment servers need grpcio, got none; pip install 'torchbeast[polybeast]'",
        name="grpc",
    )
# gRPC reads it once; it tells the terminal of each lost connection else, which we log ourselves.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

from torchbeast.envs.remote.client import RemoteEnv, ask, say_done
from torchbeast.envs.remote.security import ServerTLS
from torchbeast.envs.remote.server import EnvServer, serve

__all__ = ["EnvServer", "RemoteEnv", "ServerTLS", "ask", "say_done", "serve"]
