"""Several devices for a study: a process of its own where this one has too few, and a core for each."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax

CHILD = """import json, sys
from {module} import {name}
print(json.dumps({name}(*json.loads(sys.argv[1]))))
"""


def with_devices(count: int, function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function of a module returns where there are `count` devices; all of it JSON.

    That is here if there are so many, else in a process of its own, whose CPU is so many devices.

    Raises:
      RuntimeError: it failed; the end of what it said.
    """
    if jax.device_count() >= count:
        return json.loads(json.dumps(function(*arguments)))
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}",
    }
    child = CHILD.format(module=function.__module__, name=function.__name__)
    command = [sys.executable, "-c", child, json.dumps(arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(
            f"{function.__module__} failed over {count} devices: {done.stderr.strip()[-2000:]}"
        )
    return json.loads(done.stdout.splitlines()[-1])


@contextlib.contextmanager
def on_cores(count: int | None) -> Iterator[None]:
    """Keep a CPU's threads to so many of the cores they may use, where the system can: a device is a core then."""
    if count is None or jax.default_backend() != "cpu" or not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)

    def keep_to(cores: set[int]) -> None:
        for thread in os.listdir("/proc/self/task"):
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(int(thread), cores)

    keep_to(set(sorted(allowed)[:count]))
    try:
        yield
    finally:
        keep_to(allowed)
