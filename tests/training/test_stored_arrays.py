import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vitjax.training.stored_arrays import require_same, selected, spec_of, storable


def test_spec_names_every_array_of_an_optimizer_state():
    params = {"head": {"kernel": jnp.zeros((2, 3), jnp.bfloat16)}}
    state = {"params": params, "opt_state": optax.adam(1e-3).init(params), "key": jax.random.key(0)}
    spec = spec_of(state)
    assert set(spec) == {
        "params/head/kernel",
        "opt_state/0/count",
        "opt_state/0/mu/head/kernel",
        "opt_state/0/nu/head/kernel",
        "key",
    }
    assert spec["params/head/kernel"] == {"shape": [2, 3], "dtype": "bfloat16", "generator": None}
    assert spec["key"] == {"shape": [], "dtype": "key<fry>", "generator": "threefry2x32"}


def test_spec_of_shapes_agrees_with_spec_of_arrays():
    state = {"a": jnp.zeros(3), "key": jax.random.split(jax.random.key(0, impl="rbg"), 2), "n": np.int64(3)}
    require_same(spec_of(state), spec_of(jax.eval_shape(lambda: state)) | spec_of({"n": np.int64(0)}), "here")


def test_storable_is_nested_dicts_of_plain_arrays():
    stored = storable({"opt": [(jnp.ones(2),)], "key": jax.random.key(0)})
    assert stored["opt"]["0"]["0"].shape == (2,)
    assert stored["key"].dtype == jnp.uint32


@pytest.mark.parametrize("leaf", [3, 2.5, "text", object()])
def test_what_is_no_array_is_refused_by_name(leaf):
    with pytest.raises(ValueError, match="train/step is a .*; a checkpoint holds arrays"):
        spec_of({"train": {"step": leaf}})


def test_names_that_orbax_would_confuse_are_refused():
    with pytest.raises(ValueError, match="joined by dots"):
        spec_of({"a.b": jnp.ones(1), "a": {"b": jnp.ones(1)}})


def found(**arrays):
    return spec_of({name: jax.ShapeDtypeStruct(shape, dtype) for name, (shape, dtype) in arrays.items()})


@pytest.mark.parametrize(
    ("stored", "wanted", "line"),
    [
        (
            found(kernel=((64, 100), jnp.float32)),
            found(kernel=((64, 10), jnp.float32)),
            r"^run step 3: kernel is float32\[64,100\] there, expected float32\[64,10\]; ",
        ),
        (
            found(kernel=((4,), jnp.float32)),
            found(kernel=((4,), jnp.bfloat16)),
            r"^run step 3: kernel is float32\[4\] there, expected bfloat16\[4\]; ",
        ),
        (
            found(kernel=((4,), jnp.float32)),
            found(kernel=((4,), jnp.float32), bias=((2,), jnp.int32), ema=((), jnp.float32)),
            r"^run step 3: bias int32\[2\] \(and 1 more\) is expected but not there; ",
        ),
        (
            found(kernel=((4,), jnp.float32), nu=((4,), jnp.float32)),
            found(kernel=((4,), jnp.float32)),
            r"^run step 3: nu float32\[4\] is there but not expected; ",
        ),
    ],
)
def test_what_differs_is_named_in_one_line(stored, wanted, line):
    with pytest.raises(ValueError, match=line) as refusal:
        require_same(stored, wanted, "run step 3")
    assert "\n" not in str(refusal.value)


def test_another_kind_of_key_differs():
    with pytest.raises(ValueError, match=r"key is key<rbg>\[\] there, expected key<fry>\[\]"):
        require_same(
            spec_of({"key": jax.random.key(0, impl="rbg")}), spec_of({"key": jax.random.key(0)}), "run"
        )


def test_selected_goes_by_the_first_component():
    spec = found(params=((1,), jnp.float32), params_other=((1,), jnp.float32)) | spec_of(
        {"ema": {"params": jnp.ones(1)}}
    )
    assert set(selected(spec, ("params", "stats"))) == {"params"}
    assert set(selected(spec, ("ema",))) == {"ema/params"}
    assert selected(spec, None) == spec
