import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.nn.trees import normal
from vitjax.nn.cache import DecoderCache, keep, recall, write

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
        assert layer.self_key.data.shape == layer.self_value.data.shape == (B, H, T * K, C)
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
    visible = np.asarray(cache.advance(3).visible(1, 2)).reshape(B, 2, T, K)
    assert not visible[..., 1:].any()  # all was written by slot 0
    np.testing.assert_array_equal(visible[0, :, :, 0], [[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 0]])
    np.testing.assert_array_equal(visible[1, :, :, 0], [[0, 0, 1, 1, 0, 0], [0, 0, 1, 1, 1, 0]])


@given(
    st.integers(1, 4), st.lists(st.lists(st.integers(0, 3), min_size=8, max_size=8), min_size=1, max_size=T)
)
def test_reading_through_ancestors_equals_copying_histories(beams: int, steps: list[list[int]]) -> None:
    """Beams that copy their parent's whole history at each step, against slots that stay where they are."""
    cache, kept = create(beams), keep(jnp.zeros((B, H, T * beams, C)), None)
    histories = np.zeros((B, beams, 0, H, C))
    for step, choice in enumerate(steps):
        new = np.random.default_rng(step).normal(size=(B, beams, H, C)).astype(np.float32)
        cache = cache.claim(beams, 1)
        kept = write(kept, jnp.asarray(new), cache.position, length=1, num_beams=beams)
        visible = np.asarray(cache.visible(beams, 1))  # [B, K, R]
        cache = cache.advance(1)
        histories = np.concatenate([histories, new[:, :, None]], axis=2)
        for row in range(B):
            for beam in range(beams):
                read = np.asarray(kept.data)[row][:, visible[row, beam]]  # [H, step + 1, C]
                np.testing.assert_array_equal(np.swapaxes(read, 0, 1), histories[row, beam])
        parents = np.reshape(choice, (2, 4))[:, :beams] % beams
        cache = cache.reorder(jnp.asarray(parents))
        histories = np.stack([histories[b][parents[b]] for b in range(B)])


@pytest.mark.parametrize("slots", [1, K])
def test_write(slots: int) -> None:
    """Cell t*K + k holds what slot k wrote at position t."""
    old, new = normal(B, H, T * K, C), normal(B, slots * 2, H, C, seed=1)
    got = np.asarray(write(keep(old, None), new, jnp.int32(3), length=2, num_beams=K).data)
    slot_major = np.asarray(got).reshape(B, H, T, K, C)
    np.testing.assert_array_equal(
        slot_major[:, :, 3:5, :slots].transpose(0, 3, 2, 1, 4).reshape(B, slots * 2, H, C), new
    )
    np.testing.assert_array_equal(slot_major[:, :, :3], np.asarray(old).reshape(B, H, T, K, C)[:, :, :3])


def test_grow() -> None:
    cache = create().claim(K, 2).advance(2)
    layer = cache.layers[0]
    cache = cache.replace(
        layers=(layer.replace(self_key=keep(normal(B, H, T * K, C), None)), cache.layers[1])
    )
    larger = cache.grow(T + 2)
    assert larger.ancestors.shape == (B, K, T + 2) and larger.valid.shape == (B, T + 2)
    assert larger.valid.all() and larger.position == 2
    grown = larger.layers[0].self_key.data
    np.testing.assert_array_equal(grown[:, :, : T * K], cache.layers[0].self_key.data)
    assert grown.shape == (B, H, (T + 2) * K, C) and not grown[:, :, T * K :].any()
    assert larger.layers[0].cross_key is cache.layers[0].cross_key
    assert all(a is b for a, b in zip(jax.tree.leaves(cache.grow(T)), jax.tree.leaves(cache), strict=True))


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


def test_int8_is_written_with_its_scales() -> None:
    vectors = normal(B, K, H, C)
    kept = write(keep(jnp.zeros((B, H, T * K, C)), "int8"), vectors, jnp.int32(2), length=1, num_beams=K)
    read = recall(kept, jnp.float32)[:, :, 2 * K : 3 * K]
    np.testing.assert_array_equal(np.swapaxes(read, 1, 2), recall(keep(vectors, "int8"), jnp.float32))
    assert not recall(kept, jnp.float32)[:, :, 3 * K :].any()


def test_a_cache_is_a_pytree() -> None:
    cache = create()
    assert jax.tree.structure(cache) == jax.tree.structure(jax.jit(lambda c: c.advance(1))(cache))
    assert len(jax.tree.leaves(cache)) == 2 * 4 + 3
