import errno
import os
import shutil
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.training.states import array_file, assert_same, flip, listing, make_state, place
from vitjax.parallel.mesh import MeshConfig, make_mesh
from vitjax.parallel.sharding import state_shardings
from vitjax.training import checkpoints
from vitjax.training.checkpoints import Checkpointer, SaveFailed, describe, restore, steps

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
