"""One row of speculative decoding: draft, verify, write. Rows are mapped over, so that each advances on its own."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vitjax.decoding.config import GenerationConfig, Limits
from vitjax.decoding.processors import process
from vitjax.decoding.sample import uniform
from vitjax.decoding.top_k import argmax
from vitjax.decoding.warpers import Warpers, draw, warp

DRAFT, ACCEPT, REPLACE = range(3)  # what the random numbers of a token are for


class Memory:
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


class Row(NamedTuple):
    """Where one row stands; both caches have read all its tokens but the last."""

    cache: list[Array]
    draft: list[Array]
    tokens: Int[Array, "T"]
    log_probs: Float[Array, "T"]
    length: Int[Array, ""]
    ended: Bool[Array, ""]
    examined: Int[Array, ""]
    accepted: Int[Array, ""]


class Speculator(NamedTuple):
    """The rules for one row; G tokens are drafted at a time."""

    model: Any
    draft: Any
    memory: Memory
    draft_memory: Memory
    config: GenerationConfig
    limits: Limits
    warpers: Warpers
    drafted: int

    def first(self, row: Row, logits: Float[Array, "V"], key: Any, mask: Any) -> Row:
        """Write the token after the prompt."""
        probs = self._probs(logits, row.tokens, row.length, mask)
        token = draw(probs, self._number(key, row.length, REPLACE))
        return self._write(row, token[None], jnp.int32(1), logits[None], mask)

    def round(self, row: Row, key: Any, mask: Any) -> Row:
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
        self, row: Row, new: Int[Array, "N"], count: Array, logits: Float[Array, "N V"], mask: Any
    ) -> Row:
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
