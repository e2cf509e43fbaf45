import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from vitjax.cli import COMMANDS, main

ROOT = Path(__file__).parents[1]


def ended(capsys, *arguments: str) -> tuple[object, str, str]:
    with pytest.raises(SystemExit) as ending:
        main(list(arguments))
    return (ending.value.code or 0, *capsys.readouterr())


def test_help_names_every_command(capsys):
    code, out, _ = ended(capsys, "--help")
    assert code == 0
    for name, text in COMMANDS.items():
        assert re.search(rf"^ +{name} +{text}", out, re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(capsys, command):
    code, out, _ = ended(capsys, command, "--help")
    assert code == 0
    assert re.search(rf"^examples?:\n  vitjax {command} ", out, re.MULTILINE)


@pytest.mark.parametrize("arguments", [[], ["trian"], ["--verbose"]])
def test_an_unknown_command(capsys, arguments):
    code, out, err = ended(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("usage: vitjax")
    assert len(err.splitlines()) <= 3


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("two\n  lines"), "vitjax inspect: error: two lines"),
        (FileNotFoundError(), "vitjax inspect: error: FileNotFoundError"),
        (
            PermissionError(13, "Permission denied", "x"),
            "vitjax inspect: error: [Errno 13] Permission denied: 'x'",
        ),
        (FloatingPointError("the loss is nan"), "vitjax inspect: error: the loss is nan"),
        (KeyboardInterrupt(), 130),
    ],
)
def test_errors_in_one_line(capsys, monkeypatch, error, code):
    def fail(_):
        raise error

    monkeypatch.setattr("vitjax.commands.inspect.main", fail)
    assert ended(capsys, "inspect", "x") == (code, "", "")


def test_our_own_mistakes_are_not_hidden(monkeypatch):
    monkeypatch.setattr("vitjax.commands.inspect.main", lambda _: {}["a"])
    with pytest.raises(KeyError):
        main(["inspect", "x"])


@pytest.mark.parametrize("program", [["-m", "vitjax.cli", "train"], ["train.py"]])
def test_as_a_program(program, tmp_path):
    child = subprocess.run(
        [sys.executable, *program, "--config", str(tmp_path / "no\nthing.py")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 1
    assert child.stdout == ""
    (line,) = child.stderr.splitlines()
    assert line.startswith("vitjax train: error: no config file ")


def test_a_reader_that_has_seen_enough():
    read, write = os.pipe()
    os.close(read)
    child = subprocess.run(
        [sys.executable, "-c", "from vitjax.cli import main; main(['--help'])"],
        cwd=ROOT,
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(write)
    assert "Traceback" not in child.stderr
