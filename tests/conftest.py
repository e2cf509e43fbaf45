"""One setting for every test: eight CPU devices, a compilation cache that survives the run, few threads.

All of it goes through the environment, before JAX starts, so that child processes inherit it.
"""

import os
from pathlib import Path

import hypothesis
from hypothesis.database import DirectoryBasedExampleDatabase

CACHE = Path(__file__).parents[1] / ".cache"
DEVICES = "--xla_force_host_platform_device_count"
OPTIMIZE = "--xla_backend_optimization_level"

# CPU, also where there is a GPU: meshes need several devices, and tolerances are those of float32 on CPU.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if DEVICES not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {DEVICES}=8".strip()

# Most of the time goes into compiling, and half of that into LLVM's optimisations, which the tests do without. To have
# the code that users have: XLA_FLAGS=--xla_backend_optimization_level=3 make test
if OPTIMIZE not in os.environ["XLA_FLAGS"]:
    os.environ["XLA_FLAGS"] += f" {OPTIMIZE}=0"

os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")

if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers already fill the cores; a thread pool of all cores in each of them only adds switching.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")


def pytest_sessionstart() -> None:
    """vitjax's guard must run before any test module starts the backend."""
    import vitjax  # noqa: F401


_everywhere = {
    "deadline": None,  # the first example pays for compilation
    "suppress_health_check": [hypothesis.HealthCheck.too_slow],
}
_examples = DirectoryBasedExampleDatabase(CACHE / "hypothesis")
hypothesis.settings.register_profile("local", database=_examples, max_examples=25, **_everywhere)
hypothesis.settings.register_profile("ci", derandomize=True, max_examples=12, **_everywhere)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "local")
