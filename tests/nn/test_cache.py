import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.nn.trees import normal
from vitjax.nn.cache import DecoderCache, keep, read_through, recall, write

B, K, S, H, C, T = 2, 3, 4, 2, 5, 6


def create(num_beams: int = K, dtype: str = "float32") -> DecoderCache:
    cross = [
        (normal(B, H, S, C, seed=i).astype(dtype), normal(B, H, S, C, seed=i + 9).astype(dtype))
        for i in (0, 1)
    ]
    return DecoderCache.create(cross, None, num_beams=num_beams, max_length=T)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_create(dtype: str) -> None:
    cache = create(dtype=dtype)
    assert len(cache.layers) == 2
    for layer in cache.layers:
        assert layer.self_key.data.shape == layer.self_value.data.shape == (B, K, H, T, C)
        assert layer.cross_key.data.shape == (B, H, S, C)  # never tiled by beam
        assert {leaf.dtype for leaf in jax.tree.leaves(layer)} == {jnp.dtype(dtype)}
    assert cache.ancestors.shape == (B, K, T) and cache.valid.shape == (B, T)
    assert cache.position == 0


def test_reorder_moves_the_table_alone() -> None:
    cache = create().claim(K, 2).advance(2)
    parents = jnp.asarray([[2, 0, 0], [1, 1, 2]])
    moved = cache.reorder(parents)
    assert all(
        a is b for a, b in zip(jax.tree.leaves(moved.layers), jax.tree.leaves(cache.layers), strict=True)
    )
    np.testing.assert_array_equal(moved.ancestors[0, :, :2], [[2, 2], [0, 0], [0, 0]])
    np.testing.assert_array_equal(moved.ancestors[1, :, :2], [[1, 1], [1, 1], [2, 2]])
    assert moved.position == 2


def test_claim() -> None:
    prompt = create().claim(1, 2).advance(2)  # written by slot 0 for all beams
    np.testing.assert_array_equal(prompt.ancestors[:, :, :2], np.zeros((B, K, 2)))
    step = prompt.claim(K, 1).advance(1)
    np.testing.assert_array_equal(step.ancestors[:, :, 2], np.tile(np.arange(K), (B, 1)))
    np.testing.assert_array_equal(step.ancestors[:, :, :2], prompt.ancestors[:, :, :2])
    assert step.position == 3


def test_positions_and_visible_with_left_padding() -> None:
    cache = create()
    cache = cache.replace(valid=cache.valid.at[1, :2].set(False))
    np.testing.assert_array_equal(cache.positions(4), [[0, 1, 2, 3], [0, 0, 0, 1]])
    np.testing.assert_array_equal(cache.advance(4).positions(1), [[4], [2]])
    visible = np.asarray(cache.advance(3).visible(2, 5))
    np.testing.assert_array_equal(visible[0], [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]])
    np.testing.assert_array_equal(visible[1], [[0, 0, 1, 1, 0], [0, 0, 1, 1, 1]])


@given(
    st.integers(1, 4), st.lists(st.lists(st.integers(0, 3), min_size=8, max_size=8), min_size=1, max_size=T)
)
def test_reading_through_ancestors_equals_copying_histories(beams: int, steps: list[list[int]]) -> None:
    """Beams that copy their parent's whole history at each step, against slots that stay where they are."""
    cache, buffer = create(beams), keep(jnp.zeros((B, beams, H, T, C)), None)
    histories = np.zeros((B, beams, H, 0, C))
    for step, choice in enumerate(steps):
        new = np.random.default_rng(step).normal(size=(B, beams, H, 1, C)).astype(np.float32)
        cache = cache.claim(beams, 1)
        buffer = write(buffer, jnp.asarray(new), cache.position)
        cache = cache.advance(1)
        histories = np.concatenate([histories, new], axis=3)
        read = read_through(buffer, cache.ancestors[:, :, : step + 1])
        np.testing.assert_array_equal(read.data, histories)
        parents = np.reshape(choice, (2, 4))[:, :beams] % beams
        cache = cache.reorder(jnp.asarray(parents))
        histories = np.stack([histories[b][parents[b]] for b in range(B)])


def test_write_of_one_slot_leaves_the_others() -> None:
    buffer = normal(B, K, H, T, C)
    new = normal(B, 1, H, 2, C, seed=1)
    got = np.array(write(keep(buffer, None), new, jnp.int32(3)).data)
    np.testing.assert_array_equal(got[:, :1, :, 3:5], new)
    got[:, :1, :, 3:5] = buffer[:, :1, :, 3:5]
    np.testing.assert_array_equal(got, buffer)


@given(st.integers(0, 100))
def test_int8_is_off_by_half_a_step_of_its_vector(seed: int) -> None:
    vectors = normal(B, H, T, C, seed=seed) * 10.0 ** np.random.default_rng(seed).integers(
        -4, 4, (B, H, T, 1)
    )
    kept = keep(jnp.asarray(vectors), "int8")
    assert kept.data.dtype == jnp.int8 and kept.scale is not None and kept.scale.shape == (B, H, T, 1)
    step = np.abs(vectors).max(axis=-1, keepdims=True) / 127
    assert (np.abs(recall(kept, jnp.float32) - vectors) <= 0.5001 * step).all()
    assert not recall(keep(jnp.zeros((1, C)), "int8"), jnp.float32).any()


def test_int8_is_written_and_read_with_its_scales() -> None:
    vectors = normal(B, K, H, 1, C)
    buffer = write(keep(jnp.zeros((B, K, H, T, C)), "int8"), vectors, jnp.int32(2))
    parents = jnp.asarray([[2, 0, 0], [1, 1, 2]])
    read = recall(read_through(buffer, jnp.repeat(parents[:, :, None], 4, axis=2)), jnp.float32)
    expected = recall(keep(vectors, "int8"), jnp.float32)[np.arange(B)[:, None], parents]
    np.testing.assert_array_equal(read[:, :, :, 2:3], expected)
    np.testing.assert_array_equal(read[:, :, :, 3], 0)


def test_a_cache_is_a_pytree() -> None:
    cache = create()
    assert jax.tree.structure(cache) == jax.tree.structure(jax.jit(lambda c: c.advance(1))(cache))
    assert len(jax.tree.leaves(cache)) == 2 * 4 + 3
