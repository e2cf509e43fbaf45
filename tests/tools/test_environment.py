import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def make(venv: Path, base_python: str) -> subprocess.CompletedProcess:
    command = ["env", f"BASE_PYTHON={base_python}", "tools/environment.sh", str(venv)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def fake(path: Path, script: str) -> str:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_python_that_does_not_run(tmp_path: Path) -> None:
    """A version manager leaves such names on PATH."""
    shim = fake(tmp_path / "python3.13", "echo 'command not found' >&2; exit 127")
    result = make(tmp_path / "venv", shim)
    assert result.returncode != 0
    assert "vitjax needs Python 3.11 or newer" in result.stderr
    assert f"{shim} does not run" in result.stderr
    assert not (tmp_path / "venv").exists()


def test_python_that_is_not_there(tmp_path: Path) -> None:
    result = make(tmp_path / "venv", str(tmp_path / "nowhere"))
    assert result.returncode != 0
    assert "vitjax needs Python 3.11 or newer" in result.stderr


def test_reason_is_told(tmp_path: Path) -> None:
    python = fake(
        tmp_path / "python3",
        "echo 'lacks the ensurepip module (Debian, Ubuntu: apt install python3.12-venv)'",
    )
    result = make(tmp_path / "venv", python)
    assert result.returncode != 0
    assert (
        f"{python} lacks the ensurepip module (Debian, Ubuntu: apt install python3.12-venv)" in result.stderr
    )
