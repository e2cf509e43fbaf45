import signal
import subprocess
import sys
import threading
import time

import pytest

from tests.parallel.together import ROOT
from vitjax.training.signals import StopFlag


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_only_asks(number):
    before = signal.getsignal(number)
    with StopFlag() as stop:
        assert not stop and stop.signal is None
        signal.raise_signal(number)
        assert stop and stop.signal is number
    assert stop.signal is number
    assert signal.getsignal(number) is before


def test_a_second_interrupt_interrupts():
    with StopFlag() as stop:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert stop.signal is signal.SIGINT


def test_handlers_come_back_after_an_error():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ZeroDivisionError), StopFlag():
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGTERM) is before


def test_beside_the_main_thread_nothing_is_caught():
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def work():
        with StopFlag() as stop:
            seen.append((bool(stop), signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, before)]


CHILD = """
import time
from vitjax.training.signals import StopFlag
with StopFlag() as stop:
    print("ready", flush=True)
    while not stop:
        time.sleep(0.01)
    print("asked", flush=True)
    time.sleep(60)
"""


def test_a_second_termination_ends_at_once():
    child = subprocess.Popen([sys.executable, "-c", CHILD], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout.readline() == "ready\n"
        child.terminate()
        assert child.stdout.readline() == "asked\n"
        start = time.monotonic()
        child.terminate()
        assert child.wait(timeout=30) == -signal.SIGTERM
        assert time.monotonic() - start < 30
    finally:
        child.kill()
        child.stdout.close()
