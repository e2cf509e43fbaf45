"""Positions: sinusoidal and learned embeddings, relative biases, rotations.

Grids are (rows, columns); a grid is read row by row into a sequence of N = rows * columns tokens. Everything about
sizes is decided at trace time.
"""

import math
from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from vitjax.nn.interpolation import Grid, Interpolation, interpolate_grid, resampling_weights

RotaryUnit = Literal["patch", "image"]

Sinusoid = Literal["interleaved", "halves", "halves_inclusive"]
"""`interleaved` has sine in even features and cosine in odd ones (Vaswani et al. 2017, 3.5), `halves` all sines before
all cosines (Marian). `halves_inclusive` also spreads its wavelengths up to 10000 * 2pi itself (tensor2tensor, fairseq),
where the others stop one short."""


def sinusoidal(
    positions: Float[Array, "*N"] | Int[Array, "*N"], width: int, layout: Sinusoid = "interleaved"
) -> Float[Array, "*N D"]:
    """Fixed embeddings (Vaswani et al. 2017, 3.5): sines and cosines, wavelengths from 2pi to 10000 * 2pi.

    Within 1e-6 of exact arithmetic for positions below 4096.
    """
    if width % 2:
        raise ValueError(f"sinusoidal positions need an even width, not {width}")
    half = width // 2
    steps = half - 1 if layout == "halves_inclusive" else half
    frequencies = 10000.0 ** (-np.arange(half) / max(steps, 1))
    # The product with a position is rounded by as much as 3e-5; with the leading 11 bits of a frequency it is exact.
    leading = frequencies.astype(np.float16).astype(np.float32)
    positions = positions[..., None].astype(jnp.float32)
    angles, rest = positions * leading, positions * np.float32(frequencies - leading)  # [*N, D/2]
    sin = jnp.sin(angles) * jnp.cos(rest) + jnp.cos(angles) * jnp.sin(rest)
    cos = jnp.cos(angles) * jnp.cos(rest) - jnp.sin(angles) * jnp.sin(rest)
    if layout == "interleaved":
        return jnp.stack([sin, cos], axis=-1).reshape(*positions.shape[:-1], width)
    return jnp.concatenate([sin, cos], axis=-1)


