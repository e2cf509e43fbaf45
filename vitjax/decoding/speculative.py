"""Speculative decoding: a small model drafts, the large one reads the drafts in one pass and keeps what it would write.

The rule is exact (Leviathan et al. 2023; Chen et al. 2023, algorithm 2): what is written is distributed as if the large
model had written alone, whatever the small one proposes. A good draft only makes it faster.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from vitjax.decoding.config import GenerationConfig, Limits
from vitjax.decoding.generate import encode, pad_source
from vitjax.decoding.processors import process
from vitjax.decoding.protocol import SequenceModel, Verifier
from vitjax.decoding.request import decodable, limits_of, longest, make_request, start_tokens
from vitjax.decoding.sample import conclude, require_key, row_keys, uniform
from vitjax.decoding.sequences import Sequences
from vitjax.decoding.top_k import argmax
from vitjax.decoding.warpers import Warpers, draw, warp
from vitjax.nn.functional import Tree

DRAFT, ACCEPT, REPLACE = range(3)  # what the random numbers of a token are for


class Assistant(NamedTuple):
    """The model that drafts: what `vitjax.nn.functional.split` gave for it."""

    definition: Any
    params: Tree
    stats: Tree | None = None


class Speculation(NamedTuple):
    """What was written, and what the drafts were worth.

    Attributes:
      sequences: as from `generate`; `steps` counts the passes of the large model, the prompt's included.
      examined: drafted tokens that the large model decided on, in each row; those after a refused one do not count.
      accepted: those of them that it kept.
    """

    sequences: Sequences
    examined: Int[Array, "B"]
    accepted: Int[Array, "B"]

    @property
    def acceptance_rate(self) -> float:
        """Part of the examined tokens that was kept; 1 where none was examined."""
        examined, accepted = (int(np.sum(jax.device_get(n))) for n in (self.examined, self.accepted))
        return accepted / examined if examined else 1.0


def speculative(
    definition: Any,
    params: Tree,
    source: Any,
    *,
    assistant: Assistant,
    num_assistant_tokens: int = 5,
    source_mask: Bool[Array | np.ndarray, "B S"] | None = None,
    prompt: Int[Array | np.ndarray, "B P"] | None = None,
    prompt_mask: Bool[Array | np.ndarray, "B P"] | None = None,
    stats: Tree | None = None,
    config: GenerationConfig,
    key: Any = None,
    batch_size: int | None = None,
) -> Speculation:
    """Write as `generate` does greedily or by sampling, in fewer passes of the model.

    Greedy tokens are those of `generate` (but for ties within rounding, since several tokens are read at once);
    sampled ones have the same distribution, but not the same draws. Rows advance on their own. Three compiled programs:
    each model's encoder, and the rest.

    Args:
      assistant: a model with the same vocabulary that reads the same source.
      num_assistant_tokens: tokens it drafts for each pass of the large model; static. Other arguments as in `generate`.

    Raises:
      ValueError: as in `generate`; or beams or several sequences a row are asked for, the vocabularies differ, or the
        model cannot read several tokens at once.
    """
    rows = source.shape[0]
    encoded, limits = [], []
    for model in (Assistant(definition, params, stats), assistant):
        padded, mask = pad_source(
            model.definition,
            model.params,
            source,
            source_mask=source_mask,
            stats=model.stats,
            batch_size=batch_size,
        )
        encoded.append(encode(model.definition, model.params, padded, source_mask=mask, stats=model.stats))
        limits.append(longest(*model)[1])
    request = make_request(
        config,
        encoded[0],
        prompt=prompt,
        prompt_mask=prompt_mask,
        rows=rows,
        longest=min((limit for limit in limits if limit is not None), default=None),
    )
    out = _speculate(
        definition,
        assistant.definition,
        request.config,
        (request.limits.size, num_assistant_tokens),
        (params, stats or {}),
        (assistant.params, assistant.stats or {}),
        *encoded,
        *request[3:],
        key,
    )
    sequences = out.sequences.cut(rows, request.limits.padding, request.limits.maximum)
    if rows == out.examined.shape[0]:
        return out._replace(sequences=sequences)
    counts = (count[:rows] for count in jax.device_get(out[1:]))
    return Speculation(sequences, *jax.device_put(tuple(counts)))


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _speculate(
    definition: Any,
    draft_definition: Any,
    config: GenerationConfig,
    sizes: tuple[int, int],
    arrays: tuple[Tree, Tree],
    draft_arrays: tuple[Tree, Tree],
    encoded: Any,
    draft_encoded: Any,
    prompt: Any,
    prompt_mask: Any,
    numbers: Int[Array, "4"],
    warpers: Warpers,
    key: Any,
) -> Speculation:
    size, drafted = sizes
    return speculate(
        decodable(definition, *arrays),
        decodable(draft_definition, *draft_arrays),
        encoded,
        draft_encoded,
        start_tokens(prompt, encoded, config),
        prompt_mask,
        config=config,
        num_assistant_tokens=drafted,
        key=key,
        warpers=warpers,
        limits=limits_of(prompt, size, numbers),
        rows=numbers[3],
    )


def speculate(
    model: SequenceModel,
    draft: SequenceModel,
    encoded: Any,
    draft_encoded: Any,
    prompt: Int[Array, "B P"],
    prompt_mask: Bool[Array, "B P"] | None = None,
    *,
    config: GenerationConfig,
    num_assistant_tokens: int,
    key: Any = None,
    warpers: Warpers | None = None,
    limits: Limits | None = None,
    rows: Int[Array, ""] | None = None,
) -> Speculation:
    """`speculative` after the encoders; traceable. Arguments as in `sample`; `draft_encoded` is the draft model's."""
    _require_plain(model, config, num_assistant_tokens)
    require_key(config, key)
    if limits is None:
        limits = config.limits(prompt.shape[1])
        for each in (model, draft):
            limits.require_room(each.max_target_length)
    warpers = Warpers.of(config) if warpers is None else warpers
    batch, start = prompt.shape
    model, draft = model.prepared(), draft.prepared()
    room = limits.size + num_assistant_tokens + 1  # the last drafts may lie behind the end
    cache = model.init_cache(encoded, num_beams=1, max_length=room, dtype=config.cache_dtype)
    draft_cache = draft.init_cache(draft_encoded, num_beams=1, max_length=room)
    logits, cache = model.prefill(cache, prompt, prompt_mask)
    draft_logits, draft_cache = draft.prefill(draft_cache, prompt, prompt_mask)
    if logits.shape != draft_logits.shape:
        raise ValueError(
            f"the model knows {logits.shape[-1]} tokens and the assistant {draft_logits.shape[-1]}: speculative "
            "decoding needs two models of one vocabulary"
        )
    row_key = None if key is None else row_keys(key, batch, 1)[:, 0]
    memory, draft_memory = _Memory(cache), _Memory(draft_cache)
    blank = jnp.full((batch, room), config.filler, jnp.int32)
    zero = jnp.zeros(batch, jnp.int32)
    state = _Row(
        cache=memory.rows(cache),
        draft=draft_memory.rows(draft_cache),
        tokens=blank.at[:, :start].set(prompt),
        log_probs=jnp.zeros(blank.shape, jnp.float32),
        length=zero + start,
        ended=jnp.arange(batch) >= (batch if rows is None else rows),
        examined=zero,
        accepted=zero,
    )
    speculator = _Speculator(
        model, draft, memory, draft_memory, config, limits, warpers, num_assistant_tokens
    )
    state = jax.vmap(speculator.first)(state, logits, row_key, prompt_mask)

    def unfinished(carry: tuple[Array, _Row]) -> Array:
        return ~jnp.all(carry[1].ended | (carry[1].length >= limits.maximum))

    def body(carry: tuple[Array, _Row]) -> tuple[Array, _Row]:
        return carry[0] + 1, jax.vmap(speculator.round)(carry[1], row_key, prompt_mask)

    passes, state = jax.lax.while_loop(unfinished, body, (jnp.int32(1), state))
    tokens, log_probs = (a[:, None, : limits.size] for a in (state.tokens, state.log_probs))
    return Speculation(
        conclude(tokens, log_probs, state.length[:, None], passes, config=config, limits=limits),
        state.examined,
        state.accepted,
    )


