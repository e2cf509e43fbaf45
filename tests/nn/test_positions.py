import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from tests.nn import reference
from tests.nn.trees import gradients_match, normal
from vitjax.nn.interpolation import Interpolation, interpolate_grid
from vitjax.nn.positions import (
    LearnedPositions,
    RelativeBias,
    RelativeGridBias,
    rotary,
    rotary_grid,
    rotate,
    sinusoidal,
    sinusoidal_grid,
    unrotated_prefix,
)


@pytest.mark.parametrize("layout", ["interleaved", "halves", "halves_inclusive"])
@pytest.mark.parametrize("width", [4, 8, 64])
def test_sinusoidal(width: int, layout: str) -> None:
    positions = np.array([0, 1, 2, 17, 300, 1023, 4095])
    got = sinusoidal(jnp.asarray(positions), width, layout)
    np.testing.assert_allclose(got, [reference.sinusoid(p, width, layout) for p in positions], atol=1e-6)
    halves = [0.0] * (width // 2) + [1.0] * (width // 2)
    np.testing.assert_array_equal(got[0], [0.0, 1.0] * (width // 2) if layout == "interleaved" else halves)


def test_sinusoidal_takes_any_shape_and_refuses_an_odd_width() -> None:
    positions = jnp.arange(6).reshape(2, 3)
    np.testing.assert_array_equal(sinusoidal(positions, 4).reshape(6, 4), sinusoidal(jnp.arange(6), 4))
    with pytest.raises(ValueError, match="need an even width, not 5"):
        sinusoidal(positions, 5)
    with pytest.raises(ValueError, match="width divisible by 4, not 6"):
        sinusoidal_grid((2, 2), 6)


@pytest.mark.parametrize("grid", [(3, 3), (2, 5), (5, 1)])
def test_sinusoidal_grid_is_row_then_column(grid: tuple[int, int]) -> None:
    want = [
        np.concatenate([reference.sinusoid(row, 4), reference.sinusoid(column, 4)])
        for row in range(grid[0])
        for column in range(grid[1])
    ]
    np.testing.assert_allclose(sinusoidal_grid(grid, 8), want, atol=1e-6)


@pytest.mark.parametrize(
    "interpolation", ["bicubic", "bicubic_antialias", "bilinear", "bilinear_antialias", "linear_corners"]
)
def test_learned_positions_of_packed_grids(interpolation: Interpolation) -> None:
    """Grids that are data give what they give when the program knows them; padding that of the first cell."""
    positions = LearnedPositions((3, 4), 5, interpolation=interpolation, rngs=nnx.Rngs(0))
    grids = [(3, 4), (5, 2), (1, 7), (2, 2), (1, 1)]
    packed = np.asarray(jax.jit(lambda grids: positions.packed(grids, 12))(jnp.asarray(grids)))
    for row, grid in zip(packed, grids, strict=True):
        want = positions(grid)
        np.testing.assert_allclose(row[: len(want)], want, atol=1e-6)
        np.testing.assert_array_equal(row[len(want) :], np.tile(row[:1], (12 - len(want), 1)))


def test_learned_positions() -> None:
    positions = LearnedPositions((2, 3), 4, rngs=nnx.Rngs(0))
    table = positions.embedding[...]
    assert table.shape == (6, 4) and 0.005 < table.std() < 0.05
    np.testing.assert_array_equal(positions((2, 3)), table)
    np.testing.assert_array_equal(positions((4, 5)), interpolate_grid(table, (2, 3), (4, 5), "bicubic"))
    np.testing.assert_array_equal(
        positions.at(jnp.asarray([[0, 5], [99, 2]])), table[np.array([[0, 5], [5, 2]])]
    )


def rotated_scores(query, key, query_at, key_at):
    """q . k after each has been turned to its place."""
    return jnp.einsum("bnhc,bnhc->bnh", rotate(query, query_at), rotate(key, key_at))


@pytest.mark.parametrize("base", [10000.0, 100.0])
def test_rotary_turns_by_complex_multiplication(base: float) -> None:
    positions = np.array([0, 1, 5, 40])
    x = normal(1, 4, 2, 6)
    got = np.asarray(rotate(x, rotary(jnp.asarray(positions)[None], 6, base=base)))
    angles = positions[:, None] * base ** (-np.arange(3) / 3)
    for head in range(2):
        want = reference.rotate(np.asarray(x)[0, :, head], angles)
        np.testing.assert_allclose(got[0, :, head], want, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(got[0, 0], x[0, 0])


@given(st.integers(0, 200), st.integers(0, 200), st.integers(0, 200))
def test_rotary_scores_depend_on_the_distance_alone(query_at: int, key_at: int, shift: int) -> None:
    query, key = normal(1, 1, 2, 8), normal(1, 1, 2, 8, seed=1)

    def score(q: int, k: int):
        return rotated_scores(query, key, *(rotary(jnp.asarray([[p]]), 8) for p in (q, k)))

    np.testing.assert_allclose(score(query_at, key_at), score(query_at + shift, key_at + shift), atol=1e-3)


def test_rotary_scores_do_depend_on_the_distance() -> None:
    query, key = normal(1, 1, 2, 8), normal(1, 1, 2, 8, seed=1)
    near, far = (rotated_scores(query, key, *(rotary(jnp.asarray([[p]]), 8) for p in (0, k))) for k in (1, 4))
    assert np.abs(near - far).min() > 1e-2


def test_rotary_takes_positions_of_its_own_for_each_row() -> None:
    positions = jnp.asarray([[0, 1, 2], [5, 6, 7]])
    x = normal(2, 3, 1, 4)
    both = rotate(x, rotary(positions, 4))
    for row in range(2):
        one = rotate(x[row : row + 1], rotary(positions[row : row + 1], 4))
        np.testing.assert_allclose(both[row : row + 1], one, rtol=1e-6)


def test_rotary_grid_depends_on_row_and_column_distance() -> None:
    grid = (4, 5)
    rotation = rotary_grid(grid, 8)
    assert rotation.cos.shape == rotation.sin.shape == (1, 20, 4)
    query, key = (jnp.tile(normal(1, 1, 1, 8, seed=s), (1, 20, 1, 1)) for s in (0, 1))
    query, key = rotate(query, rotation)[0, :, 0], rotate(key, rotation)[0, :, 0]
    scores = np.asarray(query @ key.T).reshape(*grid, *grid)
    seen: dict[tuple[int, int], float] = {}
    for i, j, k, m in np.ndindex(*grid, *grid):
        distance = (k - i, m - j)
        assert abs(seen.setdefault(distance, scores[i, j, k, m]) - scores[i, j, k, m]) < 1e-4
    assert len({round(float(v), 3) for v in seen.values()}) > 50  # all but chance coincidences are told apart


def test_rotary_grid_angles() -> None:
    """The first half of the pairs turns with the row, the second with the column; periods as in DINOv3."""
    rotation = rotary_grid((2, 3), 8, base=100.0)
    frequencies = np.array([1.0, 0.1])
    want = [np.concatenate([r * frequencies, c * frequencies]) for r in range(2) for c in range(3)]
    np.testing.assert_allclose(rotation.cos[0], np.cos(want), atol=1e-6)
    np.testing.assert_allclose(rotation.sin[0], np.sin(want), atol=1e-6)


def test_rotary_grid_in_shares_of_the_image() -> None:
    """DINOv3: the middle of the image is not turned, its edges would be by 2pi, whatever the number of cells."""
    rotation = rotary_grid((2, 3), 8, base=100.0, unit="image")
    frequencies = np.array([1.0, 0.1])
    rows, columns = np.pi * np.array([-1, 1]), np.pi * np.array([-4 / 3, 0, 4 / 3])
    want = [np.concatenate([r * frequencies, c * frequencies]) for r in rows for c in columns]
    np.testing.assert_allclose(rotation.cos[0], np.cos(want), atol=1e-6)
    np.testing.assert_allclose(rotation.sin[0], np.sin(want), atol=1e-6)


def test_prefix_is_not_turned() -> None:
    rotation = unrotated_prefix(rotary_grid((2, 2), 4), 2)
    x = normal(1, 6, 1, 4)
    turned = rotate(x, rotation)
    np.testing.assert_array_equal(turned[:, :2], x[:, :2])
    np.testing.assert_allclose(turned[:, 2:], rotate(x[:, 2:], rotary_grid((2, 2), 4)), rtol=1e-6)


def test_rotary_errors_and_bfloat16() -> None:
    with pytest.raises(ValueError, match="even head width, not 3"):
        rotary(jnp.zeros((1, 1), int), 3)
    with pytest.raises(ValueError, match="head width divisible by 4, not 6"):
        rotary_grid((2, 2), 6)
    x = normal(1, 3, 1, 4).astype(jnp.bfloat16)
    rotation = rotary(jnp.asarray([[100, 1000, 4001]]), 4)
    low, exact = rotate(x, rotation), rotate(x.astype(jnp.float32), rotation)
    assert low.dtype == jnp.bfloat16
    np.testing.assert_array_equal(low, exact.astype(jnp.bfloat16))  # rounded once, at the end


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("buckets", "limit"), [(32, 128), (8, 16), (16, 64)])
def test_relative_bias_has_the_buckets_of_t5(bidirectional: bool, buckets: int, limit: int) -> None:
    options = dict(bidirectional=bidirectional, num_buckets=buckets, max_distance=limit)
    bias = RelativeBias(2, rngs=nnx.Rngs(0), **options)
    bias.embedding[...] = jnp.arange(buckets)[:, None] * jnp.asarray([1.0, -1.0])  # heads tell +- the bucket
    queries, keys = jnp.asarray([0, 150]), jnp.arange(300)
    got = np.asarray(jax.jit(lambda q, k: bias(q, k))(queries, keys))
    assert got.shape == (1, 2, 2, 300)
    want = [[reference.t5_bucket(k - q, **options) for k in range(300)] for q in (0, 150)]
    np.testing.assert_array_equal(got[0, 0], want)
    np.testing.assert_array_equal(got[0, 1], -np.array(want))
    # both directions: distance 0 lies in the first half, so that T5 never uses the second half's first bucket
    assert len(np.unique(want)) == buckets - bidirectional


@pytest.mark.parametrize("grid", [(2, 3), (3, 3)])
def test_relative_grid_bias(grid: tuple[int, int]) -> None:
    bias = RelativeGridBias(grid, 2, rngs=nnx.Rngs(0))
    got = np.asarray(bias(grid, prefix=2))
    cells = grid[0] * grid[1]
    assert got.shape == (1, 2, cells + 2, cells + 2)
    assert not got[:, :, :2].any() and not got[:, :, :, :2].any()
    table = np.asarray(bias.embedding[...]).reshape(2 * grid[0] - 1, 2 * grid[1] - 1, 2)
    for q, k in np.ndindex(cells, cells):
        (i, j), (m, n) = divmod(q, grid[1]), divmod(k, grid[1])
        np.testing.assert_array_equal(
            got[0, :, q + 2, k + 2], table[i - m + grid[0] - 1, j - n + grid[1] - 1]
        )


def test_relative_grid_bias_of_the_prefix() -> None:
    bias = RelativeGridBias((2, 3), 2, prefix=True, rngs=nnx.Rngs(0))
    plain = RelativeGridBias((2, 3), 2, rngs=nnx.Rngs(0))
    plain.embedding[...] = bias.embedding[...]
    got, of_query, of_key, of_both = np.asarray(bias((2, 3), prefix=2)), *np.asarray(bias.prefix[...])
    np.testing.assert_array_equal(got[..., 2:, 2:], np.asarray(plain((2, 3))))
    for head in range(2):
        assert (got[0, head, :2, 2:] == of_query[head]).all()
        assert (got[0, head, 2:, :2] == of_key[head]).all()
        assert (got[0, head, :2, :2] == of_both[head]).all()


def test_relative_grid_bias_of_another_grid_depends_on_the_offset_alone() -> None:
    bias = RelativeGridBias((2, 2), 1, rngs=nnx.Rngs(0))
    got = np.asarray(bias((3, 4)))[0, 0].reshape(3, 4, 3, 4)
    seen: dict[tuple[int, int], float] = {}
    for i, j, m, n in np.ndindex(3, 4, 3, 4):
        assert seen.setdefault((i - m, j - n), got[i, j, m, n]) == got[i, j, m, n]
    assert len(seen) == 5 * 7


def test_gradients() -> None:
    gradients_match(lambda x: rotate(x, rotary_grid((2, 2), 4)), normal(1, 4, 1, 4))
