import errno
import functools
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.parallel.together import run_together
from vitjax.parallel.mesh import MeshConfig, make_mesh
from vitjax.parallel.sharding import state_shardings
from vitjax.training import checkpoints
from vitjax.training.checkpoints import Checkpointer, SaveFailed, describe, restore, steps

ROOT = Path(__file__).parents[2]


def make_state(seed=0):
    return jax.tree.map(lambda leaf: leaf, _state(seed))  # containers of its own, to be changed at will


@functools.cache
def _state(seed):
    with jax.ensure_compile_time_eval():  # whoever asks first may be tracing
        return _arrays(seed)


def _arrays(seed):
    key = jax.random.key(seed)
    params = {
        "blocks": {"up": {"kernel": jax.random.normal(key, (2, 4, 8))}},
        "head": {"kernel": jax.random.normal(key, (4, 6)).astype(jnp.bfloat16)},
    }
    return {
        "params": params,
        "stats": {"norm": {"mean": jnp.full(4, float(seed))}},
        "opt_state": optax.adamw(1e-3).init(params),
        "ema": jax.tree.map(lambda x: x + 1, params),
        "step": jnp.int32(seed),
        "key": key,
        "worker_keys": jax.random.split(jax.random.key(seed, impl="rbg"), 3),
        "seen": np.arange(3, dtype=np.int64) + 2**40,
    }


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)

    def same(a, b):
        assert a.dtype == b.dtype
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()

    jax.tree.map(same, found, expected)


def place(directory, step, suffix=""):
    return directory / f"step_{step:08d}{suffix}"


def listing(directory):
    return sorted(path.name for path in directory.iterdir() if path.name != "lock")


def array_file(directory, step):
    """The largest file: array bytes, which Orbax itself would not check."""
    return max(
        (place(directory, step) / "arrays").rglob("*"), key=lambda path: path.is_file() * path.stat().st_size
    )


def flip(path, offset=None):
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if offset is None else offset] ^= 4
    path.write_bytes(content)


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    directory = tmp_path_factory.mktemp("template")
    with Checkpointer(directory, keep=3) as checkpointer:
        for step in (1, 2, 3):
            checkpointer.save(step, make_state(step), {"data": {"name": "digits", "seed": step}})
    return directory


@pytest.fixture
def saved(template, tmp_path):
    """Steps 1, 2 and 3 of different states."""
    return Path(shutil.copytree(template, tmp_path / "run"))


# --- there and back


def test_a_state_comes_back_bit_for_bit(saved):
    with Checkpointer(saved) as checkpointer:
        state, metadata = checkpointer.restore(make_state())
    assert_same(state, make_state(3))
    assert metadata == {"data": {"name": "digits", "seed": 3}, "step": 3}
    assert isinstance(state["seen"], np.ndarray)
    a, b = (jax.random.normal(jax.random.split(s["key"])[0]) for s in (state, make_state(3)))
    assert a == b


def test_shapes_alone_are_target_enough(saved):
    target = jax.eval_shape(make_state)  # int64 becomes int32 there, as everywhere in JAX
    target["seen"] = np.zeros(3, np.int64)
    with Checkpointer(saved) as checkpointer:
        state, _ = checkpointer.restore(target, step=2)
    assert_same(state, make_state(2))


def test_training_goes_on_as_if_never_stopped(tmp_path):
    optimizer = optax.adamw(1e-2)

    @jax.jit
    def step(state):
        key, noise = jax.random.split(state["key"])
        grads = jax.tree.map(lambda x: x + jax.random.normal(noise, x.shape, x.dtype), state["params"])
        updates, opt_state = optimizer.update(grads, state["opt_state"], state["params"])
        return {"params": optax.apply_updates(state["params"], updates), "opt_state": opt_state, "key": key}

    params = {"w": jnp.arange(6.0)}
    start = state = {"params": params, "opt_state": optimizer.init(params), "key": jax.random.key(1)}
    with Checkpointer(tmp_path) as checkpointer:
        for number in range(6):
            if number == 3:
                checkpointer.save(3, state)
            state = step(state)
    with Checkpointer(tmp_path) as checkpointer:
        resumed, metadata = checkpointer.restore(start)
        for _ in range(metadata["step"], 6):
            resumed = step(resumed)
    assert_same(resumed, state)


def test_the_state_may_be_donated_as_soon_as_save_returns(tmp_path):
    advance = jax.jit(lambda tree: jax.tree.map(lambda x: x * 0 - 1, tree), donate_argnums=0)
    mesh = make_mesh(MeshConfig(data=2, fsdp=4))
    values = np.arange(1 << 20, dtype=np.float32)
    sharded = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp"))
    with Checkpointer(tmp_path) as checkpointer:
        for step in range(3):
            state = {"one": jnp.asarray(values), "many": jax.device_put(values, sharded)}
            host = values.copy()
            checkpointer.save(step, {**state, "host": host})
            jax.block_until_ready(advance(state))
            host[:] = -1
            checkpointer.wait()
            found, _ = restore(tmp_path)
            for name in ("one", "many", "host"):
                np.testing.assert_array_equal(found[name], values, err_msg=name)