def _require_plain(model: Any, config: GenerationConfig, num_assistant_tokens: int) -> None:
    if config.num_beams > 1 or config.num_return_sequences > 1:
        raise ValueError(
            f"num_beams={config.num_beams}, num_return_sequences={config.num_return_sequences}: speculative decoding "
            "writes one sequence a row, set both to 1"
        )
    if num_assistant_tokens < 1:
        raise ValueError(f"num_assistant_tokens={num_assistant_tokens}: expected 1 or more")
    if not isinstance(model, Verifier):
        raise ValueError(
            f"{type(model).__name__} cannot verify drafts: it has no `extend` to read several tokens at once, as "
            "EncoderDecoder has; it can be the assistant"
        )


class _Memory:
    """How a cache comes apart into rows and a row becomes a cache again: rows stand at positions of their own."""

    def __init__(self, cache: Any):
        leaves, self.structure = jax.tree.flatten(cache)
        self.shared = [leaf.ndim == 0 for leaf in leaves]
        self.batch = next(leaf.shape[0] for leaf in leaves if leaf.ndim)

    def rows(self, cache: Any) -> list[Array]:
        """Arrays that all have B rows."""
        return [
            jnp.broadcast_to(leaf, (self.batch,)) if shared else leaf
            for leaf, shared in zip(jax.tree.leaves(cache), self.shared, strict=True)
        ]

    def cache(self, row: list[Array]) -> Any:
        """The cache of one row."""
        leaves = [leaf if shared else leaf[None] for leaf, shared in zip(row, self.shared, strict=True)]
        return jax.tree.unflatten(self.structure, leaves)

    def row(self, cache: Any) -> list[Array]:
        """What `cache` was made of."""
        leaves = jax.tree.leaves(cache)
        return [leaf if shared else leaf[0] for leaf, shared in zip(leaves, self.shared, strict=True)]


