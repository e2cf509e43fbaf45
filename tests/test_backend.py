import os
import subprocess
import sys

import pytest

from vitjax import _backend

# jax-ml/jax#39103: from row 32,768 on, jaxlib 0.10.2 answers 32640 ** 2 and the like
FAILING_CASE = """
import jax
import vitjax
import jax.numpy as jnp

i = jnp.arange(40_000, dtype=jnp.float32)
rows = jnp.stack((i, 0 * i, 0 * i), axis=1)
squares = jax.jit(jax.vmap(lambda row: jnp.sum((jnp.eye(3) @ row) ** 2)))(rows)
print(int(jnp.sum(squares != i * i)))
"""

TOO_LATE = """
import jax
import jaxlib.version
jax.devices()
jaxlib.version.__version__ = "0.10.2"
import vitjax
"""


def child(code: str, **environment: str) -> subprocess.CompletedProcess:
    """Runs `code` as a user would: without the flags and the cache of the test session."""
    clean = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    clean |= {"JAX_ENABLE_COMPILATION_CACHE": "false", "JAX_PLATFORMS": "cpu"} | environment
    return subprocess.run(
        [sys.executable, "-c", code], env=clean, capture_output=True, text=True, check=False
    )


def test_numbers_are_right_on_this_jaxlib() -> None:
    result = child(FAILING_CASE)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "0"


def test_refused_when_jax_runs_already() -> None:
    result = child(TOO_LATE)
    assert result.returncode != 0
    assert "ImportError: jaxlib 0.10.2 can return wrong numbers on CPU" in result.stderr


def test_accepted_late_with_the_flag_in_place() -> None:
    result = child(TOO_LATE, XLA_FLAGS=f"{_backend.FLAG}=")
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("version", "before", "after"),
    [
        ("0.10.2", None, f"{_backend.FLAG}="),
        ("0.11.1", "--xla_dump_to=x", f"--xla_dump_to=x {_backend.FLAG}="),
        ("0.10.2", f"{_backend.FLAG}=-reduce", f"{_backend.FLAG}=-reduce"),
        ("0.11.2", None, None),
        ("0.12.0.1", "--xla_dump_to=x", "--xla_dump_to=x"),
    ],
)
def test_flag(monkeypatch: pytest.MonkeyPatch, version: str, before: str | None, after: str | None) -> None:
    monkeypatch.setattr(_backend, "jaxlib_version", version)
    monkeypatch.setattr(_backend, "_running_on_cpu", lambda: False)
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    if before is not None:
        monkeypatch.setenv("XLA_FLAGS", before)
    _backend.guard()
    assert os.environ.get("XLA_FLAGS") == after


@pytest.mark.parametrize(
    ("version", "release"),
    [
        ("0.10.2", (0, 10, 2)),
        ("0.12.0.1", (0, 12, 0)),
        ("0.11.2.dev20260801", (0, 11, 2)),
        ("1.0.0rc1", (1, 0, 0)),
    ],
)
def test_release(version: str, release: tuple[int, ...]) -> None:
    assert _backend._release(version) == release


def test_fake_devices_get_threads_to_wait_in(monkeypatch):
    monkeypatch.delenv("NPROC", raising=False)
    monkeypatch.setenv("XLA_FLAGS", "")
    _backend._enough_threads()
    assert "NPROC" not in os.environ
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
    _backend._enough_threads()
    assert int(os.environ["NPROC"]) >= 16
    monkeypatch.setenv("NPROC", "24")
    _backend._enough_threads()
    assert os.environ["NPROC"] == "24"
