"""The residual network: the convolutional baseline, and an image encoder for decoders with attention."""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from vitjax.models.vit import Features
from vitjax.nn.convolution import EXPANSION, ResidualBlock, ResidualKind, convolution
from vitjax.nn.norms import BatchNorm
from vitjax.nn.positions import Grid

# kind and number of blocks of each stage (He et al. 2016, table 1)
SIZES: dict[str, tuple[ResidualKind, tuple[int, ...]]] = {
    "18": ("basic", (2, 2, 2, 2)),
    "34": ("basic", (3, 4, 6, 3)),
    "50": ("bottleneck", (3, 4, 6, 3)),
    "101": ("bottleneck", (3, 4, 23, 3)),
    "152": ("bottleneck", (3, 8, 36, 3)),
}


@dataclass(frozen=True)
class ResNetConfig:
    """A residual network. Its first stage keeps the size of what the stem leaves, each later one halves it.

    Attributes:
      depths, widths: residual blocks of each stage, and the width inside them.
      block: `basic` blocks give `width` features, `bottleneck` blocks four times as many.
      stem: `imagenet` is a 7x7 convolution of stride 2 and a max pooling of stride 2; `small`, for images of 64 pixels
        and less, one 3x3 convolution of stride 1 (He et al. 2016, 4.2, on CIFAR-10).
      stem_width: features of the stem; None is the first of `widths`.
      halve_first_stage: the first stage halves too.
      stride_first: a bottleneck halves in its first convolution (He et al. 2016), not in its 3x3 one ("v1.5").
      num_classes: 0 means no head.
      dtype: of the arithmetic; parameters and running statistics stay float32.
    """

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    block: ResidualKind = "basic"
    stem: Literal["imagenet", "small"] = "imagenet"
    stem_width: int | None = None
    halve_first_stage: bool = False
    stride_first: bool = False
    channels: int = 3
    num_classes: int = 0
    dtype: Literal["float32", "bfloat16"] = "float32"
    kind: Literal["resnet"] = "resnet"

    @classmethod
    def standard(cls, variant: str, **options: Any) -> "ResNetConfig":
        """ResNet-18, -34, -50, -101 or -152, such as `standard("50", num_classes=1000)`; `options` are fields."""
        if variant not in SIZES:
            raise ValueError(f"no variant {variant!r}: write one of {', '.join(SIZES)}")
        block, depths = SIZES[variant]
        return cls(**{"depths": depths, "widths": (64, 128, 256, 512), "block": block, **options})

    def __post_init__(self):
        if len(self.depths) != len(self.widths) or not self.depths or min(self.depths) < 1:
            raise ValueError(
                f"depths {self.depths} and widths {self.widths}: each stage needs a depth >= 1 and a width"
            )

    @property
    def output_width(self) -> int:
        """Features of each token."""
        return EXPANSION[self.block] * self.widths[-1]

    @property
    def stem_features(self) -> int:
        """Features that the stem gives."""
        return self.stem_width or self.widths[0]

    @property
    def stage_strides(self) -> tuple[int, ...]:
        """Stride of the first block of each stage."""
        return (2 if self.halve_first_stage else 1, *([2] * (len(self.depths) - 1)))

    @property
    def prefix(self) -> int:
        """Number of tokens before those of the grid: none."""
        return 0

    def grid(self, image_size: tuple[int, int]) -> Grid:
        """Rows and columns of the last feature map, whose cells are the tokens, row by row."""
        halvings = len(self.depths) - (not self.halve_first_stage) + (2 if self.stem == "imagenet" else 0)
        rows, columns = (-(-pixels // 2**halvings) for pixels in image_size)
        return rows, columns

    def build(self, *, rngs: nnx.Rngs) -> "ResNet":
        return ResNet(self, rngs=rngs)


class ResNet(nnx.Module):
    """ResNet (He et al. 2016), by default with the strides of torchvision ("v1.5").

    Blocks are not stacked and scanned as a Transformer's are: on CPU, XLA's gradient of a convolution inside a loop
    takes 50 times as long. No part of it draws random numbers, so every `key` may be None.
    """

    def __init__(self, config: ResNetConfig, *, rngs: nnx.Rngs):
        common: dict[str, Any] = dict(dtype=config.dtype, rngs=rngs)
        imagenet = config.stem == "imagenet"
        features = config.stem_features
        self.conv_stem = convolution(
            config.channels, features, 7 if imagenet else 3, stride=2 if imagenet else 1, **common
        )
        self.norm_stem = BatchNorm(features, **common)
        for name, width, stride in _blocks(config):
            block = ResidualBlock(
                features,
                width,
                kind=config.block,
                stride=stride,
                stride_first=config.stride_first,
                **common,
            )
            setattr(self, name, block)
            features = EXPANSION[config.block] * width
        if config.num_classes:
            self.head = nnx.Linear(
                features,
                config.num_classes,
                kernel_init=nnx.initializers.zeros,
                dtype=jnp.dtype(config.dtype),
                param_dtype=jnp.float32,
                rngs=rngs,
            )
        self.config = config

    def features(
        self, images: Float[Array, "B H W ch"], *, train: bool, key: Array | None = None
    ) -> Features:
        """The last feature map of normalised images of any size, its cells as tokens, and their mean."""
        tokens = self._tokens(images, train=train)
        return Features(tokens, jnp.mean(tokens, axis=1))

    def _tokens(self, images: Float[Array, "B H W ch"], *, train: bool) -> Float[Array, "B N D"]:
        x = jax.nn.relu(self.norm_stem(self.conv_stem(images.astype(self.config.dtype)), train=train))
        if self.config.stem == "imagenet":
            x = nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        for name, _, _ in _blocks(self.config):
            x = getattr(self, name)(x, train=train)  # [B, h, w, D]
        return x.reshape(x.shape[0], -1, x.shape[-1])

    def encode(
        self,
        images: Float[Array, "B H W ch"],
        *,
        source_mask: Bool[Array, "B S"] | None = None,
        train: bool,
        key: Array | None = None,
    ) -> tuple[Float[Array, "B S D"], None]:
        """Tokens for a decoder to attend to; images have no padding, so `source_mask` must be None."""
        if source_mask is not None:
            raise ValueError("an image encoder takes no source_mask")
        return self._tokens(images, train=train), None

    def __call__(
        self, images: Float[Array, "B H W ch"], *, train: bool, key: Array | None = None
    ) -> Float[Array, "B classes"]:
        """Class logits in float32 of normalised images."""
        if not self.config.num_classes:
            raise ValueError("this ResNet has no head (num_classes=0): use .features")
        pooled = jnp.mean(self._tokens(images, train=train), axis=1)  # [B, D]
        return self.head(pooled).astype(jnp.float32)


def _blocks(config: ResNetConfig) -> list[tuple[str, int, int]]:
    """Name, width and stride of every block, in order."""
    return [
        (f"stage{stage}_block{i}", width, stride if i == 0 else 1)
        for stage, (depth, width, stride) in enumerate(
            zip(config.depths, config.widths, config.stage_strides, strict=True), start=1
        )
        for i in range(depth)
    ]
