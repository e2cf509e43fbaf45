import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from tests.parallel.together import run_together
from tests.training.states import listing
from vitjax.training.checkpoints import Checkpointer, restore

ROOT = Path(__file__).parents[2]


def test_a_second_writer_is_kept_out_until_the_first_closes(tmp_path):
    with Checkpointer(tmp_path) as first:
        first.save(1, {"a": jnp.ones(2)})
        with pytest.raises(ValueError, match=f"is being written by process {os.getpid()}"):
            Checkpointer(tmp_path)
        first.wait()
        assert first.latest_step() == 1
    Checkpointer(tmp_path).close()


def child():
    """The environment of a process with one device."""
    one = "--xla_force_host_platform_device_count=1"
    return {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": one}


WRITE_LIMIT = """
import json, resource, signal, sys
import vitjax, jax.numpy as jnp, numpy as np
from vitjax.training.checkpoints import Checkpointer, SaveFailed, steps
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
small, big = {"a": jnp.ones(10)}, {"a": jnp.asarray(np.random.rand(1_000_000))}
with Checkpointer(sys.argv[1]) as checkpointer:
    checkpointer.save(1, small)
    checkpointer.wait()
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
    checkpointer.save(2, big)
    try:
        checkpointer.save(3, small)
    except SaveFailed as failure:
        print(failure)
    checkpointer.save(3, small)
print(steps(sys.argv[1]))
"""


def test_a_write_that_the_kernel_refuses_costs_that_step_only(tmp_path):
    """The error comes from inside the array writer, not from a patch."""
    done = subprocess.run(
        [sys.executable, "-c", WRITE_LIMIT, tmp_path], capture_output=True, text=True, env=child()
    )
    assert done.returncode == 0, done.stderr[-2000:]
    line, listed = done.stdout.splitlines()
    assert "step 2 was not saved to" in line and "File too large" in line
    assert listed == "[1, 3]"
    assert done.stderr == ""  # said once


SAVES_FOREVER = """
import sys
import vitjax, numpy as np
from vitjax.training.checkpoints import Checkpointer
with Checkpointer(sys.argv[1], keep=2) as checkpointer:
    step = (checkpointer.latest_step() or 0) + 1
    while True:
        checkpointer.save(step, {"a": np.full(20_000, step), "b": np.arange(step)}, {"length": step})
        checkpointer.wait()
        print(step, flush=True)
        step += 1
"""


def test_kill_9_while_saving_loses_nothing_sealed(tmp_path):
    generator = random.Random(3)
    newest = 0
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", SAVES_FOREVER, tmp_path], stdout=subprocess.PIPE, text=True, env=child()
        )
        process.stdout.readline()  # it saves now
        time.sleep(generator.uniform(0.0, 0.2))
        process.send_signal(signal.SIGKILL)
        newest = max(newest, *map(int, ["0", *process.stdout.read().split()]))
        process.wait()
        found, metadata = restore(tmp_path)
        assert metadata["step"] >= newest
        assert (found["a"] == metadata["step"]).all()
        assert len(found["b"]) == metadata["length"] == metadata["step"]
        assert not list(tmp_path.glob("*.damaged*"))
        newest = metadata["step"]
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.restore({"a": np.zeros(20_000, np.int64), "b": np.zeros(newest, np.int64)})
    assert all(name.startswith("step_") and "." not in name for name in listing(tmp_path))


TWO_PROCESSES = """
import json, os, sys
import vitjax
from vitjax.parallel import processes
processes.initialize(processes.ProcessConfig(heartbeat_seconds=10))
import jax, numpy as np
from vitjax.parallel.mesh import MeshConfig, make_mesh
from vitjax.parallel.sharding import state_shardings
from vitjax.training import checkpoints
from vitjax.training.checkpoints import Checkpointer, SaveFailed

def on(mesh):
    values = {"params": {"up": {"kernel": np.arange(64, dtype=np.float32).reshape(8, 8)}}, "step": np.int32(4)}
    places = state_shardings(values, values["params"], mesh)
    make = lambda value, place: jax.make_array_from_callback(value.shape, place, lambda index: value[index])
    return jax.tree.map(make, values, places)

first, second = on(make_mesh(MeshConfig.parse("fsdp=8"))), on(make_mesh(MeshConfig.parse("data=2,tensor=4")))
report = {}
with Checkpointer(sys.argv[1], keep=1) as checkpointer:
    for step in (1, 2):
        checkpointer.save(step, first)
    checkpointer.wait()
    report["latest"] = checkpointer.latest_step()  # sealed on process 0, known to all once waited for
    state, metadata = checkpointer.restore(second)
    report["restored"] = metadata["step"]
    report["same"] = all(
        bool((np.asarray(mine.data) == np.asarray(theirs.data)).all())
        for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(second))
        for mine, theirs in zip(a.addressable_shards, b.addressable_shards)
    )

    def full(*_):
        raise OSError(28, "No space left on device")

    checkpoints.seal = full  # only process 0 seals
    checkpointer.save(3, second)
    try:
        checkpointer.wait()
    except SaveFailed:
        report["failed"] = True
    try:
        checkpointer.restore(second, step=9)
    except (FileNotFoundError, RuntimeError) as error:
        report["missing"] = type(error).__name__
print(json.dumps(report))
"""


def test_two_processes_save_together_and_agree(tmp_path):
    first, second = map(json.loads, run_together(TWO_PROCESSES, 2, str(tmp_path)))
    common = {"latest": 2, "restored": 2, "same": True, "failed": True}
    assert first == common | {"missing": "FileNotFoundError"}
    assert second == common | {"missing": "RuntimeError"}
    assert listing(tmp_path) == ["step_00000002"]
