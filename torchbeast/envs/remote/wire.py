"""The messages of ``protocol.proto``, made and read."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from torchbeast.data import ArraySpec, EnvSpec, Tree, array_specs, tree_leaves
from torchbeast.data.spec import tree_map_specs
from torchbeast.envs.remote.frames import Joiner, Splitter
from torchbeast.envs.remote.protobuf import Fields, WireError, array, data, number, sized
from torchbeast.envs.remote.spaces import decode_space, encode_space
from torchbeast.envs.vector import Step

VERSION = 1  # of the protocol; a change of protocol.proto that both sides must know is a new one
SERVICE, METHOD = "torchbeast.Environments", "Play"
MAX_WELCOME = 1 << 22  # bytes
SMALL = 1 << 12  # bytes; more than everything in the other messages but their arrays

TERMINATED, TRUNCATED, LIFE_LOST, REPLACED, WHOLE = 1, 2, 4, 8, 16


class Hello(NamedTuple):
    """What a client says first."""

    version: int
    num_envs: int  # B; 0 only asks for the answer
    seed: int


class Welcome(NamedTuple):
    """What a server answers."""

    version: int
    spec: EnvSpec
    name: str = ""  # of the environment, for titles
    num_servers: int = 1  # that were started together
    max_streams: int = 0  # with environments, at once; 0: not said


RESET = b"".join(data(2, []))
DONE = b"".join(data(4, []))  # training is over


def encode_hello(hello: Hello) -> bytes:
    """Returns the Request of a Hello."""
    fields = [part for i, value in enumerate(hello) for part in number(i + 1, value)]
    return b"".join(data(1, fields))


def decode_hello(request: bytes) -> Hello:
    """Returns the Hello of a Request.

    Raises:
        WireError: it is none.
    """
    fields = Fields(Fields(request).data(1))
    return Hello(fields.number(1), fields.number(2), fields.number(3))


def encode_welcome(welcome: Welcome) -> bytes:
    """Returns the Reply of a Welcome."""
    observation, action, frame_stack = welcome.spec
    fields = number(1, welcome.version)
    fields += data(2, encode_space(observation)) + data(3, encode_space(action))
    fields += number(4, frame_stack) + data(5, [welcome.name.encode()])
    fields += number(6, welcome.num_servers) + number(7, welcome.max_streams)
    return b"".join(data(1, fields))


def decode_welcome(reply: bytes) -> Welcome:
    """Returns the Welcome of a Reply.

    Raises:
        WireError: it is none, or its version is not ours.
    """
    fields = Fields(Fields(reply).data(1))
    version = fields.number(1)
    if version != VERSION:
        raise WireError(wrong_version(client=VERSION, server=version))
    observation, action = (decode_space(fields.data(field)) for field in (2, 3))
    frame_stack = max(1, fields.number(4))
    if frame_stack > 1 and (observation.shape or ())[:1] != (frame_stack,):
        raise WireError(f"expected observations of {frame_stack} frames, got {observation}")
    spec = EnvSpec(observation, action, frame_stack)
    return Welcome(version, spec, fields.text(5), max(1, fields.number(6)), fields.number(7))


def wrong_version(client: int, server: int) -> str:
    """Returns the message of two sides that do not understand each other."""
    return (
        f"expected client and server to speak one version of the protocol, got version {client} "
        f"of the client and version {server} of the server; install the same torchbeast on both"
    )


class Block:
    """Arrays [B, ...] of a space, and how they lie in a message: one after the other."""

    def __init__(self, specs: Tree, num_envs: int) -> None:
        def zeros(leaf: ArraySpec) -> np.ndarray[Any, Any]:
            return np.zeros((num_envs, *leaf.shape), leaf.dtype.newbyteorder("<"))

        self.tree: Tree = tree_map_specs(zeros, specs)
        self.leaves = tree_leaves(self.tree)
        self.num_bytes = sum(leaf.nbytes for leaf in self.leaves)

    def read(self, message: memoryview) -> Tree:
        """Returns the tree, filled from a message; its arrays are the same at every call.

        Raises:
            WireError: the message has another size.
        """
        at, message = 0, sized(message, self.num_bytes)
        for leaf in self.leaves:
            array(leaf)[:] = message[at : at + leaf.nbytes]
            at += leaf.nbytes
        return self.tree

    def fit(self, tree: Tree) -> list[np.ndarray[Any, Any]]:
        """Returns the leaves of ``tree`` as arrays whose bytes can go into a message.

        Raises:
            ValueError: a leaf has another shape than the space says.
        """
        result = []
        for leaf, ours in zip(tree_leaves(tree), self.leaves, strict=True):
            if np.shape(leaf) != ours.shape:
                raise ValueError(
                    f"expected an array {list(ours.shape)} of {ours.dtype}, got one of "
                    f"{list(np.shape(leaf))}"
                )
            result.append(np.ascontiguousarray(leaf, ours.dtype))
        return result


class Actions:
    """Requests with the actions of B environments."""

    def __init__(self, spec: EnvSpec, num_envs: int) -> None:
        self._block = Block(array_specs(spec.action), num_envs)
        self.max_bytes = self._block.num_bytes + SMALL

    def encode(self, action: Tree) -> bytes:
        """Returns the Request of actions [B, ...]."""
        return b"".join(data(3, map(array, self._block.fit(action))))

    def decode(self, request: bytes) -> Tree | None:
        """Returns the actions of a Request, None for a Reset.

        Raises:
            WireError: it is neither.
        """
        fields = Fields(request)
        if 2 in fields:
            return None
        return self._block.read(fields.data(3))


class Rows:
    """Replies with the rows of B environments; a server encodes them, a client decodes.

    With frames stacked each frame travels once: see ``frames.py``.
    """

    def __init__(self, spec: EnvSpec, num_envs: int) -> None:
        self._num_envs = num_envs
        self._block = Block(array_specs(spec.observation), num_envs)
        self._splitter = self._joiner = None
        if spec.frame_stack > 1:
            self._splitter = Splitter(self._block.tree)
            self._joiner = Joiner(self._block.tree)
        # Whole stacks come beside the newest frames, so at most twice the observations.
        self.max_bytes = 2 * self._block.num_bytes + 9 * num_envs + SMALL + MAX_WELCOME

    def encode_reset(self, obs: Tree) -> bytes:
        """Returns the Reply of first observations."""
        if self._splitter is not None:
            self._splitter.forget()
        none = np.zeros(self._num_envs, bool)
        return self.encode(Step(obs, np.zeros(self._num_envs), none, none))

    def encode(self, step: Step) -> bytes:
        """Returns the Reply of a step."""
        flags = np.zeros(self._num_envs, np.uint8)
        for flag, where in zip((TERMINATED, TRUNCATED, LIFE_LOST, REPLACED), step[2:], strict=True):
            if where is not None:
                flags[where] |= flag
        obs, stacks = self._block.fit(step.obs), None
        if self._splitter is not None:
            stacks = obs[0]
            newest, whole = self._splitter.split(stacks)
            flags[whole] |= WHOLE
            obs, stacks = [newest], stacks[whole]
        reward = np.ascontiguousarray(step.reward, "<f8")
        fields = data(1, map(array, obs)) + data(2, [array(reward)]) + data(3, [array(flags)])
        if stacks is not None and len(stacks):
            fields += data(4, [array(stacks)])
        return b"".join(data(2, fields))

    def decode(self, reply: bytes) -> Step:
        """Returns the step of a Reply; its observations change with the next call but one.

        Raises:
            WireError: it is none, or of other sizes.
        """
        fields = Fields(Fields(reply).data(2))
        reward = np.frombuffer(sized(fields.data(2), 8 * self._num_envs), "<f8")
        flags = np.frombuffer(sized(fields.data(3), self._num_envs), np.uint8)
        if self._joiner is not None:
            obs = self._joiner.join(fields.data(1), flags & WHOLE != 0, fields.data(4))
        else:
            obs = self._block.read(fields.data(1))
        lost, replaced = (flags & flag != 0 for flag in (LIFE_LOST, REPLACED))
        return Step(
            obs,
            reward,
            flags & TERMINATED != 0,
            flags & TRUNCATED != 0,
            lost if lost.any() else None,
            replaced if replaced.any() else None,
        )
