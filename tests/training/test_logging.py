"""What is written, what is shown, and what survives: resumes, kills, full disks, exceptions."""

import io
import json
import os
import pty
import re
import struct
import sys
import threading

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.crc32c import crc32c
from tensorboardX.proto.event_pb2 import Event, SessionLog

from vitjax.training import logging
from vitjax.training.logging import MetricsLogger, drop_after


def records(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def events(directory):
    """TFRecord: length, its checksum, data, its checksum."""
    found = []
    for path in sorted(directory.glob("events.out.tfevents.*")):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            for start, size in ((0, 8), (12, length)):
                end = start + size
                crc = crc32c(data[start:end])
                masked = (((crc >> 15) | (crc << 17)) + 0xA282EAD8) % 2**32
                assert struct.unpack("<I", data[end : end + 4]) == (masked,)
            found.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return found


def quiet(directory, total_steps=100, **options):
    options = {"examples_per_step": 8, "stream": io.StringIO(), **options}
    return MetricsLogger(directory, total_steps, **options)


class FakeTime:
    """time.perf_counter under the test's control."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(logging.time, "perf_counter", lambda: self.now)


def test_a_record_is_one_flushed_line_of_json(tmp_path):
    with quiet(tmp_path) as logger:
        logger.log(5, {"loss": jnp.float32(0.5), "bad_labels": jnp.int32(3), "half": jnp.bfloat16(1.5)})
        (record,) = records(tmp_path)  # before the logger is closed
        logger.log(5, {"accuracy": np.float64(0.25)}, phase="eval")
    assert {k: record[k] for k in ("step", "phase", "loss", "bad_labels", "half")} == {
        "step": 5, "phase": "train", "loss": 0.5, "bad_labels": 3, "half": 1.5,
    }  # fmt: skip
    assert records(tmp_path)[1]["phase"] == "eval" and records(tmp_path)[1]["accuracy"] == 0.25


def test_nan_and_infinity_are_null(tmp_path):
    with quiet(tmp_path) as logger:
        logger.log(1, {"a": float("nan"), "b": jnp.inf, "c": -np.inf, "d": 1.0})
    line = (tmp_path / "metrics.jsonl").read_text()
    assert "NaN" not in line and "Infinity" not in line
    assert [records(tmp_path)[0][name] for name in "abcd"] == [None, None, None, 1.0]


@pytest.mark.parametrize("value", [np.zeros(2), "text", None])
def test_only_numbers_are_logged(tmp_path, value):
    with quiet(tmp_path) as logger, pytest.raises(ValueError, match="metric 'loss'"):
        logger.log(1, {"loss": value})


def test_tensorboard_holds_the_same_numbers(tmp_path):
    with quiet(tmp_path, start_step=4) as logger:
        logger.log(5, {"loss": 0.5, "learning_rate": 1e-3})
        logger.log(6, {"accuracy": 0.75}, phase="eval")
    version, start, *scalars = events(tmp_path)
    assert version.file_version == "brain.Event:2"
    assert start.step == 5 and start.session_log.status == SessionLog.START
    values = {
        (event.step, event.summary.value[0].tag): event.summary.value[0].simple_value for event in scalars
    }
    assert values == {
        (5, "train/loss"): 0.5,
        (5, "train/learning_rate"): pytest.approx(1e-3),
        (6, "eval/accuracy"): 0.75,
    }


def test_a_resumed_run_has_each_step_once(tmp_path):
    with quiet(tmp_path) as logger:
        for step in (10, 20, 30, 40):
            logger.log(step, {"loss": 1.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 20, "phase": "tr')  # a kill in the middle of a line
    with quiet(tmp_path, start_step=20) as logger:
        logger.log(30, {"loss": 2.0})
    assert [(r["step"], r["loss"]) for r in records(tmp_path)] == [(10, 1.0), (20, 1.0), (30, 2.0)]


def test_a_new_run_starts_a_new_file(tmp_path):
    for _ in range(2):
        with quiet(tmp_path) as logger:
            logger.log(0, {"loss": 1.0}, phase="eval")
    assert len(records(tmp_path)) == 1


@pytest.mark.parametrize(
    "junk",
    ['{"step": 1}', "not json\n", '{"step": 99}\n', '{"loss": 1}\n', "[1]\n", '{"step": "1"}\n', "\x00\n"],
)
def test_what_is_no_whole_record_is_dropped(tmp_path, junk):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n' + junk)
    drop_after(path, 5)
    assert path.read_text() == '{"step": 1}\n'
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_with_nothing_to_drop_is_not_touched(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n')
    before = path.stat()
    drop_after(path, 1)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    drop_after(tmp_path / "none.jsonl", 1)


def test_throughput_leaves_compilation_and_pauses_out(tmp_path, monkeypatch):
    clock = FakeTime(monkeypatch)
    stream = io.StringIO()
    with quiet(tmp_path, stream=stream) as logger:
        clock.now += 60  # compiling
        logger.advance(1)
        clock.now += 2
        logger.advance(11)
        logger.log(11, {"loss": 1.0})
        with logger.paused("evaluate"):
            clock.now += 30
        clock.now += 5
        logger.advance(21)
        logger.log(21, {"loss": 1.0})
    rates = [record["images_per_second"] for record in records(tmp_path)]
    assert rates == [pytest.approx(10 * 8 / 2), pytest.approx(10 * 8 / 5)]
    # 37 s of wall clock for 20 steps, 79 to go; pauses will come again, so they count.
    assert stream.getvalue().splitlines()[-1].endswith("eta 0:02:26")


def test_first_record_without_an_interval_has_no_throughput(tmp_path):
    with quiet(tmp_path, unit="lines") as logger:
        logger.log(1, {"loss": 1.0})
        logger.advance(2)
        logger.log(3, {"loss": 1.0})
    assert ["lines_per_second" in record for record in records(tmp_path)] == [False, True]


@pytest.mark.parametrize("force_color", ["", "1"])
def test_without_a_terminal_plain_lines(tmp_path, monkeypatch, force_color):
    monkeypatch.setenv("FORCE_COLOR", force_color)
    stream = io.StringIO()
    with quiet(tmp_path, stream=stream) as logger:
        for step in range(1, 31):
            logger.advance(step)
            if step % 10 == 0:
                logger.log(step, {"loss": 0.123456, "learning_rate": 1.5e-3, "gradient_norm": 9.0})
        logger.log(30, {"accuracy": 0.5}, phase="eval")
        logger.message("saved [step] 30")
    text = stream.getvalue()
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", text)
    lines = text.splitlines()
    assert len(lines) == 5
    assert re.fullmatch(
        r"train  10/100 10%  loss 0\.123  lr 0\.0015  [\d,]+ images/s  eta \d:\d\d:\d\d", lines[0]
    )
    assert lines[3] == "eval  step 30  accuracy 0.5" and lines[4] == "saved [step] 30"


def test_other_processes_write_and_show_nothing(tmp_path):
    stream = io.StringIO()
    with quiet(tmp_path / "run", stream=stream, main_process=False) as logger:
        logger.advance(1)
        logger.log(1, {"loss": 1.0})
        logger.message("hello")
        with logger.paused("evaluate"):
            pass
    assert stream.getvalue() == "" and not (tmp_path / "run").exists()


class Terminal:
    """A pseudo-terminal, and what was written to it."""

    def __enter__(self):
        self._master, slave = pty.openpty()
        self.stream = os.fdopen(slave, "w")
        self._bytes = b""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        return self

    def _read(self):
        while True:
            try:
                data = os.read(self._master, 4096)
            except OSError:  # Linux's end of a terminal
                return
            if not data:
                return
            self._bytes += data

    def __exit__(self, *_):
        self.stream.close()
        self._reader.join(timeout=10)
        os.close(self._master)
        self.text = self._bytes.decode()


def test_a_terminal_gets_a_live_bar_and_is_given_back_on_an_exception(tmp_path, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    before = sys.stdout, sys.stderr
    with (
        Terminal() as terminal,
        pytest.raises(RuntimeError, match="boom"),
        quiet(tmp_path, stream=terminal.stream) as logger,
    ):
        for step in range(1, 31):
            logger.advance(step)
        logger.log(30, {"loss": 0.25, "learning_rate": 1e-3})
        logger.message("[bold] is not markup here")
        raise RuntimeError("boom")
    hide, show = "\x1b[?25l", "\x1b[?25h"
    assert hide in terminal.text and terminal.text.rindex(show) > terminal.text.rindex(hide)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.text)
    for part in ("30/100", "loss 0.25", "lr 0.001", "images/s", "eta ", "[bold] is not markup here"):
        assert part in plain
    assert (sys.stdout, sys.stderr) == before
    assert len(records(tmp_path)) == 1


def test_a_dumb_terminal_gets_plain_lines(tmp_path, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    with Terminal() as terminal, quiet(tmp_path, stream=terminal.stream) as logger:
        logger.log(10, {"loss": 0.25})
    assert "\x1b" not in terminal.text and "train  10/100 10%" in terminal.text


def test_a_full_disk_is_reported_once_and_loses_no_record(tmp_path):
    class FullDisk:
        """A file that takes `room` more bytes and then refuses, as Linux does: what fits is written first."""

        def __init__(self, file):
            self.file, self.room = file, 70

        def write(self, data):
            if not self.room:
                raise OSError(28, "No space left on device")
            written = self.file.write(data[: self.room])
            self.room -= written
            return written

        def close(self):
            self.file.close()

    stream = io.StringIO()
    with quiet(tmp_path, stream=stream) as logger:
        disks = [FullDisk(logger._lines._file), FullDisk(logger._board._file)]
        logger._lines._file, logger._board._file = disks
        for step in range(1, 6):
            logger.log(step, {"loss": 1.0})
        for disk in disks:
            disk.room = 10**6
        logger.log(6, {"loss": 1.0})
    assert [record["step"] for record in records(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert [event.step for event in events(tmp_path)[2:]] == [1, 2, 3, 4, 5, 6]
    assert stream.getvalue().count("No space left on device") == 1
