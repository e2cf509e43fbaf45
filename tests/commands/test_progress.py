import re

import pytest

from vitjax.commands import progress
from vitjax.commands.progress import ProgressBar


@pytest.fixture
def clock(monkeypatch):
    """Seconds, as `time.perf_counter` gives them."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    return now


def test_a_line_now_and_then(capsys, clock):
    with ProgressBar(1000, done=100, unit="images") as bar:
        for second in (1.0, 12.0, 13.0, 22.0, 30.0):
            clock[0] = second
            bar.advance(100)
    lines = capsys.readouterr().err.splitlines()
    # the first batch compiles and does not count
    assert lines == [
        "decode  300/1,000 30%  9.09 images/s  eta 0:01:17",
        "decode  500/1,000 50%  14.3 images/s  eta 0:00:35",
    ]


def test_short_work_says_nothing(capsys, clock):
    with ProgressBar(3, done=0, unit="images") as bar:
        clock[0] = 100.0
        bar.advance(3)
    assert capsys.readouterr().err == ""


def on_a_terminal(monkeypatch, capsys, **options) -> str:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with ProgressBar(4000, done=0, unit="images", **options) as bar:
        bar.advance(1000)
        bar.advance(1000)
        if bar._bar is not None:
            bar._bar.refresh()
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)


def test_a_bar_on_a_terminal(monkeypatch, capsys, clock):
    shown = on_a_terminal(monkeypatch, capsys)
    assert "decode" in shown and "2000/4000" in shown


def test_no_bar_between_results(monkeypatch, capsys, clock):
    assert on_a_terminal(monkeypatch, capsys, bar=False) == ""
