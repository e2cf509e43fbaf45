"""What a run says while it trains: a live bar or plain lines, a JSONL file, TensorBoard."""

import contextlib
import io
import json
import math
import os
import socket
import struct
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from tensorboardX.crc32c import crc32c
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar as scalar_summary

SHOWN = ("loss", "learning_rate")
SHORT = {"learning_rate": "lr"}


class MetricsLogger:
    """Progress and metrics of one run; only the first process shows and writes anything.

    Use it as a context manager: it gives the terminal back whatever happens inside.

        with MetricsLogger(directory, total_steps=1000, examples_per_step=64, start_step=step) as logger:
            ...
            logger.advance(step)                     # after each step
            logger.log(step, {"loss": loss, ...})    # every so many steps; waits for the device if values live there

    Args:
      directory: gets `metrics.jsonl` and TensorBoard's `events.*`.
      total_steps: steps of the whole run, those before a resume included.
      examples_per_step: the global batch size, for images/s.
      start_step: steps already done; records of later steps, left by a run that went past its last checkpoint, are
        dropped. 0 starts the file anew.
      unit: what an example is called.
      stream: the terminal, or a file that gets one plain line for each `log`.
      main_process: whether to show and write; by default, whether this is the first JAX process.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        total_steps: int,
        *,
        examples_per_step: int,
        start_step: int = 0,
        unit: str = "images",
        stream: io.TextIOBase | None = None,
        main_process: bool | None = None,
    ):
        self.path = Path(directory) / "metrics.jsonl"
        self._total_steps = total_steps
        self._examples_per_step = examples_per_step
        self._unit = unit
        self._stream: Any = sys.stderr if stream is None else stream
        self._main = jax.process_index() == 0 if main_process is None else main_process
        self._start_step = self._step = start_step
        self._clock = _Clock()
        self._interval: tuple[int, float] | None = None  # (step, working seconds) at the last log
        self._shown = ""
        self._failed = False
        self._progress: Progress | None = None

    def __enter__(self) -> "MetricsLogger":
        if not self._main:
            return self
        self.path.parent.mkdir(parents=True, exist_ok=True)
        drop_after(self.path, self._start_step)
        self._lines = _Appender(self.path)
        events = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}"
        self._board = _Appender(self.path.parent / events)
        with self._reported():
            self._board.append(_event(file_version="brain.Event:2"))
            # TensorBoard hides what an earlier start of this run recorded from this step on.
            start = SessionLog(status=SessionLog.START)
            self._board.append(_event(step=self._start_step + 1, session_log=start))
        console = Console(file=self._stream, highlight=False)
        # `console.is_terminal` is also true for a file under FORCE_COLOR.
        if self._stream.isatty() and not console.is_dumb_terminal:
            self._progress = _bar(console)
            self._task = self._progress.add_task(
                "train", total=self._total_steps, completed=self._start_step, details="compiling", eta=""
            )
            self._progress.start()
        return self

    def __exit__(self, *_) -> None:
        if not self._main:
            return
        if self._progress is not None:
            self._progress.stop()
        for file in (self._lines, self._board):
            with self._reported():
                file.close()

    def advance(self, step: int) -> None:
        """`step` steps are done. Cheap; the clock of images/s starts at the first call, after the compilation."""
        self._step = step
        if self._interval is None:
            self._clock.start()
            self._interval = (step, 0.0)
            self._begin = (step, time.perf_counter())
        if self._progress is not None:
            self._progress.update(self._task, completed=step, details=self._shown, eta=self._eta())

    def log(self, step: int, metrics: Mapping[str, object], phase: str = "train") -> None:
        """Record scalars of finished step `step` under a phase (`train`, `eval`, ...).

        Names and values are written as they are; NaN and infinity become null in the JSONL. Training records also get
        `<unit>_per_second` since the last one, without the time inside `paused`.
        """
        record = {name: _number(name, value) for name, value in metrics.items()}
        if not self._main:
            return
        if phase == "train":
            rate = self._rate(step)
            if rate is not None:
                record[f"{self._unit}_per_second"] = rate
            shown = [f"{SHORT.get(name, name)} {record[name]:.3g}" for name in SHOWN if name in record]
            if rate is not None:
                shown.append(f"{rate:,.0f} {self._unit}/s" if rate >= 100 else f"{rate:.3g} {self._unit}/s")
            self._shown = "  ".join(shown)
            if self._progress is None:
                part = f"{step:,}/{self._total_steps:,} {step / self._total_steps:.0%}"
                self._print("  ".join(filter(None, ["train", part, self._shown, self._eta()])))
            else:
                self._progress.update(self._task, completed=step, details=self._shown, eta=self._eta())
        else:
            values = "  ".join(f"{name} {value:.4g}" for name, value in record.items())
            self._print(f"{phase}  step {step:,}  {values}")
        with self._reported():
            finite = {name: value if math.isfinite(value) else None for name, value in record.items()}
            line = {"step": int(step), "phase": phase, "time": round(time.time(), 3), **finite}
            self._lines.append(json.dumps(line, allow_nan=False).encode() + b"\n")
        with self._reported():
            events = (
                _event(step=int(step), summary=scalar_summary(f"{phase}/{name}", float(value)))
                for name, value in record.items()
            )
            self._board.append(b"".join(events))

    def message(self, text: str) -> None:
        """One line for people, above the bar."""
        if self._main:
            self._print(text)

    @contextlib.contextmanager
    def paused(self, doing: str) -> Iterator[None]:
        """Time inside (an evaluation, a save) does not count as training; the bar says what is going on."""
        self._clock.stop()
        if self._progress is not None:
            self._progress.update(self._task, description=doing)
        try:
            yield
        finally:
            if self._progress is not None:
                self._progress.update(self._task, description="train")
            if self._interval is not None:
                self._clock.start()

    def _rate(self, step: int) -> float | None:
        if self._interval is None:
            return None
        since_step, since = self._interval
        now = self._clock.seconds()
        if step <= since_step or now <= since:
            return None
        self._interval = (step, now)
        return (step - since_step) * self._examples_per_step / (now - since)

    def _eta(self) -> str:
        # By the wall clock since the first step, pauses included: evaluations will come in the rest of the run too.
        if self._interval is None or self._step <= self._begin[0]:
            return ""
        pace = (time.perf_counter() - self._begin[1]) / (self._step - self._begin[0])
        return f"eta {timedelta(seconds=round(pace * max(self._total_steps - self._step, 0)))}"

    def _print(self, text: str) -> None:
        if self._progress is not None:
            self._progress.console.print(text, markup=False, soft_wrap=True)
        else:
            print(text, file=self._stream, flush=True)

    @contextlib.contextmanager
    def _reported(self) -> Iterator[None]:
        # A full disk must not end the training, whose checkpoints may lie on another one.
        try:
            yield
        except OSError as error:
            if not self._failed:
                self._print(f"warning: metrics are not being written to {self.path.parent}: {error}")
            self._failed = True


def drop_after(path: Path, step: int) -> None:
    """Keep only the whole records of steps up to `step` of a JSONL file (none if `step` is 0), atomically."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    kept = [line for line in lines if step > 0 and _is_record(line, step)]
    if kept == lines:
        return
    scratch = path.with_suffix(".partial")
    with scratch.open("w", encoding="utf-8") as file:
        file.writelines(kept)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)