class _Row(NamedTuple):
    """Where one row stands; both caches have read all its tokens but the last."""

    cache: list[Array]
    draft: list[Array]
    tokens: Int[Array, "T"]
    log_probs: Float[Array, "T"]
    length: Int[Array, ""]
    ended: Bool[Array, ""]
    examined: Int[Array, ""]
    accepted: Int[Array, ""]


class _Speculator(NamedTuple):
    """The rules for one row; G tokens are drafted at a time."""

    model: Any
    draft: Any
    memory: _Memory
    draft_memory: _Memory
    config: GenerationConfig
    limits: Limits
    warpers: Warpers
    drafted: int

    def first(self, row: _Row, logits: Float[Array, "V"], key: Any, mask: Any) -> _Row:
        """Write the token after the prompt."""
        probs = self._probs(logits, row.tokens, row.length, mask)
        token = draw(probs, self._number(key, row.length, REPLACE))
        return self._write(row, token[None], jnp.int32(1), logits[None], mask)

    def round(self, row: _Row, key: Any, mask: Any) -> _Row:
        """Draft, verify, write what is kept and one token more."""
        start = row.length
        last = row.tokens[start - 1]
        before = self.draft_memory.cache(row.draft)

        def propose(carry: tuple[Any, Array, Array], place: Array) -> tuple[Any, tuple[Any, ...]]:
            cache, tokens, token = carry
            logits, cache = self.draft.step(cache, token[None, None])
            probs = self._probs(logits[0, 0], tokens, place, mask)
            token = draw(probs, self._number(key, place, DRAFT))
            return (cache, tokens.at[place].set(token), token), (token, probs, cache.mark())

        places = start + jnp.arange(self.drafted + 1)
        # The last draft is only read, so that the draft model has seen all tokens if all are kept.
        (after, tokens, _), (drafts, guesses, marks) = jax.lax.scan(
            propose, (before, row.tokens, last), places
        )
        read = jnp.concatenate([last[None], drafts[:-1]])
        logits, cache = self.model.extend(self.memory.cache(row.cache), read[None, None])
        logits = logits[0, 0]  # [G + 1, V]
        probs = jax.vmap(self._probs, (0, None, 0, None))(logits, tokens, places, mask)

        def of_draft(table: Array) -> Array:  # [G + 1, V] -> [G]
            return jnp.take_along_axis(table[:-1], drafts[:-1, None], axis=-1)[:, 0]

        chance = jax.vmap(self._number, (None, 0, None))(key, places[:-1], ACCEPT)
        kept = jnp.cumprod(chance * of_draft(guesses) < of_draft(probs))
        count = jnp.sum(kept)  # of the drafts; the token behind them is the model's own
        wanted = probs[count]
        rest = jnp.maximum(wanted - jnp.where(count < self.drafted, guesses[count], 0), 0)
        # Nothing is left where the two agree but for rounding.
        rest = jnp.where(jnp.any(rest > 0), rest, wanted)
        own = draw(rest, self._number(key, start + count, REPLACE))
        new = jnp.where(jnp.arange(self.drafted + 1) < count, drafts, own)

        written = self._write(row, new, count + 1, logits, mask)
        advance = written.length - start
        marks = jax.tree.map(lambda one, more: jnp.concatenate([one[None], more]), before.mark(), marks)
        mark = jax.tree.map(lambda each: each[advance], marks)
        return written._replace(
            cache=self.memory.row(cache.restore(written.length - 1)),
            draft=self.draft_memory.row(after.restore(mark)),
            examined=row.examined + jnp.minimum(advance, self.drafted),
            accepted=row.accepted + jnp.minimum(advance, count),
        )

    def _write(
        self, row: _Row, new: Int[Array, "N"], count: Array, logits: Float[Array, "N V"], mask: Any
    ) -> _Row:
        """Append the first `count` of the new tokens, up to the first that ends the sequence; none to an ended row."""
        places = jnp.arange(new.shape[0])
        count = jnp.minimum(count, self.limits.maximum - row.length)
        stops = jnp.isin(new, jnp.asarray(self.config.stop_ids, jnp.int32)) & (places < count)
        ends = jnp.any(stops)
        count = jnp.where(ends, jnp.argmax(stops) + 1, count)
        count = jnp.where(row.ended, 0, count)

        def log_prob(logits: Array, token: Array, place: Array) -> Array:
            return self._processed(jax.nn.log_softmax(logits), tokens, place, mask)[token]

        tokens = jax.lax.dynamic_update_slice(
            row.tokens, jnp.where(places < count, new, self.config.filler), (row.length,)
        )
        log_probs = jax.vmap(log_prob)(logits.astype(jnp.float32), new, row.length + places)
        return row._replace(
            tokens=tokens,
            log_probs=jax.lax.dynamic_update_slice(
                row.log_probs, jnp.where(places < count, log_probs, 0.0), (row.length,)
            ),
            length=row.length + count,
            ended=row.ended | ends,
        )

    def _probs(
        self, logits: Float[Array, "V"], tokens: Int[Array, "T"], place: Array, mask: Any
    ) -> Float[Array, "V"]:
        """What the token at a place is drawn from; greedy is drawing from a distribution of one token."""
        scores = self._processed(logits.astype(jnp.float32), tokens, place, mask)
        if not self.config.do_sample:
            return jax.nn.one_hot(argmax(scores), scores.shape[-1])
        return jax.nn.softmax(warp(scores, self.warpers))

    def _processed(self, scores: Array, tokens: Array, place: Array, mask: Any) -> Array:
        return process(
            scores[None, None],
            tokens[None, None],
            place,
            config=self.config,
            limits=self.limits,
            prompt_mask=None if mask is None else mask[None],
        )[0, 0]

    def _number(self, key: Any, place: Array, purpose: int) -> Float[Array, ""]:
        """In [0, 1). A place's numbers may be asked for again after a refusal before it: nothing hung on them yet."""
        if key is None:
            return jnp.float32(0)
        return uniform(key, 3 * (place - self.limits.prompt) + purpose)