@pytest.mark.parametrize(("before", "after"), [("data=8", "fsdp=8"), ("fsdp=4,tensor=2", "data=2,tensor=4")])
def test_another_mesh_may_take_over(tmp_path, before, after):
    state = {"params": {"up": {"kernel": jnp.arange(64.0).reshape(8, 8)}}, "key": jax.random.key(5)}
    meshes = [make_mesh(MeshConfig.parse(split)) for split in (before, after)]
    places = [state_shardings(state, state["params"], mesh) for mesh in meshes]
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, jax.device_put(state, places[0]))
    target = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, places[1])
    with Checkpointer(tmp_path) as checkpointer:
        found, _ = checkpointer.restore(target)
    assert_same(found, state)
    for leaf, sharding in zip(jax.tree.leaves(found), jax.tree.leaves(places[1]), strict=True):
        assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)


def test_inference_reads_the_parameters_without_knowing_the_optimizer(saved):
    found, metadata = restore(saved, only=("params", "stats", "nothing"))
    expected = make_state(3)
    assert set(found) == {"params", "stats"}
    assert_same(found, jax.tree.map(np.asarray, {name: expected[name] for name in found}))
    assert metadata["step"] == 3
    target = {name: jax.eval_shape(make_state)[name] for name in ("params", "ema")}
    typed, _ = restore(saved, target, step=2, only=("params", "ema"))
    assert_same(typed, {name: make_state(2)[name] for name in typed})


def test_describe_tells_shapes_and_metadata_without_reading_arrays(saved):
    flip(array_file(saved, 3))
    spec, metadata = describe(saved)
    assert metadata["data"]["seed"] == 3
    assert spec["params/head/kernel"] == {"shape": [4, 6], "dtype": "bfloat16", "generator": None}
    flip(place(saved, 3) / "metadata.json")
    with pytest.raises(ValueError, match="step 3 is damaged"):
        describe(saved)


# --- what does not fit


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            lambda s: s["params"]["head"].update(kernel=jnp.zeros((4, 7), jnp.bfloat16)),
            r"step 3: params/head/kernel is bfloat16\[4,6\] there, expected bfloat16\[4,7\]",
        ),
        (
            lambda s: s["params"]["head"].update(kernel=jnp.zeros((4, 6))),
            r"step 3: params/head/kernel is bfloat16\[4,6\] there, expected float32\[4,6\]",
        ),
        (
            lambda s: s["params"].update(tail=jnp.zeros(2)),
            r"params/tail float32\[2\] is expected but not there",
        ),
        (
            lambda s: s.pop("ema"),
            r"ema/blocks/up/kernel float32\[2,4,8\] \(and 1 more\) is there but not expected",
        ),
        (
            lambda s: s.update(key=jax.random.key(0, impl="rbg")),
            r"key is key<fry>\[\] there, expected key<rbg>\[\]",
        ),
        (lambda s: s.update(step=jnp.float32(0)), r"step is int32\[\] there, expected float32\[\]"),
    ],
)
def test_another_shape_dtype_or_name_is_refused_before_reading(saved, change, line):
    target = make_state()
    change(target)
    with Checkpointer(saved) as checkpointer, pytest.raises(ValueError, match=line) as refusal:
        checkpointer.restore(target)
    assert "\n" not in str(refusal.value)
    assert steps(saved) == [1, 2, 3]  # another configuration is no damage


def test_bad_calls_get_one_clear_line(tmp_path):
    with pytest.raises(ValueError, match="keep=0"):
        Checkpointer(tmp_path, keep=0)
    with pytest.raises(ValueError, match="mount the bucket"):
        Checkpointer("gs://bucket/run")
    with Checkpointer(tmp_path) as checkpointer:
        with pytest.raises(ValueError, match="is not JSON"):
            checkpointer.save(1, make_state(), {"path": tmp_path})
        with pytest.raises(ValueError, match="is not JSON"):
            checkpointer.save(1, make_state(), {"loss": float("nan")})
        with pytest.raises(ValueError, match="would come back changed"):
            checkpointer.save(1, make_state(), {"size": (16, 64)})
        with pytest.raises(ValueError, match="expected 1; leave it out"):
            checkpointer.save(1, make_state(), {"step": 2})
        with pytest.raises(ValueError, match="params/w is a float"):
            checkpointer.save(1, {"params": {"w": 1.0}})
        with pytest.raises(FileNotFoundError, match="holds no checkpoint$"):
            checkpointer.restore(make_state())
    assert listing(tmp_path) == []
    assert steps(tmp_path / "nowhere") == []
    for read in (restore, describe):
        with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
            read(tmp_path / "nowhere")