def sinusoidal_grid(grid: Grid, width: int) -> Float[Array, "N D"]:
    """Sinusoidal embeddings of a grid: half the features for the row, half for the column (MoCo v3, MAE)."""
    if width % 4:
        raise ValueError(f"sinusoidal positions of a grid need a width divisible by 4, not {width}")
    rows, columns = jnp.divmod(jnp.arange(grid[0] * grid[1]), grid[1])
    return jnp.concatenate([sinusoidal(rows, width // 2), sinusoidal(columns, width // 2)], axis=-1)


class LearnedPositions(nnx.Module):
    """One trained vector for each cell of a grid, interpolated when another grid is asked for.

    Args:
      prefix: tokens before the grid that have a vector too, `self.prefix` [prefix, D].
    """

    def __init__(
        self,
        grid: Grid,
        width: int,
        *,
        prefix: int = 0,
        interpolation: Interpolation = "bicubic",
        rngs: nnx.Rngs,
    ):
        initializer = nnx.initializers.normal(0.02)
        self.embedding = nnx.Param(initializer(rngs.params(), (grid[0] * grid[1], width)))
        if prefix:
            self.prefix = nnx.Param(initializer(rngs.params(), (prefix, width)))
        self.grid = grid
        self.interpolation = interpolation

    def __call__(self, grid: Grid) -> Float[Array, "N D"]:
        return interpolate_grid(self.embedding[...], self.grid, grid, self.interpolation)

    def packed(self, grids: Int[Array, "B 2"], length: int) -> Float[Array, "B N D"]:
        """The vectors of one grid a row, read row by row; places behind a grid get that of its first cell.

        Equal to `__call__` of each grid, but grids are data: one compiled program serves images of all shapes.
        """
        rows, columns = grids[:, :1], grids[:, 1:]  # [B, 1]
        cells = jnp.arange(length)
        at = jnp.divmod(jnp.where(cells < rows * columns, cells, 0), columns)
        by_row, by_column = (
            resampling_weights(place, source, target, self.interpolation)
            for place, source, target in zip(at, self.grid, (rows, columns), strict=True)
        )
        weights = (by_row[..., :, None] * by_column[..., None, :]).reshape(*by_row.shape[:2], -1)
        return jnp.matmul(weights, self.embedding[...], precision="highest")

    def at(self, positions: Int[Array, "*N"]) -> Float[Array, "*N D"]:
        """The vectors of given places in a sequence (a grid of one row); places are clipped to the table."""
        return jnp.take(self.embedding[...], positions, axis=0, mode="clip")


class Rotation(NamedTuple):
    """Cosines and sines [B or 1, N, C/2] by which `rotate` turns queries and keys."""

    cos: Array
    sin: Array


def rotary(
    positions: Int[Array, "B N"] | Float[Array, "B N"], width: int, *, base: float = 10000.0
) -> Rotation:
    """Rotary positions of a sequence for heads of `width` C (Su et al. 2021, RoFormer)."""
    if width % 2:
        raise ValueError(f"rotary positions need an even head width, not {width}")
    frequencies = base ** (-jnp.arange(0, width, 2) / width)  # [C/2]
    angles = positions[..., None].astype(jnp.float32) * frequencies
    return Rotation(jnp.cos(angles), jnp.sin(angles))


def rotary_grid(grid: Grid, width: int, *, base: float = 100.0, unit: RotaryUnit = "patch") -> Rotation:
    """Rotary positions of a grid: half of each head turns with the row, half with the column.

    Args:
      base: the frequencies are from 1 to almost 1 / base; 100 for DINOv3, 10000 for EVA-02.
      unit: what makes an angle of one at frequency 1: a `patch`, counted from the first (EVA-02), or a share of the
        `image`, whose edges are at -2pi and 2pi and whose patches count at their middle (Siméoni et al. 2025, DINOv3).
    """
    if width % 4:
        raise ValueError(f"rotary positions of a grid need a head width divisible by 4, not {width}")
    rows, columns = jnp.divmod(jnp.arange(grid[0] * grid[1])[None], grid[1])
    if unit == "image":
        rows, columns = (
            2 * math.pi * (2 * (place + 0.5) / count - 1)
            for place, count in ((rows, grid[0]), (columns, grid[1]))
        )
    by_row, by_column = (rotary(place, width // 2, base=base) for place in (rows, columns))
    return Rotation(*(jnp.concatenate(pair, axis=-1) for pair in zip(by_row, by_column, strict=True)))


def unrotated_prefix(rotation: Rotation, count: int) -> Rotation:
    """Put `count` positions that are not turned (class token, registers) before the others."""
    pad = ((0, 0), (count, 0), (0, 0))
    return Rotation(jnp.pad(rotation.cos, pad, constant_values=1.0), jnp.pad(rotation.sin, pad))


def rotate(x: Float[Array, "B N H C"], rotation: Rotation) -> Float[Array, "B N H C"]:
    """Turn feature i together with feature i + C/2 (the half-split layout of GPT-NeoX and Llama)."""
    cos, sin = (part[:, :, None] for part in rotation)  # [B, N, 1, C/2]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)


class RelativeBias(nnx.Module):
    """A trained bias for each head and bucket of distance between query and key (T5, Raffel et al. 2020).

    Half of the buckets are single distances, the other half grow logarithmically up to `max_distance`.
    """

    def __init__(
        self,
        num_heads: int,
        *,
        bidirectional: bool,
        num_buckets: int = 32,
        max_distance: int = 128,
        rngs: nnx.Rngs,
    ):
        self.embedding = nnx.Param(nnx.initializers.normal(0.02)(rngs.params(), (num_buckets, num_heads)))
        self.bidirectional = bidirectional
        self.num_buckets = num_buckets
        self.max_distance = max_distance

    def __call__(
        self, query_positions: Int[Array, "T"], key_positions: Int[Array, "S"]
    ) -> Float[Array, "1 H T S"]:
        distance = key_positions[None, :] - query_positions[:, None]
        buckets, offset = self.num_buckets, jnp.zeros_like(distance)
        if self.bidirectional:
            buckets //= 2
            offset = jnp.where(distance > 0, buckets, 0)
            distance = jnp.abs(distance)
        else:
            distance = jnp.maximum(-distance, 0)
        table = distance_buckets(buckets, self.max_distance)
        bucket = offset + jnp.take(table, distance, mode="clip")
        return jnp.moveaxis(self.embedding[...][bucket], -1, 0)[None]


def distance_buckets(buckets: int, max_distance: int) -> Int[np.ndarray, "n"]:
    """The bucket of each distance 0, 1, ..., `max_distance`; farther ones share the last.

    A table, for a device's own logarithm may fall just short of where a bucket begins.
    """
    exact = buckets // 2
    distance = np.arange(max_distance + 1)
    ratio = np.log(np.maximum(distance, 1).astype(np.float32) / exact) / np.float32(
        math.log(max_distance / exact)
    )
    far = np.minimum(exact + (ratio * (buckets - exact)).astype(np.int32), buckets - 1)
    return np.where(distance < exact, distance, far).astype(np.int32)


class RelativeGridBias(nnx.Module):
    """A trained bias for each head and offset (rows, columns) between two cells of a grid (Swin, BEiT).

    Another grid interpolates the table of offsets.

    Args:
      prefix: tokens before the grid (class token, registers) have three biases too, `self.prefix` [3, H]: of a query
        that is one of them, of a key that is one, and of both. Otherwise theirs are zero.
    """

    def __init__(
        self,
        grid: Grid,
        num_heads: int,
        *,
        prefix: bool = False,
        interpolation: Interpolation = "bicubic",
        rngs: nnx.Rngs,
    ):
        offsets = (2 * grid[0] - 1) * (2 * grid[1] - 1)
        initializer = nnx.initializers.normal(0.02)
        self.embedding = nnx.Param(initializer(rngs.params(), (offsets, num_heads)))
        if prefix:
            self.prefix = nnx.Param(initializer(rngs.params(), (3, num_heads)))
        self.grid = grid
        self.has_prefix = prefix
        self.interpolation = interpolation

    def __call__(self, grid: Grid, *, prefix: int = 0) -> Float[Array, "1 H N N"]:
        table = self.table(grid)
        rows, columns = jnp.divmod(jnp.arange(grid[0] * grid[1]), grid[1])
        row_offset = rows[:, None] - rows[None, :] + grid[0] - 1
        column_offset = columns[:, None] - columns[None, :] + grid[1] - 1
        bias = jnp.moveaxis(table[row_offset * (2 * grid[1] - 1) + column_offset], -1, 0)  # [H, P, P]
        bias = jnp.pad(bias, ((0, 0), (prefix, 0), (prefix, 0)))
        if self.has_prefix:
            of_query, of_key, of_both = self.prefix[...][..., None, None]  # [H, 1, 1]
            bias = bias.at[:, :prefix].set(of_query).at[:, :, :prefix].set(of_key)
            bias = bias.at[:, :prefix, :prefix].set(of_both)
        return bias[None]

    def table(self, grid: Grid) -> Float[Array, "O H"]:
        """The bias of each offset between two cells of a grid of this size."""

        def offset_grid(g: Grid) -> Grid:
            return (2 * g[0] - 1, 2 * g[1] - 1)

        return interpolate_grid(
            self.embedding[...], offset_grid(self.grid), offset_grid(grid), self.interpolation
        )
