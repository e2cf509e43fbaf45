"""Keeps jaxlib on CPU from two faults of its own: wrong numbers, and meshes that hang.

jaxlib 0.10.2 to 0.11.1 hand some fused reductions on CPU to a kernel library that returns wrong numbers without a
word (jax-ml/jax#39103). XLA reads `XLA_FLAGS` once, when the first backend starts: importing vitjax before the first
array exists is early enough, also after `import jax`.
"""

import os
import re
import sys

from jaxlib.version import __version__ as jaxlib_version

FLAG = "--xla_cpu_experimental_ynn_fusion_type"
FIRST_RIGHT_RELEASE = (0, 11, 2)


FAKE_DEVICES = "--xla_force_host_platform_device_count"
THREADS = "64"


def guard() -> None:
    """Set what jaxlib reads when its CPU backend starts."""
    _enough_threads()
    _right_kernels()


def _enough_threads() -> None:
    """Give several fake devices threads to wait in.

    A program over eight devices that comes from JAX's compilation cache runs independent collectives in another order
    on each device; with fewer than about sixteen threads they come to wait for each other (jaxlib 0.10 and 0.12).
    """
    if FAKE_DEVICES in os.environ.get("XLA_FLAGS", ""):
        os.environ.setdefault("NPROC", THREADS)


def _right_kernels() -> None:
    """Turn the wrong kernels off on the jaxlib releases that have them.

    A value of the flag already in `XLA_FLAGS` is the user's own and stays.

    Raises:
        ImportError: JAX already runs on CPU without the flag, so that it can no longer be set.
    """
    if _release(jaxlib_version) >= FIRST_RIGHT_RELEASE or FLAG in os.environ.get("XLA_FLAGS", ""):
        return
    if _running_on_cpu():
        raise ImportError(
            f"jaxlib {jaxlib_version} can return wrong numbers on CPU (jax-ml/jax#39103), and JAX started before "
            f"vitjax could prevent it: import vitjax before the first JAX computation, set XLA_FLAGS={FLAG}= , "
            "or use Python 3.12 or newer with jaxlib 0.11.2 or newer"
        )
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAG}=".strip()


def _release(version: str) -> tuple[int, ...]:
    """'0.12.0.1' -> (0, 12, 0); development versions count as their release."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def _running_on_cpu() -> bool:
    # Private, but of releases that are out and no longer change; the public ways to ask would start the backend.
    bridge = sys.modules.get("jax._src.xla_bridge")
    return bridge is not None and bridge.backends_are_initialized() and bridge.default_backend() == "cpu"