def test_a_step_that_is_not_there_is_named_beside_those_that_are(saved):
    with (
        Checkpointer(saved) as checkpointer,
        pytest.raises(FileNotFoundError, match="step 9; steps there: 1, 2, 3"),
    ):
        checkpointer.restore(make_state(), step=9)


# --- saving


def test_rotation_keeps_the_newest(tmp_path):
    with Checkpointer(tmp_path, keep=2) as checkpointer:
        for step in (5, 10, 200):
            checkpointer.save(step, {"a": jnp.ones(2)})
            checkpointer.wait()
            assert checkpointer.latest_step() == step
    assert steps(tmp_path) == [10, 200]
    assert listing(tmp_path) == ["step_00000010", "step_00000200"]


def test_rotation_renames_before_it_deletes(tmp_path, monkeypatch):
    """A kill in the middle of deleting leaves nothing that looks like a checkpoint."""
    deleted = []
    with Checkpointer(tmp_path, keep=1) as checkpointer:
        checkpointer.save(1, {"a": jnp.ones(2)})
        checkpointer.wait()
        monkeypatch.setattr(shutil, "rmtree", lambda path, **_: deleted.append(Path(path).name))
        checkpointer.save(2, {"a": jnp.ones(2)})
        checkpointer.wait()
    monkeypatch.undo()
    assert deleted[-1] == "step_00000001.deleting"
    assert steps(tmp_path) == [2]
    Checkpointer(tmp_path).close()  # the next writer clears it away
    assert listing(tmp_path) == ["step_00000002"]


def test_saving_a_step_twice_is_nothing_to_do(saved):
    with Checkpointer(saved) as checkpointer:
        _, metadata = checkpointer.restore(make_state())
        assert checkpointer.save(metadata["step"], make_state(3)) is False
        assert checkpointer.save(4, make_state(4)) is True
        assert checkpointer.save(4, make_state(4)) is False


def test_another_runs_step_is_not_overwritten(saved):
    with Checkpointer(saved) as checkpointer:
        with pytest.raises(ValueError, match="already holds step 2 of another run"):
            checkpointer.save(2, make_state(9))
        checkpointer.restore(make_state(), step=1)
        with pytest.raises(ValueError, match="already holds step 2 of another run"):
            checkpointer.save(2, make_state(9))
    assert_same(
        restore(saved, jax.eval_shape(make_state) | {"seen": np.zeros(3, np.int64)}, step=2)[0], make_state(2)
    )


def test_training_is_not_held_up_while_it_seals(tmp_path, monkeypatch):
    go_on = threading.Event()
    real = checkpoints.seal
    monkeypatch.setattr(checkpoints, "seal", lambda *args: (go_on.wait(30), real(*args)))
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, make_state())
        assert checkpointer.latest_step() is None  # save returned, and nothing half done is listed
        go_on.set()
        checkpointer.wait()
        assert checkpointer.latest_step() == 1


@pytest.mark.parametrize("surfaces", ["save", "wait", "restore", "close"])
def test_an_error_in_the_background_surfaces_once_and_saving_goes_on(tmp_path, monkeypatch, surfaces):
    state = make_state(1)
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, state)
    checkpointer.wait()

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoints, "seal", full)
    checkpointer.save(2, make_state(2))
    raising = {
        "save": lambda: checkpointer.save(3, state),
        "wait": checkpointer.wait,
        "restore": lambda: checkpointer.restore(state),
        "close": checkpointer.close,
    }[surfaces]
    with pytest.raises(SaveFailed, match=r"step 2 was not saved to .*: \[Errno 28\] No space left on device"):
        raising()
    monkeypatch.undo()
    assert listing(tmp_path) == ["step_00000001"]  # nothing left of the failed one: the disk is full enough
    if surfaces == "close":
        checkpointer = Checkpointer(tmp_path)
    checkpointer.wait()
    assert checkpointer.save(2, make_state(2))
    checkpointer.close()
    assert_same(
        restore(tmp_path, only=("params",))[0], jax.tree.map(np.asarray, {"params": make_state(2)["params"]})
    )


def test_a_failed_save_does_not_hide_the_error_that_ends_the_program(tmp_path, monkeypatch, caplog):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoints, "seal", full)
    with pytest.raises(ZeroDivisionError), Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, make_state())
        raise ZeroDivisionError
    assert "step 1 was not saved" in caplog.text
    Checkpointer(tmp_path).close()  # the lock is free


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


# --- damage


