"""How far a command is: a bar on a terminal, a plain line now and then elsewhere."""

import sys
import time
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

INTERVAL = 10.0  # seconds between plain lines


class ProgressBar:
    """Progress over a known number of things, on standard error; use it as a context manager.

    Args:
      total: how many there are.
      done: how many were done before.
      unit: what they are called, in the plural.
      bar: whether a bar may be shown; it would be in the way of results printed on the same terminal.
    """

    def __init__(self, total: int, *, done: int, unit: str, bar: bool = True):
        self._total, self._done, self._unit = total, done, unit
        self._first: tuple[int, float] | None = None  # (done, seconds) after the first batch, which compiled
        self._told = time.perf_counter()
        self._stream: Any = sys.stderr
        self._bar: Progress | None = None
        self._wanted = bar

    def __enter__(self) -> "ProgressBar":
        console = Console(file=self._stream, highlight=False)
        # `console.is_terminal` is also true for a file under FORCE_COLOR.
        if self._wanted and self._stream.isatty() and not console.is_dumb_terminal:
            self._bar = Progress(
                TextColumn("[bold]decode"),
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                TextColumn("{task.fields[details]}", style="cyan"),
                console=console,
                refresh_per_second=4,
                expand=True,
                transient=True,
                redirect_stdout=False,
            )
            self._task = self._bar.add_task(
                "decode", total=self._total, completed=self._done, details="compiling"
            )
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, count: int) -> None:
        """So many more are done."""
        self._done += count
        now = time.perf_counter()
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, details=self._pace(now))
        elif now - self._told >= INTERVAL and self._done < self._total:
            self._told = now
            part = f"{self._done:,}/{self._total:,} {self._done / self._total:.0%}"
            print("  ".join(filter(None, ["decode", part, self._pace(now)])), file=self._stream, flush=True)
        self._first = self._first or (self._done, now)

    def _pace(self, now: float) -> str:
        if self._first is None or now <= self._first[1]:
            return ""
        rate = (self._done - self._first[0]) / (now - self._first[1])
        left = timedelta(seconds=round((self._total - self._done) / rate))
        return (
            f"{rate:,.0f} {self._unit}/s  eta {left}"
            if rate >= 100
            else f"{rate:.3g} {self._unit}/s  eta {left}"
        )
