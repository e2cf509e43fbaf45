"""From pixels and token ids to vectors."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from vitjax.nn.convolution import ConvStem
from vitjax.nn.positions import Grid

Combination = Literal["add", "concat"]
PositionKind = Literal["none", "sinusoidal", "learned", "relative", "rotary"]


class PackedPatches(NamedTuple):
    """Images of many shapes in one batch: the patches of each, row by row, padded at the end (NaViT; SigLIP2's NaFlex).

    `pixels` [B, N, h*w*ch]: rows, columns and channels of each patch. `grids` [B, 2]: rows and columns of patches.
    """

    pixels: Array
    grids: Array

    @classmethod
    def of(cls, images: Sequence[np.ndarray], patch_size: tuple[int, int], *, length: int) -> "PackedPatches":
        """Normalised images [H, W, ch] of any sizes that patches divide, as `length` patches each, padding included."""
        pixels, grids = [], []
        for image in images:
            rows, columns = grid = patch_grid(image.shape[:2], patch_size)
            if rows * columns > length:
                raise ValueError(f"an image of {rows} x {columns} patches does not fit in {length}")
            cut = image.reshape(rows, patch_size[0], columns, patch_size[1], -1).swapaxes(1, 2)
            patches = cut.reshape(rows * columns, -1)
            pixels.append(np.pad(patches, ((0, length - len(patches)), (0, 0))))
            grids.append(grid)
        return cls(jnp.asarray(np.stack(pixels)), jnp.asarray(grids, jnp.int32))

    @property
    def mask(self) -> Bool[Array, "B N"]:
        """True where there is a patch."""
        return jnp.arange(self.pixels.shape[1]) < jnp.prod(self.grids, axis=1, keepdims=True)


class PatchEmbedding(nnx.Module):
    """Cut an image into patches and project each: one strided convolution (Dosovitskiy et al. 2021).

    Args:
      patch_size: rows and columns of a patch, in pixels of what the stem leaves.
      patch_stride: distance between patches; None means they do not overlap. Overlapping patches are padded so that
        there is one patch for each stride.
      stem_widths, stem_strides: an optional `ConvStem` before the patches.
      use_bias: of the projection.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        *,
        patch_size: tuple[int, int],
        patch_stride: tuple[int, int] | None = None,
        stem_widths: tuple[int, ...] = (),
        stem_strides: tuple[int, ...] = (),
        use_bias: bool = True,
        dtype: str = "float32",
        rngs: nnx.Rngs,
    ):
        if stem_widths:
            self.stem = ConvStem(channels, stem_widths, stem_strides, dtype=dtype, rngs=rngs)
            channels = stem_widths[-1]
        stride = patch_stride or patch_size
        self.projection = nnx.Conv(
            channels,
            width,
            patch_size,
            strides=stride,
            padding="VALID" if stride == patch_size else "SAME",
            use_bias=use_bias,
            dtype=jnp.dtype(dtype),
            param_dtype=jnp.float32,
            rngs=rngs,
        )
        self.has_stem = bool(stem_widths)

    def __call__(self, images: Float[Array, "B H W ch"], *, train: bool) -> Float[Array, "B h w D"]:
        return self.projection(self.stem(images, train=train) if self.has_stem else images)

    def packed(self, pixels: Float[Array, "B N E"]) -> Float[Array, "B N D"]:
        """Project patches that are already cut."""
        kernel = self.projection.kernel[...].astype(pixels.dtype)  # [h, w, ch, D]
        x = pixels @ kernel.reshape(-1, kernel.shape[-1])
        bias = self.projection.bias
        return x if bias is None else x + bias[...].astype(x.dtype)


def patch_grid(
    image_size: tuple[int, int],
    patch_size: tuple[int, int],
    patch_stride: tuple[int, int] | None = None,
    stem_strides: tuple[int, ...] = (),
    *,
    drop_remainder: bool = False,
) -> Grid:
    """Rows and columns of patches that `PatchEmbedding` makes of an image.

    Pixels at the end of a row or column that fill no patch are a ValueError, or with `drop_remainder` in no patch.
    """
    rows, columns = image_size
    for stride in stem_strides:
        rows, columns = -(-rows // stride), -(-columns // stride)
    stride_rows, stride_columns = patch_stride or patch_size
    if (rows % stride_rows or columns % stride_columns) and not drop_remainder:
        raise ValueError(
            f"image {image_size} gives {rows}x{columns} pixels to patches of stride "
            f"{stride_rows}x{stride_columns}, which does not divide it: resize the image or change the patch"
        )
    return rows // stride_rows, columns // stride_columns


class TokenEmbedding(nnx.Module):
    """A trained vector for each token; `attend` scores against them (tied weights, Press and Wolf 2017)."""

    def __init__(self, vocabulary_size: int, width: int, *, dtype: str = "float32", rngs: nnx.Rngs):
        initializer = nnx.initializers.normal(width**-0.5)
        self.embedding = nnx.Param(initializer(rngs.params(), (vocabulary_size, width)))
        self.dtype = dtype

    def __call__(self, tokens: Int[Array, "*N"]) -> Float[Array, "*N D"]:
        return jnp.take(self.embedding[...], tokens, axis=0, mode="clip").astype(self.dtype)

    def attend(self, x: Float[Array, "*N D"]) -> Float[Array, "*N V"]:
        table = self.embedding[...].astype(x.dtype)
        return jnp.einsum("...d,vd->...v", x, table, preferred_element_type=jnp.float32)


def combine(x: Array, positions: Array, how: Combination) -> Array:
    """Give vectors their position: `add` (widths equal) or `concat` (widths add up)."""
    if how == "add":
        return x + positions.astype(x.dtype)
    shape = (*x.shape[:-1], positions.shape[-1])
    return jnp.concatenate([x, jnp.broadcast_to(positions, shape).astype(x.dtype)], axis=-1)
