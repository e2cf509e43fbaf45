"""Training states to save, and what lies where once they are saved."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax


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