def test_every_flipped_bit_is_noticed_and_the_newest_intact_step_restored(saved, caplog):
    generator = random.Random(0)
    files = [path for path in place(saved, 3).rglob("*") if path.is_file()]
    for number in range(25):
        path = generator.choice(files) if number else array_file(saved, 3)
        content = path.read_bytes()
        flip(path, generator.randrange(len(content)))
        caplog.clear()
        with Checkpointer(saved) as checkpointer:
            state, metadata = checkpointer.restore(make_state())
        assert metadata["step"] == 2
        assert state["step"] == 2
        damaged = place(saved, 3, ".damaged")
        [record] = caplog.records
        relative = path.relative_to(place(saved, 3)).as_posix()
        assert record.levelno == logging.WARNING
        assert f"{saved}: step 3 is damaged ({relative}: " in record.getMessage()
        assert f"set aside as {damaged.name}" in record.getMessage()
        damaged.rename(place(saved, 3))  # mend it for the next try
        path.write_bytes(content)
    with Checkpointer(saved) as checkpointer:
        assert checkpointer.restore(make_state())[1]["step"] == 3


@pytest.mark.parametrize("what", ["truncated", "missing file", "missing seal", "missing arrays"])
def test_other_damage_falls_back_too(saved, caplog, what):
    match what:
        case "truncated":
            path = array_file(saved, 3)
            path.write_bytes(path.read_bytes()[:-10])
        case "missing file":
            array_file(saved, 3).unlink()
        case "missing seal":
            (place(saved, 3) / "seal.sha256").unlink()
        case "missing arrays":
            shutil.rmtree(place(saved, 3) / "arrays")
    with Checkpointer(saved) as checkpointer:
        assert checkpointer.restore(make_state())[1]["step"] == 2
    assert listing(saved) == ["step_00000001", "step_00000002", "step_00000003.damaged"]
    assert len(caplog.records) == 1


def test_fallback_goes_from_new_to_old_and_deletes_nothing(saved, caplog):
    flip(array_file(saved, 3))
    flip(array_file(saved, 2))
    place(saved, 3, ".damaged").mkdir()  # an earlier one
    with Checkpointer(saved) as checkpointer:
        state, metadata = checkpointer.restore(make_state())
        assert metadata["step"] == 1
        assert_same(state, make_state(1))
        assert [record.getMessage().split(": step ")[1][0] for record in caplog.records] == ["3", "2"]
        assert checkpointer.save(2, make_state(2))  # the damaged one is out of the way
    assert listing(saved) == [
        "step_00000001",
        "step_00000002",
        "step_00000002.damaged",
        "step_00000003.damaged",
        "step_00000003.damaged-2",
    ]


def test_nothing_intact_says_so(saved):
    for step in (1, 2, 3):
        flip(array_file(saved, step))
    with Checkpointer(saved) as checkpointer, pytest.raises(FileNotFoundError, match="all 3 are damaged"):
        checkpointer.restore(make_state())


def test_a_damaged_step_asked_for_by_number_is_not_replaced_in_silence(saved):
    flip(array_file(saved, 3))
    with Checkpointer(saved) as checkpointer:
        with pytest.raises(
            ValueError, match=r"step 3 is damaged \(arrays/.*; leave out the step to fall back"
        ):
            checkpointer.restore(make_state(), step=3)
        assert checkpointer.restore(make_state())[1]["step"] == 2


def test_a_copied_step_is_not_taken_for_another(saved):
    shutil.copytree(place(saved, 1), place(saved, 4))
    with Checkpointer(saved) as checkpointer:
        assert checkpointer.restore(make_state())[1]["step"] == 3


def test_a_reader_changes_nothing(saved, caplog):
    flip(array_file(saved, 3))
    with Checkpointer(saved) as writer:
        before = listing(saved)
        assert restore(saved, only=("params",))[1]["step"] == 2
        assert "passed over" in caplog.text
        assert listing(saved) == before
        writer.save(4, make_state(4))


def test_leftovers_of_a_killed_writer_are_cleared_by_the_next_but_not_by_a_reader(saved):
    for suffix in (".writing", ".deleting"):
        (place(saved, 7, suffix) / "arrays").mkdir(parents=True)
    (saved / "notes.writing").mkdir()  # not ours
    restore(saved, only=("params",))
    assert place(saved, 7, ".writing").exists()
    Checkpointer(saved).close()
    assert listing(saved) == ["notes.writing", "step_00000001", "step_00000002", "step_00000003"]


# --- several at once, and sudden ends


def test_a_second_writer_is_kept_out_until_the_first_closes(tmp_path):
    with Checkpointer(tmp_path) as first:
        first.save(1, {"a": jnp.ones(2)})
        with pytest.raises(ValueError, match=f"is being written by process {os.getpid()}"):
            Checkpointer(tmp_path)
        first.wait()
        assert first.latest_step() == 1
    Checkpointer(tmp_path).close()


def child(**extra):
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
        **extra,
    }


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