def _is_record(line: str, step: int) -> bool:
    # A line without its end was torn by a kill, even where it happens to parse.
    if not line.endswith("\n"):
        return False
    try:
        record = json.loads(line)
    except ValueError:
        return False
    return isinstance(record, dict) and isinstance(record.get("step"), int) and record["step"] <= step


def _number(name: str, value: object) -> float | int:
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16":
        raise ValueError(f"metric {name!r} is {array.dtype.name}{list(array.shape)}; log one number")
    return int(array.item()) if array.dtype.kind in "biu" else float(array.item())


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[details]}", style="cyan"),
        TextColumn("{task.fields[eta]}", style="dim"),
        console=console,
        refresh_per_second=4,
        expand=True,
        # With only stderr on a terminal, what the program prints must still reach stdout.
        redirect_stdout=sys.stdout.isatty(),
    )


class _Appender:
    """Appends to a file at once; what a full disk refuses is kept and written, in order and whole, when it can be."""

    def __init__(self, path: Path):
        self._file = path.open("ab", buffering=0)
        self._pending = b""

    def append(self, data: bytes) -> None:
        self._pending += data
        while self._pending:
            self._pending = self._pending[self._file.write(self._pending) :]

    def close(self) -> None:
        try:
            self.append(b"")
        finally:
            self._file.close()


def _event(**fields) -> bytes:
    """One TensorBoard event in TFRecord's framing.

    tensorboardX's own writer hands events to a thread that dies of a full disk, after which the caller waits forever.
    """

    def checksum(data: bytes) -> bytes:
        crc = crc32c(data)
        return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)

    body = Event(wall_time=time.time(), **fields).SerializeToString()
    length = struct.pack("<Q", len(body))
    return length + checksum(length) + body + checksum(body)


class _Clock:
    """A stopwatch that can be halted."""

    def __init__(self):
        self._total, self._since = 0.0, None

    def start(self) -> None:
        if self._since is None:
            self._since = time.perf_counter()

    def stop(self) -> None:
        self._total, self._since = self.seconds(), None

    def seconds(self) -> float:
        return self._total + (0.0 if self._since is None else time.perf_counter() - self._since)
