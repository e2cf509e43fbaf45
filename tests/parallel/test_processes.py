import json

import pytest

from tests.parallel.together import run_together
from vitjax.parallel import processes
from vitjax.parallel.processes import ProcessConfig

JOINED = """
import json, sys
import vitjax
from vitjax.parallel import processes
processes.initialize(processes.ProcessConfig(heartbeat_seconds=10))
processes.initialize()  # a second call does nothing

import jax, jax.numpy as jnp, numpy as np
from vitjax.parallel.mesh import MeshConfig, make_mesh
from vitjax.parallel.sharding import batch_sharding, replicated, shardings

mesh = make_mesh(MeshConfig.parse("data=2,fsdp=2,tensor=2"))
params = {"up": {"kernel": np.ones((8, 4), np.float32)}, "down": {"kernel": np.ones((4, 8), np.float32)}}
places = shardings(params, mesh)
params = jax.tree.map(lambda value, place: jax.make_array_from_callback(value.shape, place, lambda i: value[i]),
                      params, places)
local = np.arange(32, dtype=np.float32).reshape(8, 4)[processes.process_index() * 4:][:4]
batch = jax.make_array_from_process_local_data(batch_sharding(mesh, 8), np.tile(local, (1, 2)))

@jax.jit
def step(params, batch):
    loss = lambda p: jnp.mean((batch @ p["up"]["kernel"] @ p["down"]["kernel"]) ** 2)
    value, grads = jax.value_and_grad(loss)(params)
    return jax.tree.map(lambda p, g: p - 1e-6 * g, params, grads), value

losses = []
for _ in range(3):
    params, value = step(params, batch)
    losses.append(float(value))

psum = jax.jit(jax.shard_map(lambda x: jax.lax.psum(x, ("data", "fsdp")), mesh=mesh,
               in_specs=batch_sharding(mesh).spec, out_specs=replicated(mesh).spec))
index = processes.process_index()
processes.barrier("before the report")
print(json.dumps({
    "index": index,
    "count": processes.process_count(),
    "primary": processes.is_primary(),
    "devices": jax.device_count(),
    "losses": losses,
    "psum": np.asarray(psum(batch)).sum().item(),
    "any": [processes.any_process(False), processes.any_process(index == 1), processes.any_process(True)],
    "from_primary": processes.from_primary(index + 7),
}))
"""


def test_two_processes_run_one_program():
    first, second = map(json.loads, run_together(JOINED, 2))
    assert (first["index"], second["index"]) == (0, 1)
    assert first["primary"] and not second["primary"]
    for report in (first, second):
        assert report["count"] == 2
        assert report["devices"] == 8
        assert report["any"] == [False, True, True]
        assert report["from_primary"] == 7
        assert report["psum"] == 2 * sum(range(32))
    assert first["losses"] == second["losses"]
    assert first["losses"][0] == pytest.approx(one_process_loss(), rel=1e-5)
    assert first["losses"][2] < first["losses"][0]


def one_process_loss() -> float:
    rows = [[float(4 * row + column) for column in range(4)] * 2 for row in range(8)]
    return sum((4 * sum(row)) ** 2 for row in rows) / len(rows)


def test_alone_everything_answers_at_once(monkeypatch):
    for name in ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"):
        monkeypatch.delenv(name, raising=False)
    processes.initialize()
    processes.barrier("nobody else")
    assert (processes.process_index(), processes.process_count(), processes.is_primary()) == (0, 1, True)
    assert [processes.any_process(flag) for flag in (True, False)] == [True, False]
    assert processes.from_primary(3) == 3


@pytest.mark.parametrize(
    ("config", "environment", "line"),
    [
        (ProcessConfig(count=2, index=0), {}, "2 processes asked for but no coordinator"),
        (
            ProcessConfig(coordinator="127.0.0.1:1", count=2, index=2),
            {},
            "process index 2 of 2 processes: expected 0 to 1",
        ),
        (ProcessConfig(), {"JAX_NUM_PROCESSES": "two"}, "JAX_NUM_PROCESSES='two': expected a whole number"),
        (ProcessConfig(coordinator="auto"), {}, "could not join coordinator auto"),
        (ProcessConfig(coordinator="127.0.0.1:1"), {}, "give coordinator, count and index by flag or"),
    ],
)
def test_a_start_that_makes_no_sense_is_refused_in_one_line(monkeypatch, config, environment, line):
    for name in ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=line) as refusal:
        processes.initialize(config)
    assert "\n" not in str(refusal.value)
