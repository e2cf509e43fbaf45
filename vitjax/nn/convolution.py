"""Convolutions before and instead of patches; sizes and paddings are torchvision's, so that its weights fit."""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vitjax.nn.norms import BatchNorm

ResidualKind = Literal["basic", "bottleneck"]

# Features that a block gives, in units of its width (He et al. 2016, table 1).
EXPANSION: dict[ResidualKind, int] = {"basic": 1, "bottleneck": 4}


def convolution(
    inputs: int, outputs: int, size: int, *, stride: int = 1, dtype: str = "float32", rngs: nnx.Rngs
) -> nnx.Conv:
    """A square convolution without bias, since a norm follows.

    It is padded alike on all sides; "SAME" would pad an even image that is halved on one side only. From [B, H, W, D]
    to [B, ceil(H / stride), ceil(W / stride), E].
    """
    return nnx.Conv(
        inputs,
        outputs,
        (size, size),
        strides=stride,
        padding=size // 2,
        use_bias=False,
        # He et al. 2015: keeps the variance of what flows back through a ReLU.
        kernel_init=nnx.initializers.variance_scaling(2.0, "fan_out", "normal"),
        dtype=jnp.dtype(dtype),
        param_dtype=jnp.float32,
        rngs=rngs,
    )


class ConvStem(nnx.Module):
    """3x3 convolutions, each with BatchNorm and ReLU, before the patches (Xiao et al. 2021, "Early convolutions").

    Each entry of `widths` is one convolution; a stride of 2 halves the image. What it is worth on small images is in
    docs/recipes.md.
    """

    def __init__(
        self,
        channels: int,
        widths: tuple[int, ...],
        strides: tuple[int, ...],
        *,
        dtype: str = "float32",
        rngs: nnx.Rngs,
    ):
        if len(widths) != len(strides):
            raise ValueError(f"stem_widths {widths} and stem_strides {strides} must have equal length")
        for i, (width, stride) in enumerate(zip(widths, strides, strict=True)):
            setattr(self, f"conv{i}", convolution(channels, width, 3, stride=stride, dtype=dtype, rngs=rngs))
            setattr(self, f"norm{i}", BatchNorm(width, dtype=dtype, rngs=rngs))
            channels = width
        self.depth = len(widths)

    def __call__(self, images: Float[Array, "B H W ch"], *, train: bool) -> Float[Array, "B h w E"]:
        x = images
        for i in range(self.depth):
            x = getattr(self, f"norm{i}")(getattr(self, f"conv{i}")(x), train=train)
            x = jax.nn.relu(x)
        return x


class ResidualBlock(nnx.Module):
    """relu(shortcut(x) + branch(x)) (He et al. 2016), every convolution followed by BatchNorm.

    The branch of `basic` is two 3x3 convolutions, of `bottleneck` 1x1, 3x3, 1x1. The first 3x3 has the stride ("v1.5",
    as in torchvision and timm), or the first of all, as in the paper. The last norm starts at zero (Goyal et al. 2017),
    so that a block begins as its shortcut: x itself where shapes agree, else a strided 1x1 convolution and a norm.

    Args:
      inputs: features that come in.
      width: features inside; `EXPANSION[kind] * width` go out.
      stride_first: give the stride to a bottleneck's first 1x1.
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        *,
        kind: ResidualKind,
        stride: int = 1,
        stride_first: bool = False,
        dtype: str = "float32",
        rngs: nnx.Rngs,
    ):
        early, late = (stride, 1) if stride_first else (1, stride)
        outputs = EXPANSION[kind] * width
        shapes: dict[ResidualKind, tuple[tuple[int, int, int], ...]] = {
            "basic": ((3, width, stride), (3, outputs, 1)),
            "bottleneck": ((1, width, early), (3, width, late), (1, outputs, 1)),
        }
        self.depth = len(shapes[kind])
        features = inputs
        for i, (size, out, step) in enumerate(shapes[kind], start=1):
            setattr(self, f"conv{i}", convolution(features, out, size, stride=step, dtype=dtype, rngs=rngs))
            norm = BatchNorm(out, zero_scale=i == self.depth, dtype=dtype, rngs=rngs)
            setattr(self, f"norm{i}", norm)
            features = out
        self.projects = stride != 1 or inputs != outputs
        if self.projects:
            self.conv_shortcut = convolution(inputs, outputs, 1, stride=stride, dtype=dtype, rngs=rngs)
            self.norm_shortcut = BatchNorm(outputs, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "B H W D"], *, train: bool) -> Float[Array, "B h w E"]:
        branch = x
        for i in range(1, self.depth + 1):
            branch = getattr(self, f"norm{i}")(getattr(self, f"conv{i}")(branch), train=train)
            if i < self.depth:
                branch = jax.nn.relu(branch)
        shortcut = self.norm_shortcut(self.conv_shortcut(x), train=train) if self.projects else x
        return jax.nn.relu(shortcut + branch)
