"""The Vision Transformer: as a classifier, and as the image encoder of an encoder-decoder."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from vitjax.models.vit_config import VisionTransformerConfig
from vitjax.nn.attention import padding_mask
from vitjax.nn.blocks import BlockOutput, EncoderBlock, TransformerConfig
from vitjax.nn.embeddings import PackedPatches, PatchEmbedding, combine
from vitjax.nn.norms import make_norm
from vitjax.nn.pooling import AttentionPooling, Pooled, mean_of
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
from vitjax.nn.token_merging import run_merging_blocks

Images = Float[Array, "B H W ch"] | PackedPatches


class Features(NamedTuple):
    """`tokens` [B, N, D] after the last norm; `pooled` [B, D] or None.

    If asked for, the weights `attention` [L, B, H, N, N] of the blocks and, of attention pooling, `pool_attention`
    [B, H, 1, N].
    """

    tokens: Array
    pooled: Array | None
    attention: Array | None = None
    pool_attention: Array | None = None


class Nudges(NamedTuple):
    """Of the weights in `Features`, each multiplied by 1 + nudge: see `MultiHeadAttention.attend`."""

    attention: Array
    pool_attention: Array | None = None


class RelativeBlock(EncoderBlock):
    """A block with a table of relative biases of its own."""

    def __init__(
        self,
        config: TransformerConfig,
        relative_bias: Callable[[nnx.Rngs], RelativeGridBias],
        *,
        rngs: nnx.Rngs,
    ):
        super().__init__(config, rngs=rngs)
        self.relative_bias = relative_bias(rngs)

    def __call__(  # type: ignore[override]  # the grid tells the bias
        self, x: Float[Array, "B N D"], *, grid: Grid, prefix: int, **options: Any
    ) -> BlockOutput:
        return super().__call__(x, bias=self.relative_bias(grid, prefix=prefix), **options)


class VisionTransformer(nnx.Module):
    """ViT (Dosovitskiy et al. 2021), with the variations of `VisionTransformerConfig`."""

    def __init__(self, config: VisionTransformerConfig, *, rngs: nnx.Rngs):
        t = config.transformer
        grid = config.grid(config.image_size)
        position_width = t.width // 2 if config.concatenated_positions else t.width
        self.patch_embedding = PatchEmbedding(
            config.channels,
            t.width - position_width if config.concatenated_positions else t.width,
            patch_size=config.patch_size,
            patch_stride=config.patch_stride,
            stem_widths=config.stem_widths,
            stem_strides=config.stem_strides,
            use_bias=config.patch_bias,
            dtype=t.dtype,
            rngs=rngs,
        )
        if config.has_learned_positions:
            self.positions = LearnedPositions(
                grid,
                position_width,
                prefix=config.prefix_positions,
                interpolation=config.position_interpolation,
                rngs=rngs,
            )

        def relative_bias(rngs: nnx.Rngs) -> RelativeGridBias:
            interpolation = config.relative_interpolation or config.position_interpolation
            return RelativeGridBias(
                grid, t.num_heads, prefix=config.relative_prefix, interpolation=interpolation, rngs=rngs
            )

        if config.has_relative_positions and config.relative_tables == "shared":
            self.relative_bias = relative_bias(rngs)
        for name, count in config.prefix_tokens:
            setattr(self, name, nnx.Param(nnx.initializers.normal(0.02)(rngs.params(), (1, count, t.width))))

        def norm() -> Any:
            return make_norm(t.norm, t.width, epsilon=t.norm_epsilon, dtype=t.dtype, rngs=rngs)

        if config.embedding_norm:
            self.embedding_norm = norm()

        def block(rngs: nnx.Rngs) -> EncoderBlock:
            if config.has_relative_positions and config.relative_tables == "layers":
                return RelativeBlock(t, relative_bias, rngs=rngs)
            return EncoderBlock(t, rngs=rngs)

        self.blocks: Any = stack_blocks(block, t.depth, rngs=rngs)
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
        if config.has_learned_positions:
            x = combine(x, self.positions(grid), config.embedding_combination)
        elif config.positions == "sinusoidal":
            x = combine(x, sinusoidal_grid(grid, self.position_width), config.embedding_combination)
        return self._behind_prefix(x, train=train), grid

    def embed_packed(
        self, patches: PackedPatches, *, train: bool
    ) -> tuple[Float[Array, "B N D"], Bool[Array, "B N"]]:
        """Patch vectors as `embed` makes them, and a mask that is False where a row is padded."""
        config = self.config
        if config.positions not in ("learned", "none") or config.stem_widths or config.patch_stride:
            raise ValueError(
                "packed patches need positions 'learned' or 'none' and patches side by side, without a stem: "
                f"positions are {config.positions!r}"
            )
        x = self.patch_embedding.packed(patches.pixels.astype(config.transformer.dtype))
        if config.has_learned_positions:
            x = combine(x, self.positions.packed(patches.grids, x.shape[1]), config.embedding_combination)
        mask = jnp.pad(patches.mask, ((0, 0), (config.prefix, 0)), constant_values=True)
        return self._behind_prefix(x, train=train), mask

    def _behind_prefix(self, x: Float[Array, "B P D"], *, train: bool) -> Float[Array, "B N D"]:
        config = self.config
        if config.prefix:
            tokens = [getattr(self, name)[...] for name, _ in config.prefix_tokens]
            prefix = jnp.concatenate(tokens, axis=1)  # [1, prefix, D]
            if config.prefix_positions:
                prefix = prefix.at[:, : config.prefix_positions].add(self.positions.prefix[...])
            prefix = jnp.broadcast_to(prefix, (x.shape[0], *prefix.shape[1:]))
            x = jnp.concatenate([prefix.astype(x.dtype), x], axis=1)
        return self.embedding_norm(x, train=train) if config.embedding_norm else x

    def resampled(self, image_size: tuple[int, int]) -> dict[str, Array]:
        """The parameters that depend on `config.image_size`, by path, made for another one; {} for the same grid."""
        config = self.config
        grid = config.grid(image_size)
        if grid == config.grid(config.image_size):
            return {}
        made: dict[str, Array] = {}
        if config.has_learned_positions:
            made["positions/embedding"] = self.positions(grid)
        if config.has_relative_positions and config.relative_tables == "shared":
            made["relative_bias/embedding"] = self.relative_bias.table(grid)
        elif config.has_relative_positions:
            tables = jax.vmap(lambda bias: bias.table(grid))(self.blocks.relative_bias)
            made["blocks/relative_bias/embedding"] = tables
        return made

    def features(
        self,
        images: Images,
        *,
        train: bool,
        key: Array | None = None,
        nudges: Nudges | None = None,
        return_attention: bool = False,
    ) -> Features:
        """What the encoder says of normalised images: of any size its patches divide, or of many sizes, packed.

        Tokens of padding stand where the padding was; merged ones are given out un-merged, and so is their attention.
        """
        config, t = self.config, self.config.transformer
        key_embed, key_blocks = split_key(key, 2)
        mask, options = None, {}
        if isinstance(images, PackedPatches):
            x, mask = self.embed_packed(images, train=train)
            options["mask"] = padding_mask(mask)
        else:
            x, grid = self.embed(images, train=train)
            options = self._attention_positions(grid)
        x = dropout(x, t.dropout, train=train, key=key_embed)
        run: Callable[..., BlockOutput] = run_blocks
        if config.merged_tokens:
            if mask is not None:
                raise ValueError("merged_tokens is for images of one size: packed patches are not merged")
            run = partial(run_merging_blocks, merged_tokens=config.merged_tokens, prefix=config.prefix)
        x, attention = run(
            self.blocks,
            x,
            config=t,
            train=train,
            key=key_blocks,
            nudges=None if nudges is None else nudges.attention,
            return_weights=return_attention,
            **options,
        )
        if self._normalizes("tokens"):
            x = self.norm(x, train=train)
        nudge = None if nudges is None else nudges.pool_attention
        pooled, pool_attention = self._pooled(
            x, mask, train=train, nudge=nudge, return_weights=return_attention
        )
        if pooled is not None and self._normalizes("pooled"):
            pooled = self.norm(pooled, train=train)
        if pooled is not None and config.pooler:
            pooled = jnp.tanh(self.pooler(pooled))
        return Features(x, pooled, attention, pool_attention)

    def _normalizes(self, what: str) -> bool:
        return self.config.transformer.norm_position == "pre" and self.config.final_norm == what

    def _attention_positions(self, grid: Grid) -> dict[str, Any]:
        """What tells the blocks of places."""
        config = self.config
        if config.positions == "rotary":
            rotation = rotary_grid(
                grid, config.transformer.head_width, base=config.rotary_base, unit=config.rotary_unit
            )
            return {"rotation": unrotated_prefix(rotation, config.prefix)}
        if not config.has_relative_positions:
            return {}
        if config.relative_tables == "layers":
            return {"grid": grid, "prefix": config.prefix}
        return {"bias": self.relative_bias(grid, prefix=config.prefix)}

    def _pooled(
        self,
        x: Float[Array, "B N D"],
        mask: Bool[Array, "B N"] | None,
        *,
        train: bool,
        nudge: Float[Array, "B H 1 N"] | None,
        return_weights: bool,
    ) -> Pooled:
        first = self.config.prefix
        patches, patch_mask = x[:, first:], None if mask is None else mask[:, first:]
        match self.config.pooling:
            case "cls":
                return Pooled((x[:, 0] + x[:, 1]) / 2 if self.config.distillation_head else x[:, 0])
            case "mean":
                return Pooled(mean_of(patches, patch_mask))
            case "cls_mean":
                return Pooled(jnp.concatenate([x[:, 0], mean_of(patches, patch_mask)], axis=-1))
            case "attention":
                return self.pool(x, mask=mask, train=train, nudge=nudge, return_weights=return_weights)
        return Pooled(None)

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

    def __call__(self, images: Images, *, train: bool, key: Array | None = None) -> Float[Array, "B classes"]:
        """Class logits in float32 of normalised images."""
        self._require_head()
        return self.classify(self.features(images, train=train, key=key))

    def classify(self, features: Features) -> Float[Array, "B classes"]:
        """Class logits in float32 of what `features` gave."""
        self._require_head()
        assert features.pooled is not None  # a head needs pooling: VisionTransformerConfig saw to it
        if self.config.distillation_head:
            logits = self.head(features.tokens[:, 0]), self.head_distillation(features.tokens[:, 1])
            return (logits[0] + logits[1]) / 2
        return self.head(features.pooled)

    def _require_head(self) -> None:
        if not self.config.num_classes:
            raise ValueError("this VisionTransformer has no head (num_classes=0): use .features")
