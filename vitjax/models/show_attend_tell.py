"""Show, Attend and Tell: a recurrent decoder that looks at one part of an image after another."""

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx, struct
from jaxtyping import Array, Bool, Float, Int

from vitjax.models.decoder import DecoderOutput
from vitjax.models.encoder_decoder import Encoded
from vitjax.models.resnet import ResNetConfig
from vitjax.models.vit import VisionTransformerConfig
from vitjax.nn.attention import additive_weights, padding_mask
from vitjax.nn.beam_parallel import all_beams, own_beams, share_of
from vitjax.nn.cache import CacheDtype
from vitjax.nn.embeddings import TokenEmbedding
from vitjax.nn.recurrent import LSTMCell, LSTMState, keep_where
from vitjax.nn.regularization import dropout, split_key


@dataclass(frozen=True)
class ShowAttendTellConfig:
    """An image encoder, and an LSTM decoder with soft attention to its features.

    Attributes:
      width, embedding_width, attention_width: of the LSTM's state, the token vectors and the attention's hidden layer.
      dropout: on the token vectors and before the head (Zaremba et al. 2014: not on what recurs).
      dtype: of the decoder's arithmetic; parameters, softmax and the LSTM's memory stay float32.
    """

    encoder: ResNetConfig | VisionTransformerConfig
    vocabulary_size: int
    width: int
    embedding_width: int
    attention_width: int
    dropout: float = 0.0
    dtype: Literal["float32", "bfloat16"] = "float32"
    kind: Literal["show_attend_tell"] = "show_attend_tell"

    def build(self, *, rngs: nnx.Rngs) -> "ShowAttendTell":
        return ShowAttendTell(self, rngs=rngs)


class Context(NamedTuple):
    """What the decoder looks at, prepared once for all steps and beams.

    Attributes:
      values: the encoder's features.
      keys: their part of the attention's hidden layer.
      mask: True where a feature is real, or None.
    """

    values: Float[Array, "B S D"]
    keys: Float[Array, "B S 1 A"]
    mask: Bool[Array, "B S"] | None


@struct.dataclass
class RecurrentCache:
    """The decoder's cache: a state [B, K, W] for each beam, and the context they share.

    `position` is the number of positions written, `beam_axis` the mesh axis over which the states lie, the same number
    on each device; None: all are here.
    """

    context: Context
    state: LSTMState
    position: Int[Array, ""]
    beam_axis: str | None = struct.field(pytree_node=False, default=None)

    def reorder(self, parents: Int[Array, "B K"]) -> "RecurrentCache":
        """Let beam k continue what beam `parents[b, k]` was."""
        parents = own_beams(parents, self.beam_axis)[:, :, None]  # [B, k, 1]

        def move(leaf: Array) -> Array:
            return jnp.take_along_axis(all_beams(leaf, self.beam_axis), parents, axis=1)

        return replace(self, state=jax.tree.map(move, self.state))

    def mark(self) -> tuple[LSTMState, Array]:
        """All that changes from token to token."""
        return self.state, self.position

    def restore(self, mark: tuple[LSTMState, Array]) -> "RecurrentCache":
        """Forget the tokens read since `mark()`."""
        state, position = mark
        return replace(self, state=state, position=position)

    def grow(self, max_length: int) -> "RecurrentCache":
        """A state of fixed size has room for everything."""
        return self


class Glimpse(NamedTuple):
    """What one step saw: `vector` [B, K, D], gated, and the `weights` [B, K, S] it was made with."""

    vector: Array
    weights: Array


