import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vitjax.training.lock import WriterLock

HOLD = """
import sys, time
from pathlib import Path
from vitjax.training.lock import WriterLock
lock = WriterLock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_another_process_is_kept_out_and_told_by_whom(tmp_path, holder):
    with pytest.raises(
        ValueError, match=f"is being written by process {holder.pid} on .* since 20"
    ) as refusal:
        WriterLock(tmp_path)
    assert "\n" not in str(refusal.value)


def test_a_killed_holder_is_taken_over(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert str(holder.pid) in (tmp_path / "lock").read_text()  # the stale file is there
    lock = WriterLock(tmp_path)
    assert str(os.getpid()) in (tmp_path / "lock").read_text()
    lock.release()


def test_the_same_process_cannot_hold_it_twice(tmp_path):
    lock = WriterLock(tmp_path)
    with pytest.raises(ValueError, match=f"process {os.getpid()} "):
        WriterLock(tmp_path)
    lock.release()
    lock.release()
    WriterLock(tmp_path).release()


def test_an_unreadable_lock_file_still_keeps_others_out(tmp_path):
    lock = WriterLock(tmp_path)
    (tmp_path / "lock").write_text("{}")
    with pytest.raises(ValueError, match="by another process"):
        WriterLock(tmp_path)
    lock.release()
