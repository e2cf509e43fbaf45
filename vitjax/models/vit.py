"""The Vision Transformer: as a classifier, and as the image encoder of an encoder-decoder."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from vitjax.nn.blocks import EncoderBlock, TransformerConfig
from vitjax.nn.embeddings import Combination, PatchEmbedding, PositionKind, combine, patch_grid
from vitjax.nn.interpolation import Interpolation
from vitjax.nn.norms import make_norm
from vitjax.nn.pooling import AttentionPooling, Pooling
from vitjax.nn.positions import (
    Grid,
    LearnedPositions,
    RelativeGridBias,
    rotary_grid,
    sinusoidal_grid,
    unrotated_prefix,
)
from vitjax.nn.regularization import dropout, split_key
from vitjax.nn.stack import run_blocks, stack_blocks

# width, depth, feed-forward width, heads (Dosovitskiy et al. 2021; Zhai et al. 2022; Alabdulmohsin et al. 2023)
SIZES = {
    "Ti": (192, 12, 768, 3),
    "S": (384, 12, 1536, 6),
    "B": (768, 12, 3072, 12),
    "L": (1024, 24, 4096, 16),
    "H": (1280, 32, 5120, 16),
    "So400m": (1152, 27, 4304, 16),
    "g": (1408, 40, 6144, 16),
    "G": (1664, 48, 8192, 16),
}


class Features(NamedTuple):
    """`tokens` [B, N, D] after the last norm; `pooled` [B, D] or None; `attention` [L, B, H, N, N] if asked for."""

    tokens: Array
    pooled: Array | None
    attention: Array | None = None


@dataclass(frozen=True)
class VisionTransformerConfig:
    """A Vision Transformer.

    Attributes:
      image_size: rows and columns the positions are made for; other sizes are interpolated to.
      positions: `rotary` and `relative` act inside attention, the others on the patch vectors.
      position_interpolation: how learned positions and relative biases are made for another image size.
      prefix_positions: how many of the tokens before the patches have a learned position of their own.
      patch_size, patch_stride, patch_bias, stem_widths, stem_strides: see `PatchEmbedding`.
      class_token, distillation_token, registers: extra tokens before the patches, in this order (Touvron et al. 2021,
        DeiT, for the second, Darcet et al. 2024 for registers).
      embedding_norm: normalise what enters the first block (Radford et al. 2021, CLIP).
      final_norm: of pre-norm blocks, what the last norm is for: all tokens, or only what was pooled.
      pooling: what the head reads; `none` for an encoder without a head.
      pooler: send what was pooled through a linear layer and tanh (BERT's pooler).
      num_classes: 0 means no head.
      head_use_bias, head_bias: whether the head has a bias, and its start; -log(num_classes) suits sigmoid losses.
      distillation_head: a second head reads the distillation token; logits are the mean of the two, and what is pooled
        that of the two tokens (DeiT).
    """

    transformer: TransformerConfig
    image_size: tuple[int, int]
    patch_size: tuple[int, int]
    num_classes: int = 0
    channels: int = 3
    patch_stride: tuple[int, int] | None = None
    stem_widths: tuple[int, ...] = ()
    stem_strides: tuple[int, ...] = ()
    patch_bias: bool = True
    positions: PositionKind = "learned"
    position_interpolation: Interpolation = "bicubic"
    prefix_positions: int = 0
    embedding_combination: Combination = "add"
    class_token: bool = False
    distillation_token: bool = False
    registers: int = 0
    embedding_norm: bool = False
    final_norm: Literal["tokens", "pooled"] = "tokens"
    pooling: Pooling = "mean"
    pooler: bool = False
    head_use_bias: bool = True
    head_bias: float = 0.0
    distillation_head: bool = False
    kind: Literal["vision_transformer"] = "vision_transformer"

    @classmethod
    def standard(
        cls, variant: str, *, transformer: dict[str, Any] | None = None, **options: Any
    ) -> "VisionTransformerConfig":
        """A standard size and patch, such as `standard("B/16", num_classes=1000)`, at 224 pixels unless told.

        Args:
          variant: one of Ti, S, B, L, H, So400m, g, G, a slash, and the patch in pixels.
          transformer: fields of `TransformerConfig` to change, `options` those of this class.
        """
        size, _, patch = variant.partition("/")
        if size not in SIZES or not patch.isdigit():
            raise ValueError(
                f"no variant {variant!r}: write one of {', '.join(SIZES)}, a slash and a patch, as S/16"
            )
        width, depth, feed_forward_width, num_heads = SIZES[size]
        config = TransformerConfig(width, depth, num_heads, feed_forward_width)
        options = {"image_size": (224, 224), "patch_size": (int(patch), int(patch)), **options}
        return cls(transformer=replace(config, **(transformer or {})), **options)

    def __post_init__(self):
        if self.pooling in ("cls", "cls_mean") and not self.class_token:
            raise ValueError(f"pooling {self.pooling!r} needs class_token=True")
        if self.pooling == "cls_mean" and self.final_norm == "pooled":
            raise ValueError("pooling 'cls_mean' is twice as wide as the norm: it needs final_norm 'tokens'")
        if self.distillation_head and (
            not (self.distillation_token and self.num_classes)
            or (self.pooling, self.final_norm, self.pooler) != ("cls", "tokens", False)
        ):
            raise ValueError(
                "distillation_head needs num_classes, distillation_token=True, pooling 'cls', final_norm 'tokens' and "
                "no pooler"
            )
        if self.prefix_positions > (self.prefix if self.positions == "learned" else 0):
            raise ValueError(
                f"prefix_positions {self.prefix_positions}: there are {self.prefix} tokens before the patches, and "
                f"positions are {self.positions!r}"
            )
        if len(self.stem_widths) != len(self.stem_strides):
            raise ValueError(
                f"stem_widths {self.stem_widths} and stem_strides {self.stem_strides} must have equal length"
            )
        if self.pooling == "none" and (self.num_classes or self.pooler):
            raise ValueError(
                f"{self.num_classes} classes and pooler={self.pooler}: pooling 'none' leaves them nothing to read"
            )

    @property
    def prefix(self) -> int:
        """Number of tokens before the patches."""
        return int(self.class_token) + int(self.distillation_token) + self.registers

    @property
    def prefix_tokens(self) -> list[tuple[str, int]]:
        """Name and number of each kind of token before the patches, in order."""
        counts = {
            "class_token": int(self.class_token),
            "distillation_token": int(self.distillation_token),
            "registers": self.registers,
        }
        return [(name, count) for name, count in counts.items() if count]

    def grid(self, image_size: tuple[int, int]) -> Grid:
        return patch_grid(image_size, self.patch_size, self.patch_stride, self.stem_strides)

    @property
    def output_width(self) -> int:
        """Features of the vectors a decoder attends to."""
        return self.transformer.width

    def build(self, *, rngs: nnx.Rngs) -> "VisionTransformer":
        return VisionTransformer(self, rngs=rngs)


class VisionTransformer(nnx.Module):
    """ViT (Dosovitskiy et al. 2021), with the variations of `VisionTransformerConfig`."""

    def __init__(self, config: VisionTransformerConfig, *, rngs: nnx.Rngs):
        t = config.transformer
        grid = config.grid(config.image_size)
        concat = config.embedding_combination == "concat" and config.positions in ("sinusoidal", "learned")
        position_width = t.width // 2 if concat else t.width
        self.patch_embedding = PatchEmbedding(
            config.channels,
            t.width - position_width if concat else t.width,
            patch_size=config.patch_size,
            patch_stride=config.patch_stride,
            stem_widths=config.stem_widths,
            stem_strides=config.stem_strides,
            use_bias=config.patch_bias,
            dtype=t.dtype,
            rngs=rngs,
        )
        if config.positions == "learned":
            self.positions = LearnedPositions(
                grid,
                position_width,
                prefix=config.prefix_positions,
                interpolation=config.position_interpolation,
                rngs=rngs,
            )
        if config.positions == "relative":
            self.relative_bias = RelativeGridBias(
                grid, t.num_heads, interpolation=config.position_interpolation, rngs=rngs
            )
        for name, count in config.prefix_tokens:
            setattr(self, name, nnx.Param(nnx.initializers.normal(0.02)(rngs.params(), (1, count, t.width))))

        def norm() -> Any:
            return make_norm(t.norm, t.width, epsilon=t.norm_epsilon, dtype=t.dtype, rngs=rngs)

        if config.embedding_norm:
            self.embedding_norm = norm()
        self.blocks = stack_blocks(lambda r: EncoderBlock(t, rngs=r), t.depth, rngs=rngs)
        if t.norm_position == "pre":
            self.norm = norm()
        if config.pooling == "attention":
            self.pool = AttentionPooling(t, rngs=rngs)

        linear = partial(nnx.Linear, dtype=jnp.dtype(t.dtype), param_dtype=jnp.float32, rngs=rngs)
        pooled_width = t.width * (2 if config.pooling == "cls_mean" else 1)
        if config.pooler:
            self.pooler = linear(pooled_width, pooled_width)

        def head() -> nnx.Linear:
            return linear(
                pooled_width,
                config.num_classes,
                use_bias=config.head_use_bias,
                kernel_init=nnx.initializers.zeros,
                bias_init=nnx.initializers.constant(config.head_bias),
                preferred_element_type=jnp.float32,
            )

        if config.num_classes:
            self.head = head()
        if config.distillation_head:
            self.head_distillation = head()
        self.position_width = position_width
        self.config = config

    def embed(self, images: Float[Array, "B H W ch"], *, train: bool) -> tuple[Float[Array, "B N D"], Grid]:
        """Patch vectors with their positions behind class token and registers, and the grid of patches."""
        config = self.config
        _, rows, columns, _ = images.shape
        grid = config.grid((rows, columns))
        x = self.patch_embedding(images.astype(config.transformer.dtype), train=train)
        x = x.reshape(x.shape[0], grid[0] * grid[1], x.shape[-1])
        if config.positions == "learned":
            x = combine(x, self.positions(grid), config.embedding_combination)
        elif config.positions == "sinusoidal":
            x = combine(x, sinusoidal_grid(grid, self.position_width), config.embedding_combination)
        if config.prefix:
            tokens = [getattr(self, name)[...] for name, _ in config.prefix_tokens]
            prefix = jnp.concatenate(tokens, axis=1)  # [1, prefix, D]
            if config.prefix_positions:
                prefix = prefix.at[:, : config.prefix_positions].add(self.positions.prefix[...])
            prefix = jnp.broadcast_to(prefix, (x.shape[0], *prefix.shape[1:]))
            x = jnp.concatenate([prefix.astype(x.dtype), x], axis=1)
        return (self.embedding_norm(x, train=train) if config.embedding_norm else x), grid

    def features(
        self,
        images: Float[Array, "B H W ch"],
        *,
        train: bool,
        key: Array | None = None,
        return_attention: bool = False,
    ) -> Features:
        """What the encoder says of normalised images of any size its patches divide."""
        config, t = self.config, self.config.transformer
        key_embed, key_blocks = split_key(key, 2)
        x, grid = self.embed(images, train=train)
        x = dropout(x, t.dropout, train=train, key=key_embed)
        options: dict[str, Any] = {}
        if config.positions == "relative":
            options["bias"] = self.relative_bias(grid, prefix=config.prefix)
        elif config.positions == "rotary":
            options["rotation"] = unrotated_prefix(rotary_grid(grid, t.head_width), config.prefix)
        x, attention = run_blocks(
            self.blocks, x, config=t, train=train, key=key_blocks, return_weights=return_attention, **options
        )
        if self._normalizes("tokens"):
            x = self.norm(x, train=train)
        pooled = self._pooled(x, train=train)
        if pooled is not None and self._normalizes("pooled"):
            pooled = self.norm(pooled, train=train)
        if pooled is not None and config.pooler:
            pooled = jnp.tanh(self.pooler(pooled))
        return Features(x, pooled, attention)

    def _normalizes(self, what: str) -> bool:
        return self.config.transformer.norm_position == "pre" and self.config.final_norm == what

    def _pooled(self, x: Float[Array, "B N D"], *, train: bool) -> Float[Array, "B E"] | None:
        match self.config.pooling:
            case "cls":
                return (x[:, 0] + x[:, 1]) / 2 if self.config.distillation_head else x[:, 0]
            case "mean":
                return jnp.mean(x[:, self.config.prefix :], axis=1)
            case "cls_mean":
                return jnp.concatenate([x[:, 0], jnp.mean(x[:, self.config.prefix :], axis=1)], axis=-1)
            case "attention":
                return self.pool(x, train=train)
        return None

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
        return self.features(images, train=train, key=key).tokens, None

    def __call__(
        self, images: Float[Array, "B H W ch"], *, train: bool, key: Array | None = None
    ) -> Float[Array, "B classes"]:
        """Class logits in float32 of normalised images."""
        if not self.config.num_classes:
            raise ValueError("this VisionTransformer has no head (num_classes=0): use .features")
        features = self.features(images, train=train, key=key)
        assert features.pooled is not None  # a head needs pooling: VisionTransformerConfig saw to it
        if self.config.distillation_head:
            logits = self.head(features.tokens[:, 0]), self.head_distillation(features.tokens[:, 1])
            return (logits[0] + logits[1]) / 2
        return self.head(features.pooled)
