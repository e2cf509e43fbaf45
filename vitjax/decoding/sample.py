"""One token after the other: the likeliest each time, or one drawn at random (transformers 5 `_sample`)."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from vitjax.decoding import loop
from vitjax.decoding.allowed import ROOT, AllowedSequences
from vitjax.decoding.buckets import pad_rows
from vitjax.decoding.candidates import ALL, Share, whole_vocabulary
from vitjax.decoding.config import GenerationConfig, Limits
from vitjax.decoding.processors import process
from vitjax.decoding.protocol import SequenceModel
from vitjax.decoding.sequences import Sequences
from vitjax.decoding.top_k import argmax
from vitjax.decoding.warpers import Warpers, draw, warp


def greedy(
    model: SequenceModel,
    encoded: Any,
    prompt: Int[Array, "B P"],
    prompt_mask: Bool[Array, "B P"] | None = None,
    *,
    config: GenerationConfig,
    limits: Limits | None = None,
    rows: Int[Array, ""] | None = None,
) -> Sequences:
    """Decode with one beam a row; traceable, so usable inside your own `jax.jit`. Arguments as in `beam_search`.

    Returns `Sequences` with N = 1 and T = `limits.size`. Where tokens tie, the lowest id wins.

    Raises:
      ValueError: the config asks for something else.
    """
    if config.do_sample or config.num_beams > 1:
        raise ValueError(
            f"do_sample={config.do_sample}, num_beams={config.num_beams}: greedy decodes with neither, use sample or "
            "beam_search"
        )
    return sample(model, encoded, prompt, prompt_mask, config=config, limits=limits, rows=rows)


def sample(
    model: SequenceModel,
    encoded: Any,
    prompt: Int[Array, "B P"],
    prompt_mask: Bool[Array, "B P"] | None = None,
    *,
    config: GenerationConfig,
    key: Any = None,
    warpers: Warpers | None = None,
    limits: Limits | None = None,
    rows: Int[Array, ""] | None = None,
    allowed: AllowedSequences | None = None,
    share: Share = ALL,
) -> Sequences:
    """Draw `num_return_sequences` sequences a row; traceable. Other arguments as in `beam_search`.

    The n-th sequence of row b draws from a key made of `key`, b and n: not from what else is in the batch, nor from
    how much the batch and its prompts are padded.

    Args:
      key: a `jax.random.key`, or [B] of them: then the draws of a row depend on its own key alone.
      warpers: the numbers of the config's rules, where they are traced.
      share: what of the search is on this device, inside a `jax.shard_map`.

    Returns:
      `Sequences` with N = `num_return_sequences` and T = `limits.size`, in the order drawn. Their log-probabilities are
      the model's, before temperature and the rules after it: comparable with those of greedy and beam search.
    """
    require_key(config, key)
    if limits is None:
        limits = config.limits(prompt.shape[1])
        limits.require_room(model.max_target_length)
    if warpers is None:
        warpers = Warpers.of(config)
    keys = None if key is None else row_keys(key, prompt.shape[0], config.num_slots)
    writer = Writer(
        model.prepared(), config, limits, warpers, keys, prompt_mask, allowed=allowed, share=share
    )
    state = writer.run(writer.start(encoded, prompt, rows), limits.maximum)
    steps = state.length - limits.prompt
    return conclude(state.tokens, state.log_probs, state.lengths, steps, config=config, limits=limits)


def require_key(config: GenerationConfig, key: Any) -> None:
    """ValueError if there is no key to draw with, or one where nothing is drawn."""
    if (key is not None) != config.do_sample:
        raise ValueError(
            "do_sample=True needs a key to draw with: pass key=jax.random.key(0)"
            if config.do_sample
            else "a key was given and do_sample=False draws nothing: set do_sample=True, or leave the key out"
        )


def one_per_row(key: Any, batch: Any) -> Key[Array, "B"]:
    """A key for each row, the same in a larger batch. `key` is one, or [B], one a row; or their raw data.

    `batch` is a number, or a symbol in a program for any batch.
    """
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(key)
    return key if key.ndim else jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(batch))


def row_keys(key: Any, batch: Any, slots: int) -> Key[Array, "B K"]:
    """A key for each sequence of each row; `key` as in `one_per_row`."""
    fold = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))
    return fold(one_per_row(key, batch), jnp.arange(slots))


def pad_keys(key: Any, batch: int) -> Any:
    """Keys of rows, brought to the rows of the batch as raw data; a single key or None as it is."""
    if key is None or key.ndim == 0 or key.shape == (2,) and key.dtype == jnp.uint32:
        return key
    data = jax.random.key_data(key) if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else key
    return pad_rows(data, batch)


def uniform(keys: Key[Array, "*B"], step: Int[Array, "..."]) -> Float[Array, "*B"]:
    """One number in [0, 1) from each key, others for other steps, which are broadcast to the keys."""

    def one(key: Array, step: Array) -> Array:
        return jax.random.uniform(jax.random.fold_in(key, step))

    flat = jax.vmap(one)(keys.reshape(-1), jnp.broadcast_to(step, keys.shape).reshape(-1))
    return flat.reshape(keys.shape)


def conclude(
    tokens: Int[Array, "B K T"],
    log_probs: Float[Array, "B K T"],
    lengths: Int[Array, "B K"],
    steps: Int[Array, ""],
    *,
    config: GenerationConfig,
    limits: Limits,
) -> Sequences:
    """What was written, with its scores."""
    generated = jnp.maximum(lengths - limits.prompt, 1).astype(jnp.float32)
    last = jnp.take_along_axis(tokens, lengths[:, :, None] - 1, axis=2)[:, :, 0]
    return Sequences(
        tokens=tokens,
        scores=jnp.sum(log_probs, axis=-1) / generated**config.length_penalty,
        lengths=lengths,
        token_log_probs=log_probs,
        finished=jnp.isin(last, jnp.asarray(config.stop_ids, jnp.int32)),
        steps=steps,
    )


class State(NamedTuple):
    """Where the K sequences of each row stand."""

    cache: Any
    length: Int[Array, ""]
    tokens: Int[Array, "B K T"]
    log_probs: Float[Array, "B K T"]
    lengths: Int[Array, "B K"]
    ended: Bool[Array, "B K"]
    nodes: Any  # [B, K] of the tree of allowed sequences, or None

    @property
    def done(self) -> Bool[Array, "B"]:
        return jnp.all(self.ended, axis=1)


@dataclass(frozen=True)
class Writer:
    """Writes K sequences a row; what stays the same while it does.

    `keys` is None where nothing is drawn. With `grows` False the state has one shape from beginning to end.
    """

    model: Any
    config: GenerationConfig
    limits: Limits
    warpers: Warpers
    keys: Any
    prompt_mask: Any
    grows: bool = True
    allowed: AllowedSequences | None = None
    share: Share = ALL

    def start(self, encoded: Any, prompt: Array, rows: Array | None) -> State:
        """Read the prompt and choose the first token; `rows` and later ones only fill the batch up."""
        batch, slots, size = prompt.shape[0], self.config.num_slots, self.limits.size
        room = loop.first_room(self.limits) if self.grows else size
        dtype = self.config.cache_dtype
        cache = self.model.init_cache(encoded, num_beams=slots, max_length=room, dtype=dtype)
        logits, cache = self.model.prefill(cache, prompt, self.prompt_mask)
        blank = jnp.full((batch, slots, size), self.config.filler, jnp.int32)
        filling = jnp.arange(batch) >= (batch if rows is None else rows)
        state = State(
            cache=cache,
            length=jnp.int32(prompt.shape[1]),
            tokens=blank.at[:, :, : prompt.shape[1]].set(prompt[:, None]),
            log_probs=jnp.zeros(blank.shape, jnp.float32),
            lengths=jnp.full((batch, slots), prompt.shape[1], jnp.int32),
            ended=jnp.broadcast_to(filling[:, None], (batch, slots)),
            nodes=None if self.allowed is None else jnp.full((batch, slots), ROOT),
        )
        return self._choose(state, jnp.broadcast_to(logits[:, None], (batch, slots, logits.shape[-1])))

    def run(self, state: State, length: Any) -> State:
        """Write on until sequences have this length or all have ended."""
        halve = self._advance_some if self.share.local_rows else None
        limits = self.limits._replace(maximum=length)
        return loop.run(self.advance, state, limits, grows=self.grows, halve=halve)

    def _advance_some(self, places: Int[Array, "b"]) -> Callable[[State], State]:
        keys, mask = jax.tree.map(lambda leaf: leaf[places], (self.keys, self.prompt_mask))
        return replace(self, keys=keys, prompt_mask=mask).advance

    def advance(self, state: State) -> State:
        """Write one more token."""
        last = jax.lax.dynamic_slice_in_dim(state.tokens, state.length - 1, 1, axis=2)[:, :, 0]  # [B, K]
        logits, cache = self.model.step(state.cache, last)
        return self._choose(state._replace(cache=cache), logits)

    def _choose(self, state: State, logits: Float[Array, "B K V"]) -> State:
        allowed = None if self.allowed is None else self.allowed.mask(state.nodes, logits.shape[-1])

        def processed(scores: Array) -> Array:
            return process(
                scores,
                state.tokens,
                state.length,
                config=self.config,
                limits=self.limits,
                prompt_mask=self.prompt_mask,
                allowed=allowed,
            )

        logits = logits.astype(jnp.float32)
        if self.keys is not None:
            logits = whole_vocabulary(logits, self.share)
        # The choice is made on logits: log-softmax can round two of them to the same number.
        scores = processed(logits)
        if self.keys is None:
            token = argmax(scores)
        else:
            number = uniform(self.keys, state.length - self.limits.prompt)
            token = draw(jax.nn.softmax(warp(scores, self.warpers)), number)
        token = token[:, :, None]
        log_prob = jnp.take_along_axis(processed(jax.nn.log_softmax(logits)), token, axis=-1)
        ended = state.ended[:, :, None]
        stop_ids = jnp.asarray(self.config.stop_ids, jnp.int32)
        token = jnp.where(ended, self.config.filler, token)
        log_prob = jnp.where(ended, 0.0, log_prob)
        start = (0, 0, state.length)
        return state._replace(
            length=state.length + 1,
            tokens=jax.lax.dynamic_update_slice(state.tokens, token, start),
            log_probs=jax.lax.dynamic_update_slice(state.log_probs, log_prob, start),
            lengths=state.lengths + ~state.ended,
            ended=state.ended | jnp.isin(token[:, :, 0], stop_ids),
            nodes=None if self.allowed is None else self.allowed.follow(state.nodes, token[:, :, 0]),
        )
