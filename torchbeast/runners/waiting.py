"""The learner's wait for a batch, of whatever fills its buffer from elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator

from torchbeast.data.buffer import Buffer

log = logging.getLogger("torchbeast")

POLL = 0.2  # seconds; the longest wait between two calls of on_wait
COMPLAIN = 10.0  # seconds of waiting between log lines that say for whom


def until_ready(
    buffer: Buffer,
    on_wait: Callable[[], None],
    serve: Callable[[float], None],
    states: Callable[[], str],
) -> Iterator[float]:
    """Yields the seconds of each piece of waiting, until the buffer has a batch ready.

    Args:
        buffer: of the learner.
        on_wait: called before each piece; may raise to give up.
        serve: takes in what comes, for so many seconds at most.
        states: says what those that are waited for are doing; asked now and then, for the log.
    """
    began = complained = time.monotonic()
    while not buffer.ready():
        on_wait()
        serve(POLL)
        now = time.monotonic()
        yield now - began
        began = now
        if now - complained > COMPLAIN:
            complained = now
            log.info("the learner has waited %.0f s for rollouts: %s", COMPLAIN, states())
