"""Ray's interface to actors, in this process: a call is made when its answer is fetched."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any


class Answer:
    """What ``remote`` returns: the call, and what came of it."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call: Callable[[], Any] | None = call
        self._value: Any = None

    def fetch(self) -> Any:
        """Returns the answer."""
        if self._call is not None:
            call, self._call = self._call, None
            self._value = call()
        return self._value


class Handle:
    """An actor."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.actor, name)
        return types.SimpleNamespace(remote=lambda *a: Answer(lambda: method(*a)))


class Class:
    """What ``ray.remote`` returns."""

    def __init__(self, made: Callable[..., Any]) -> None:
        self._made = made

    def options(self, **_: Any) -> Class:
        """Returns itself: there is one place."""
        return self

    def remote(self, *arguments: Any) -> Handle:
        """Returns a new actor."""
        return Handle(self._made(*arguments))


def fake_ray(kill: Callable[[Any], None], exceptions: Any) -> Any:
    """Returns what stands for the module ``ray``."""
    return types.SimpleNamespace(
        put=lambda x: x,
        get=lambda answer: answer.fetch() if isinstance(answer, Answer) else answer,
        wait=lambda answers, num_returns=1, timeout=None: (
            answers[:num_returns],
            answers[num_returns:],
        ),
        remote=Class,
        kill=lambda handle: kill(handle.actor),
        exceptions=exceptions,
        get_runtime_context=lambda: types.SimpleNamespace(get_node_id=lambda: "node"),
    )