class ShowAttendTell(nnx.Module):
    """Show, Attend and Tell with soft attention (Xu et al. 2015).

    At each step the last hidden state h chooses a mean of the image's features z = beta(h) * sum_s alpha_s(h) a_s by
    additive attention; the LSTM reads z and the last token; a deep output layer scores the next token from the new h, z
    and the last token (eq. 7, with the tanh of the authors' program).

    All that does not wait for the last step is done for all steps at once: projections of features and tokens before
    the loop, the output layer after it.
    """

    def __init__(self, config: ShowAttendTellConfig, *, rngs: nnx.Rngs):
        def linear(inputs: int, outputs: int, use_bias: bool = True) -> nnx.Linear:
            return nnx.Linear(
                inputs,
                outputs,
                use_bias=use_bias,
                dtype=jnp.dtype(config.dtype),
                param_dtype=jnp.float32,
                rngs=rngs,
            )

        def scores(inputs: int) -> nnx.LinearGeneral:
            return nnx.LinearGeneral(
                inputs,
                (1, config.attention_width),
                dtype=jnp.dtype(config.dtype),
                param_dtype=jnp.float32,
                rngs=rngs,
            )

        features, width, embedding = config.encoder.output_width, config.width, config.embedding_width
        self.encoder = config.encoder.build(rngs=rngs)
        self.embedding = TokenEmbedding(config.vocabulary_size, embedding, dtype=config.dtype, rngs=rngs)
        self.initial_hidden = linear(features, width)
        self.initial_cell = linear(features, width)
        self.query = scores(width)
        self.key = scores(features)
        self.score_kernel = nnx.Param(
            nnx.initializers.lecun_normal(-1, -2)(rngs.params(), (1, config.attention_width))
        )
        self.beta = linear(width, 1)
        self.cell = LSTMCell(embedding, width, dtype=config.dtype, rngs=rngs)
        self.cell_context = linear(features, 4 * width, use_bias=False)
        self.output_hidden = linear(width, embedding)
        self.output_context = linear(features, embedding, use_bias=False)
        self.head = linear(embedding, config.vocabulary_size)
        self.config = config

    max_source_length = None
    max_target_length = None

    def encode(
        self,
        source: Array,
        *,
        source_mask: Bool[Array, "B S"] | None = None,
        train: bool,
        key: Array | None = None,
    ) -> Encoded:
        return Encoded(*self.encoder.encode(source, source_mask=source_mask, train=train, key=key))

    def decode(
        self,
        encoded: Encoded,
        decoder_tokens: Int[Array, "B T"],
        *,
        decoder_mask: Bool[Array, "B T"] | None = None,
        train: bool,
        key: Array | None = None,
        return_attention: bool = False,
    ) -> DecoderOutput:
        """Teacher-forced logits of every next token, and where the decoder looked [1, B, 1, T, S] to find it.

        `decoder_mask` is False at padding on either side, which leaves the state untouched.
        """
        context, state = self._start(encoded)
        key_embed, key_output = split_key(key, 2)
        tokens = self._embed(decoder_tokens, train=train, key=key_embed)  # [B, T, E]
        hidden, vectors, weights, _ = self._run(
            context, tokens, state, decoder_mask, return_weights=return_attention
        )
        logits = self._logits(hidden, vectors, tokens, train=train, key=key_output)
        return DecoderOutput(logits, weights)

    def __call__(
        self,
        source: Array,
        decoder_tokens: Int[Array, "B T"],
        *,
        source_mask: Bool[Array, "B S"] | None = None,
        train: bool,
        key: Array | None = None,
    ) -> Float[Array, "B T V"]:
        key_encoder, key_decoder = split_key(key, 2)
        encoded = self.encode(source, source_mask=source_mask, train=train, key=key_encoder)
        return self.decode(encoded, decoder_tokens, train=train, key=key_decoder).logits

    def prepared(self) -> "ShowAttendTell":
        return self

    def init_cache(
        self,
        encoded: Encoded,
        *,
        num_beams: int,
        max_length: int,
        dtype: CacheDtype | None = None,
        beam_axis: str | None = None,
    ) -> RecurrentCache:
        """A cache for `num_beams` beams a row; its size does not depend on `max_length`.

        Raises:
          ValueError: a `dtype` is asked for: there are no keys and values of past tokens to keep in it.
        """
        if dtype is not None:
            raise ValueError(
                f"cache_dtype={dtype!r}: a recurrent decoder keeps a state of fixed size and no keys of past tokens; "
                "leave cache_dtype out"
            )
        context, state = self._start(encoded)
        state = _beams(state, share_of(num_beams, beam_axis))
        return RecurrentCache(context, state, jnp.int32(0), beam_axis)

    def prefill(
        self, cache: RecurrentCache, prompt: Int[Array, "B T"], prompt_mask: Bool[Array, "B T"] | None = None
    ) -> tuple[Float[Array, "B V"], RecurrentCache]:
        """Read the prompt of each row, padded on the left where `prompt_mask` is False; logits of the next token."""
        num_beams = cache.state.hidden.shape[1]
        tokens = self._embed(prompt, train=False)  # [B, T, E]
        # All beams of a row still stand at the same place.
        state = jax.tree.map(lambda leaf: leaf[:, :1], cache.state)
        hidden, vectors, _, state = self._run(cache.context, tokens, state, prompt_mask, return_weights=False)
        logits = self._logits(hidden[:, -1], vectors[:, -1], tokens[:, -1], train=False)
        cache = replace(cache, state=_beams(state, num_beams), position=cache.position + prompt.shape[1])
        return logits, cache

    def step(
        self, cache: RecurrentCache, tokens: Int[Array, "B K"]
    ) -> tuple[Float[Array, "B K V"], RecurrentCache]:
        """Append one token to each beam; logits of the next."""
        embedded = self._embed(tokens, train=False)  # [B, K, E]
        state, glimpse = self._advance(cache.context, self.cell.input(embedded), cache.state)
        logits = self._logits(state.hidden, glimpse.vector, embedded, train=False)
        return logits, replace(cache, state=state, position=cache.position + 1)

    def _start(self, encoded: Encoded) -> tuple[Context, LSTMState]:
        """The context of a row and the state [B, 1, W] that its mean feature starts the decoder with."""
        values, mask = encoded.tokens.astype(self.config.dtype), encoded.mask
        weight = None if mask is None else mask[:, :, None]
        mean = jnp.mean(values, axis=1, keepdims=True, where=weight)  # [B, 1, D]
        state = LSTMState(
            jnp.tanh(self.initial_hidden(mean)), jnp.tanh(self.initial_cell(mean).astype(jnp.float32))
        )
        return Context(values, self.key(values), mask), state

    def _embed(self, tokens: Int[Array, "B T"], *, train: bool, key: Array | None = None) -> Array:
        return dropout(self.embedding(tokens), self.config.dropout, train=train, key=key)

    def _advance(
        self, context: Context, gates: Float[Array, "B K G"], state: LSTMState
    ) -> tuple[LSTMState, Glimpse]:
        """One step of K beams, from what their tokens give to the gates."""
        weights = additive_weights(
            self.query(state.hidden),  # [B, K, 1, A]
            context.keys,
            self.score_kernel[...],
            None if context.mask is None else padding_mask(context.mask),
        )[:, 0]  # [B, K, S]
        vector = jnp.einsum("bks,bsd->bkd", weights.astype(context.values.dtype), context.values)
        vector = jax.nn.sigmoid(self.beta(state.hidden)) * vector
        return self.cell.advance(gates + self.cell_context(vector), state), Glimpse(vector, weights)

    def _run(
        self,
        context: Context,
        tokens: Float[Array, "B T E"],
        state: LSTMState,
        mask: Bool[Array, "B T"] | None,
        *,
        return_weights: bool,
    ) -> tuple[Float[Array, "B T W"], Float[Array, "B T D"], Float[Array, "1 B 1 T S"] | None, LSTMState]:
        """Read T tokens from a state [B, 1, W]: hidden states, what was seen, with which weights, the last state."""

        def body(state: LSTMState, step: tuple[Array, Array | None]) -> tuple[LSTMState, tuple]:
            gates, real = step
            new, glimpse = self._advance(context, gates[:, None], state)
            if real is not None:
                new = keep_where(real[:, None], new, state)
            weights = glimpse.weights[:, 0] if return_weights else None
            return new, (new.hidden[:, 0], glimpse.vector[:, 0], weights)

        gates = jnp.swapaxes(self.cell.input(tokens), 0, 1)  # [T, B, 4W]
        state, outputs = jax.lax.scan(body, state, (gates, None if mask is None else mask.T))
        hidden, vectors, weights = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), outputs)
        return hidden, vectors, None if weights is None else weights[None, :, None], state

    def _logits(
        self,
        hidden: Float[Array, "*N W"],
        vector: Float[Array, "*N D"],
        token: Float[Array, "*N E"],
        *,
        train: bool,
        key: Array | None = None,
    ) -> Float[Array, "*N V"]:
        x = jnp.tanh(token + self.output_hidden(hidden) + self.output_context(vector))
        x = dropout(x, self.config.dropout, train=train, key=key)
        return self.head(x).astype(jnp.float32)


def _beams(state: LSTMState, count: int) -> LSTMState:
    """One state [B, 1, W] for each of `count` beams."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (leaf.shape[0], count, leaf.shape[2])), state)
