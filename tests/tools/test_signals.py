import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from torchbeast.tools import signals
from torchbeast.tools.signals import StopFlag


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130), ("SIGUSR1", 143)])
def test_a_signal_only_raises_the_flag(name, code):
    number = getattr(signal, name)
    before = signal.getsignal(number)
    with StopFlag() as flag:
        assert not flag.requested
        assert flag.exit_code == 0
        assert not flag.overdue(0)
        os.kill(os.getpid(), number)
        assert flag.requested
        assert (flag.signal, flag.exit_code) == (name, code)
        assert not flag.overdue(100)
        time.sleep(0.01)
        assert flag.overdue(0.005)
    assert signal.getsignal(number) is before


def test_one_ctrl_c_delivered_twice_is_one(monkeypatch):
    monkeypatch.setattr(signals, "_SAME_REQUEST", 60.0)  # else a stall between the two ends pytest
    with StopFlag() as flag:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        assert flag.signal == "SIGINT"


def test_outside_the_main_thread_there_is_still_a_flag():
    seen = []

    def work():
        with StopFlag() as flag:
            flag.request()
            seen.append((flag.requested, flag.exit_code))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(True, 143)]
    assert signal.getsignal(signal.SIGTERM) is before


STUCK = """
import time
from torchbeast.tools.signals import StopFlag
with StopFlag() as flag:
    print("go", flush=True)
    while not flag.requested:
        time.sleep(0.01)
    print("asked", flush=True)
    while True:
        time.sleep(1)
"""


def test_the_second_signal_kills_at_once():
    root = str(Path(__file__).parents[2])
    child = subprocess.Popen(
        [sys.executable, "-c", STUCK],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": root},
    )
    assert child.stdout.readline() == "go\n"
    child.send_signal(signal.SIGINT)
    assert child.stdout.readline() == "asked\n"
    time.sleep(signals._SAME_REQUEST + 0.1)
    assert child.poll() is None
    child.send_signal(signal.SIGINT)
    assert child.wait(timeout=60) == -signal.SIGINT
    child.stdout.close()
