"""Beams on different devices attend to what all of them wrote."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec

from vitjax.nn.attention import MultiHeadAttention
from vitjax.nn.beam_parallel import all_beams, attend_across_devices, own_beams, share_of
from vitjax.parallel.mesh import MeshConfig, make_mesh

ROWS, BEAMS, HEADS, WIDTH, ROOM = 2, 8, 2, 4, 5
MESH = make_mesh(MeshConfig(data=2, beam=4))


def over_beams(function, *arguments, out):
    beams = PartitionSpec(None, "beam")
    return jax.jit(
        jax.shard_map(function, mesh=MESH, in_specs=(beams,) * len(arguments), out_specs=out, check_vma=False)
    )(*arguments)


def test_own_beams_and_all_beams_are_inverse():
    table = jnp.arange(ROWS * BEAMS * 3).reshape(ROWS, BEAMS, 3)

    def there_and_back(share):
        assert share.shape[1] == share_of(BEAMS, "beam") == 2
        whole = all_beams(share, "beam")
        return whole, own_beams(whole, "beam")

    whole, shares = over_beams(there_and_back, table, out=(PartitionSpec(), PartitionSpec(None, "beam")))
    np.testing.assert_array_equal(whole, table)
    np.testing.assert_array_equal(shares, table)
    assert own_beams(table, None) is table and all_beams(table, None) is table and share_of(BEAMS, None) == 8


@pytest.mark.parametrize("score", ["dot", "additive"])
def test_attention_is_that_of_one_device(score):
    attention = MultiHeadAttention(8, HEADS, score=score, rngs=nnx.Rngs(0))
    definition, params = nnx.split(attention)
    random = np.random.default_rng(0)
    query = random.standard_normal((ROWS, BEAMS, HEADS, WIDTH)).astype(np.float32)
    # Cells of all slots, and which of them each beam may look at: one a position, most of them on other devices.
    key, value = 30 * random.standard_normal((2, ROWS, BEAMS, HEADS, ROOM, WIDTH)).astype(np.float32)
    ancestors = random.integers(0, BEAMS, (ROWS, BEAMS, ROOM))
    mask = ancestors[:, :, None] == np.arange(BEAMS)[:, None]  # [B, K, slot, T]
    bias = random.standard_normal((HEADS, BEAMS, BEAMS, ROOM)).astype(np.float32)

    def cells(slots):  # [B, k, H, T, C] -> [B, H, kT, C]
        return jnp.swapaxes(slots, 1, 2).reshape(ROWS, HEADS, -1, WIDTH)

    def here(query, key, value, mask, bias):
        return attend_across_devices(
            nnx.merge(definition, params),
            query,
            cells(key),
            cells(value),
            mask=jnp.swapaxes(mask, 1, 2).reshape(ROWS, 1, BEAMS, -1),
            bias=jnp.swapaxes(bias, 1, 2).reshape(1, HEADS, BEAMS, -1),
            axis="beam",
        )

    by_slot = (query, key, value, np.swapaxes(mask, 1, 2), np.swapaxes(bias, 1, 2))
    out = over_beams(here, *by_slot, out=PartitionSpec(None, "beam"))
    expected = attention.attend_kept(
        jnp.asarray(query),
        cells(jnp.asarray(key)),
        cells(jnp.asarray(value)),
        mask=jnp.asarray(mask).reshape(ROWS, 1, BEAMS, -1),
        bias=jnp.asarray(bias).reshape(1, HEADS, BEAMS, -1),
    )
    np.testing.assert_allclose(out, expected, atol=1e-5)
