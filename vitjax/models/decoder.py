"""The masked Transformer decoder: all positions at once in training, one at a time in generation."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from vitjax.nn.attention import causal_mask, padding_mask
from vitjax.nn.blocks import DecoderBlock
from vitjax.nn.cache import CacheDtype, DecoderCache, write
from vitjax.nn.feedforward import Activation
from vitjax.nn.head import HeadTransform
from vitjax.nn.norms import make_norm
from vitjax.nn.positions import Rotation, rotary
from vitjax.nn.regularization import dropout, split_key
from vitjax.nn.sequence import SequenceConfig, SequenceEmbedding
from vitjax.nn.stack import layers, run_blocks, stack_blocks


@dataclass(frozen=True)
class DecoderConfig(SequenceConfig):
    """A decoder over token ids.

    Attributes:
      tie_embeddings: score tokens against their own embedding instead of a separate head.
      head_bias: whether each token's score has a bias; None: where the head is its own.
      head_transform: activation of one more layer before the scores (`HeadTransform`), or None.
      scale_head: divide the vectors that are scored by sqrt(D), as T5 does to use the vectors it embeds with.
      project_context: bring the context to width D by a layer of its own, before any block reads it.
      parallel_prediction: have a trained mask token, from which `TransformerDecoder` can predict all places at once.
    """

    tie_embeddings: bool = False
    head_bias: bool | None = None
    head_transform: Activation | None = None
    scale_head: bool = False
    project_context: bool = False
    parallel_prediction: bool = False
    kind: Literal["decoder"] = "decoder"

    def __post_init__(self):
        super().__post_init__()
        if self.tie_embeddings and self.embedding_combination == "concat":
            raise ValueError(
                "tie_embeddings needs embedding_combination 'add': 'concat' halves the token vectors"
            )
        if self.parallel_prediction and self.positions not in ("learned", "sinusoidal"):
            raise ValueError(
                f"parallel_prediction needs positions 'learned' or 'sinusoidal', not {self.positions!r}: mask tokens "
                "are all alike, and only a position added to them tells one place from another"
            )

    @property
    def biases_head(self) -> bool:
        """Whether each token's score has a bias."""
        return not self.tie_embeddings if self.head_bias is None else self.head_bias


class DecoderOutput(NamedTuple):
    """`logits` [B, T, V] float32; `attention` [L, B, H, T, S] over the context, None unless asked for."""

    logits: Array
    attention: Array | None


class TransformerDecoder(nnx.Module):
    """The decoder of Vaswani et al. (2017), with the variations of `TransformerConfig`.

    Args:
      context_width: features of the vectors it attends to.
    """

    def __init__(self, config: DecoderConfig, *, context_width: int, rngs: nnx.Rngs):
        t = config.transformer
        self.embedding = SequenceEmbedding(config, mask_token=config.parallel_prediction, rngs=rngs)
        if config.positions == "relative":
            self.relative_bias = config.relative_bias(bidirectional=False, rngs=rngs)
        if config.project_context:
            self.context_projection = nnx.Linear(
                context_width, t.width, dtype=jnp.dtype(t.dtype), param_dtype=jnp.float32, rngs=rngs
            )
            context_width = t.width
        self.blocks = stack_blocks(
            lambda r: DecoderBlock(t, context_width=context_width, rngs=r), t.depth, rngs=rngs
        )
        if t.norm_position == "pre":
            self.norm = make_norm(t.norm, t.width, epsilon=t.norm_epsilon, dtype=t.dtype, rngs=rngs)
        if config.head_transform is not None:
            self.head_transform = HeadTransform(t, config.head_transform, rngs=rngs)
        if not config.tie_embeddings:
            self.head = nnx.Linear(
                t.width,
                config.vocabulary_size,
                use_bias=config.biases_head,
                dtype=jnp.dtype(t.dtype),
                param_dtype=jnp.float32,
                preferred_element_type=jnp.float32,
                rngs=rngs,
            )
        elif config.biases_head:
            self.head_bias = nnx.Param(jnp.zeros(config.vocabulary_size))
        self.config = config

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        context: Float[Array, "B S E"],
        *,
        mask: Bool[Array, "B T"] | None = None,
        context_mask: Bool[Array, "B S"] | None = None,
        parallel: bool | Bool[Array, " B"] = False,
        train: bool,
        key: Array | None = None,
        return_attention: bool = False,
    ) -> DecoderOutput:
        """Logits of every next token in one pass: teacher-forced, or from the context alone.

        Args:
          mask: False at padding on either side of tokens that are read.
          parallel: rows (True: all of them) to predict in parallel, as CapPa does (Tschannen et al. 2023): they read a
            mask token in each place of the longest text, `max_length - 1` of them, with no causal mask. So their logits
            depend on neither `tokens` nor `mask`, nor on how many are asked for.
        """
        t = self.config.transformer
        key_embed, key_blocks = split_key(key, 2)
        asked = length = tokens.shape[1]
        rows = None
        if parallel is not False:
            length = self._parallel_places(asked)
            rows = jnp.broadcast_to(jnp.asarray(parallel), tokens.shape[0])
            fill = ((0, 0), (0, length - asked))
            tokens, mask = jnp.pad(tokens, fill), None if mask is None else jnp.pad(mask, fill)
        positions = jnp.arange(length)[None]
        visible = causal_mask(length)
        if mask is not None:
            positions = jnp.maximum(jnp.cumsum(mask, axis=1) - 1, 0)
            visible = visible & padding_mask(mask)
        if rows is not None:
            positions = jnp.where(rows[:, None], jnp.arange(length), positions)
            visible = visible | rows[:, None, None, None]
        x = self.embedding(tokens, positions, masked=rows, train=train)
        x = dropout(x, t.dropout, train=train, key=key_embed)
        x, attention = run_blocks(
            self.blocks,
            x,
            self._context(context),
            config=t,
            mask=visible,
            context_mask=None if context_mask is None else padding_mask(context_mask),
            bias=self._bias(jnp.arange(length), jnp.arange(length)),
            rotation=self._rotation(positions),
            train=train,
            key=key_blocks,
            return_weights=return_attention,
        )
        if attention is not None:
            attention = attention[..., :asked, :]
        return DecoderOutput(self._logits(x[:, :asked], train=train), attention)

    def init_cache(
        self,
        context: Float[Array, "B S E"],
        context_mask: Bool[Array, "B S"] | None = None,
        *,
        num_beams: int,
        max_length: int,
        dtype: CacheDtype | None = None,
        beam_axis: str | None = None,
    ) -> DecoderCache:
        """An empty cache for `num_beams` beams a row, with room for `max_length` positions, the prompt included.

        Args:
          dtype: what keys and values are kept in; None is the dtype of the arithmetic.
          beam_axis: mesh axis of the enclosing `jax.shard_map` over which the beams lie; None: all are here.
        """
        context = self._context(context)
        cross = [block.project_context(context) for block in self._layers()]
        return DecoderCache.create(
            cross, context_mask, num_beams=num_beams, max_length=max_length, dtype=dtype, beam_axis=beam_axis
        )

    def prefill(
        self, cache: DecoderCache, prompt: Int[Array, "B T"], mask: Bool[Array, "B T"] | None = None
    ) -> tuple[Float[Array, "B V"], DecoderCache]:
        """Read the prompt of each row, padded on the left where `mask` is False; logits of the next token."""
        length = prompt.shape[1]
        if mask is not None:
            cache = replace(cache, valid=cache.valid.at[:, :length].set(mask))
        x, cache = self._read(cache, prompt[:, None], beams=1)
        return self._logits(x[:, 0, -1], train=False), cache

    def step(
        self, cache: DecoderCache, tokens: Int[Array, "B k"]
    ) -> tuple[Float[Array, "B k V"], DecoderCache]:
        """Append one token to each beam; logits of the next."""
        x, cache = self._read(cache, tokens[:, :, None], beams=cache.ancestors.shape[1])
        return self._logits(x[:, :, 0], train=False), cache

    def extend(
        self, cache: DecoderCache, tokens: Int[Array, "B k T"]
    ) -> tuple[Float[Array, "B k T V"], DecoderCache]:
        """Append T tokens to each beam in one pass; logits of the next after each of them."""
        x, cache = self._read(cache, tokens, beams=cache.ancestors.shape[1])
        return self._logits(x, train=False), cache

    def _read(
        self, cache: DecoderCache, tokens: Int[Array, "B k T"], *, beams: int
    ) -> tuple[Float[Array, "B k T D"], DecoderCache]:
        """Read T tokens of each of so many beams, of which k are on this device."""
        batch, slots, length = tokens.shape
        room = cache.ancestors.shape[2]
        positions = jnp.tile(cache.positions(length), (1, slots))  # [B, kT]
        cache = cache.claim(beams, length)
        rows = (batch * slots, length)
        x = self.embedding(tokens.reshape(rows), positions.reshape(rows), train=False)
        bias = self._bias(cache.position + jnp.arange(length), jnp.arange(room))
        if bias is not None:
            bias = jnp.repeat(jnp.tile(bias, (1, 1, beams, 1)), cache.num_slots, axis=3)
        options: dict[str, Any] = dict(
            put=partial(write, position=cache.position, length=length, num_beams=cache.num_slots),
            visible=cache.visible(beams, length),
            context_mask=cache.context_mask,
            bias=bias,
            rotation=self._rotation(positions),
            beam_axis=None if beams == 1 else cache.beam_axis,
        )
        x = x.reshape(batch, slots * length, -1)
        written = []
        for block, layer in zip(self._layers(), cache.layers, strict=True):
            x, layer = block.extend(x, layer, **options)
            written.append(layer)
        x = x.reshape(batch, slots, length, -1)
        return x, replace(cache, layers=tuple(written)).advance(length)

    def _parallel_places(self, asked: int) -> int:
        """Mask tokens of a row predicted in parallel: always as many, since each changes what the others say."""
        if not self.config.parallel_prediction:
            raise ValueError(
                "this decoder has no mask token to predict in parallel from: it needs "
                "DecoderConfig(parallel_prediction=True), and training with train.parallel_fraction above 0"
            )
        places = self.config.max_length - 1
        if asked > places:
            raise ValueError(
                f"{asked} logits are asked for, but in parallel this decoder predicts max_length - 1 = {places}: "
                "raise max_length in the config, or shorten the texts"
            )
        return places

    def prepared(self) -> "TransformerDecoder":
        """The same decoder with its layers apart: sliced once before a loop of steps, not in each of them."""
        decoder = nnx.clone(self)
        decoder.blocks = nnx.List(self._layers())  # type: ignore[assignment]
        return decoder

    def _layers(self) -> list[DecoderBlock]:
        if isinstance(self.blocks, nnx.List):
            return list(self.blocks)
        return layers(self.blocks, self.config.transformer.depth)

    def _bias(self, query_positions: Array, key_positions: Array) -> Array | None:
        return (
            self.relative_bias(query_positions, key_positions)
            if self.config.positions == "relative"
            else None
        )

    def _rotation(self, positions: Array) -> Rotation | None:
        width = self.config.transformer.head_width
        return rotary(positions, width) if self.config.positions == "rotary" else None

    def _context(self, context: Float[Array, "B S E"]) -> Float[Array, "B S e"]:
        """What the blocks attend to."""
        return self.context_projection(context) if self.config.project_context else context

    def _logits(self, x: Float[Array, "... D"], *, train: bool) -> Float[Array, "... V"]:
        config = self.config
        if config.transformer.norm_position == "pre":
            x = self.norm(x, train=train)
        if config.head_transform is not None:
            x = self.head_transform(x, train=train)
        if config.scale_head:
            x = x * config.transformer.width**-0.5
        if not config.tie_embeddings:
            return self.head(x)
        scores = self.embedding.tokens.attend(x)
        return scores + self.head_bias[...] if config.biases_head else scores
