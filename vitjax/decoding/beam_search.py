"""Batched beam search, by the rules of transformers 5 or of other engines (`vitjax.decoding.rules`).

Each row keeps K running beams and a pool of up to K finished hypotheses. What a row returns does not depend on the
other rows of its batch.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vitjax.decoding import loop
from vitjax.decoding.allowed import ROOT, AllowedSequences
from vitjax.decoding.candidates import ALL, Share, best_continuations
from vitjax.decoding.config import GenerationConfig, Limits
from vitjax.decoding.processors import process
from vitjax.decoding.protocol import SequenceModel
from vitjax.decoding.rules import RULES, Rules, Standing, table
from vitjax.decoding.sequences import Sequences
from vitjax.decoding.top_k import top_k
from vitjax.nn.beam_parallel import own_beams, share_of

# transformers' minus infinity: finite, so that hypotheses to which it was added keep their order.
NEVER = -1e9


class _Pool(NamedTuple):
    """Finished hypotheses, best first; the empty places score NEVER and are as long as the prompt."""

    tokens: Int[Array, "B K T"]
    scores: Float[Array, "B K"]
    lengths: Int[Array, "B K"]
    log_probs: Float[Array, "B K T"]
    stopped: Bool[Array, "B K"]  # by EOS, not by the maximum length


class _Beams(NamedTuple):
    """The running beams of each row, or a group of them (K of them here), and what has finished."""

    tokens: Int[Array, "B K T"]
    log_probs: Float[Array, "B K T"]
    scores: Float[Array, "B K"]  # sums of log-probabilities, best first
    nodes: Any  # [B, K] of the tree of allowed sequences, or None
    pool: _Pool
    led: Bool[Array, "B"]  # at some step the best candidate ended
    done: Bool[Array, "B"]  # the pool changes no more


class _State(NamedTuple):
    cache: Any
    length: Int[Array, ""]
    groups: tuple[_Beams, ...]

    @property
    def done(self) -> Bool[Array, "B"]:
        return reduce(jnp.logical_and, [group.done for group in self.groups])


def beam_search(
    model: SequenceModel,
    encoded: Any,
    prompt: Int[Array, "B P"],
    prompt_mask: Bool[Array, "B P"] | None = None,
    *,
    config: GenerationConfig,
    limits: Limits | None = None,
    rows: Int[Array, ""] | None = None,
    allowed: AllowedSequences | None = None,
    share: Share = ALL,
) -> Sequences:
    """Search with `config.num_beams` beams a row; traceable, so usable inside your own `jax.jit`.

    Args:
      prompt: first tokens of each row, left-padded where `prompt_mask` is False.
      limits: the buffer's columns, if they are not what `config` says for this prompt.
      rows: number of real rows; those after it only fill the batch up and are never waited for.
      allowed: the sequences to choose from; None allows all.
      share: what of the search is on this device, inside a `jax.shard_map`. Where a row's beams are split, every device
        holds the cache of its own, and all know the tokens, scores and finished hypotheses of all.

    Returns:
      `Sequences` with N = `num_return_sequences` and T = `limits.size`. Ties go to the better-ranked beam, then to the
      lowest id. What a score is, `config.rules` says.

    Raises:
      ValueError: the vocabulary is too small for the number of EOS ids.
    """
    batch, prompt_length = prompt.shape
    if limits is None:
        limits = config.limits(prompt_length)
        limits.require_room(model.max_target_length)
    search = _Search(
        config=config,
        rules=RULES[config.rules],
        limits=limits,
        weights=table(config, limits.size - prompt_length),
        prompt_mask=prompt_mask,
        allowed=allowed,
        share=share,
    )
    model = model.prepared()

    def advance(state: _State, search: _Search = search) -> _State:
        column = [jax.lax.dynamic_slice_in_dim(g.tokens, state.length - 1, 1, axis=2) for g in state.groups]
        own = own_beams(jnp.concatenate(column, axis=1), share.beam_axis)[:, :, 0]  # [B, k]
        logits, cache = model.step(state.cache, own)
        return choose(state._replace(cache=cache), logits, search)

    def advance_some(places: Int[Array, "b"]) -> Callable[[_State], _State]:
        mask = None if prompt_mask is None else prompt_mask[places]
        return partial(advance, search=replace(search, prompt_mask=mask))

    def choose(state: _State, logits: Float[Array, "B k V"], search: _Search = search) -> _State:
        groups, parents = search.choose(state.groups, logits, state.length)
        return _State(cache=state.cache.reorder(parents), length=state.length + 1, groups=groups)

    cache = model.init_cache(
        encoded,
        num_beams=config.num_beams,
        max_length=loop.first_room(limits),
        dtype=config.cache_dtype,
        beam_axis=share.beam_axis,
    )
    logits, cache = model.prefill(cache, prompt, prompt_mask)
    if logits.shape[-1] < _width(config):
        raise ValueError(
            f"a vocabulary of {logits.shape[-1]} with {len(config.stop_ids)} EOS ids can leave no beam to go on with: "
            f"expected {_width(config)} tokens or more"
        )
    filling = jnp.arange(batch) >= (batch if rows is None else rows)
    groups = (search.start(prompt, filling),) * config.num_beam_groups
    state = _State(cache, jnp.int32(prompt_length), groups)
    here = share_of(config.num_beams, share.beam_axis)
    state = choose(state, jnp.broadcast_to(logits[:, None], (batch, here, logits.shape[-1])))
    state = loop.run(advance, state, limits, halve=advance_some if share.local_rows else None)
    best = search.result(state.groups, state.length)
    return Sequences(
        tokens=best.tokens,
        scores=best.scores,
        lengths=best.lengths,
        token_log_probs=best.log_probs,
        finished=best.stopped,
        steps=state.length - prompt_length,
    )


@dataclass(frozen=True, eq=False)
class _Search:
    """What stays the same from token to token."""

    config: GenerationConfig
    rules: Rules
    limits: Limits
    weights: Float[Array, "n"]  # of sums of log-probabilities, by new tokens
    prompt_mask: Bool[Array, "B P"] | None
    allowed: AllowedSequences | None
    share: Share

    def start(self, prompt: Int[Array, "B P"], filling: Bool[Array, "B"]) -> _Beams:
        """A group's beams at the same prompt, of which only the first may be continued; the filling rows done."""
        batch, prompt_length = prompt.shape
        beams = self.config.num_beams // self.config.num_beam_groups
        blank = jnp.full((batch, beams, self.limits.size), self.config.filler, jnp.int32)
        blank = blank.at[:, :, :prompt_length].set(prompt[:, None])
        zeros = jnp.zeros(blank.shape, jnp.float32)
        never = jnp.full((batch, beams), NEVER, jnp.float32)
        return _Beams(
            tokens=blank,
            log_probs=zeros,
            scores=never.at[:, 0].set(0.0),
            nodes=None if self.allowed is None else jnp.full((batch, beams), ROOT),
            pool=_Pool(
                tokens=blank,
                scores=never,
                lengths=jnp.full((batch, beams), prompt_length, jnp.int32),
                log_probs=zeros,
                stopped=jnp.zeros((batch, beams), bool),
            ),
            led=jnp.zeros(batch, bool),
            done=filling,
        )

    def choose(
        self, groups: tuple[_Beams, ...], logits: Float[Array, "B k V"], length: Int[Array, ""]
    ) -> tuple[tuple[_Beams, ...], Int[Array, "B K"]]:
        """Write column `length`, one group after the other; also which beam each beam continues.

        A token that earlier groups have chosen for this column is made unlikelier (Vijayakumar et al. 2016, Diverse
        Beam Search, with Hamming diversity).
        """
        penalties = None
        chosen, parents = [], []
        for number, group in enumerate(groups):
            size = group.scores.shape[1]
            first = number * size
            after, origins = self._choose(group, logits[:, first : first + size], length, penalties)
            chosen.append(after)
            parents.append(first + origins)
            if number + 1 < len(groups):
                penalty = jnp.where(group.done, 0.0, self.config.diversity_penalty)
                last = jax.lax.dynamic_slice_in_dim(after.tokens, length, 1, axis=2)[:, :, 0]
                if penalties is None:
                    penalties = jnp.zeros((logits.shape[0], logits.shape[-1]), jnp.float32)
                penalties = jax.vmap(lambda row, token, value: row.at[token].add(value))(
                    penalties, last, penalty
                )
        return tuple(chosen), jnp.concatenate(parents, axis=1)

    def _choose(
        self,
        state: _Beams,
        logits: Float[Array, "B k V"],
        length: Int[Array, ""],
        penalties: Float[Array, "B V"] | None,
    ) -> tuple[_Beams, Int[Array, "B K"]]:
        """Extend every beam by every token, keep the K best that go on, let those that ended into the pool."""
        beams = state.scores.shape[1]
        known = (state.tokens, state.scores, state.nodes)
        written, sums, nodes = own_beams(known, self.share.beam_axis)  # [B, k, ...]
        log_probs = self._log_probs(written, nodes, logits, length, penalties)
        # Even if every EOS of the K beams is among them, K candidates remain that go on.
        candidates, log_probs, parents, tokens = best_continuations(
            log_probs + sums[:, :, None], log_probs, _width(self.config) * beams, self.share
        )  # [B, M]
        ended = jnp.isin(tokens, jnp.asarray(self.config.stop_ids, jnp.int32))

        def extended(chosen: Int[Array, "B k"]) -> tuple[Array, ...]:
            """Tokens and their log-probabilities [B, k, T] of the chosen candidates."""
            origins = _take_beams(parents, chosen)
            return tuple(
                jax.lax.dynamic_update_slice(
                    _take_beams(old, origins), _take_beams(new, chosen)[:, :, None], (0, 0, length)
                )
                for old, new in ((state.tokens, tokens), (state.log_probs, log_probs))
            )

        scores, chosen = top_k(candidates + jnp.where(ended, NEVER, 0.0), beams)
        running_tokens, running_log_probs = extended(chosen)

        finishing = candidates.shape[1] if self.rules.any_may_finish else beams
        first = jnp.broadcast_to(jnp.arange(finishing), (candidates.shape[0], finishing))
        finished_tokens, finished_log_probs = extended(first)
        new = _Pool(
            tokens=finished_tokens,
            scores=candidates[:, :finishing],
            lengths=jnp.full(first.shape, length + 1),
            log_probs=finished_log_probs,
            stopped=ended[:, :finishing],
        )
        pool = self._enter(state, new, length)
        led = state.led | ended[:, 0]
        finished = jnp.sum(pool.lengths > self.limits.prompt, axis=1)
        standing = Standing(
            best=scores[:, 0],
            worst=pool.scores[:, -1],
            full=finished == beams,
            finished=finished,
            led=led,
            weights=self.weights,
            length=length + 1 - self.limits.prompt,
            longest=self.limits.maximum - self.limits.prompt,
        )
        done = state.done | self.rules.settled(self.config, standing)
        origins, nodes = _take_beams(parents, chosen), None
        if self.allowed is not None:
            nodes = self.allowed.follow(_take_beams(state.nodes, origins), _take_beams(tokens, chosen))
        return _Beams(running_tokens, running_log_probs, scores, nodes, pool, led, done), origins

    def result(self, groups: tuple[_Beams, ...], length: Int[Array, ""]) -> _Pool:
        """The best `num_return_sequences` of all groups."""
        if not self.rules.keeps_unfinished:
            groups = tuple(self._unfinished_if_nothing_else(group, length) for group in groups)
        pool = jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=1), *(g.pool for g in groups))
        if len(groups) > 1:
            _, best = top_k(pool.scores, self.config.num_return_sequences)
            return jax.tree.map(lambda leaf: _take_beams(leaf, best), pool)
        return jax.tree.map(lambda leaf: leaf[:, : self.config.num_return_sequences], pool)

    def _unfinished_if_nothing_else(self, state: _Beams, length: Int[Array, ""]) -> _Beams:
        """The running beams in the place of a pool that is empty."""
        unfinished = _Pool(
            tokens=state.tokens,
            scores=state.scores,
            lengths=jnp.full_like(state.pool.lengths, length),
            log_probs=state.log_probs,
            stopped=jnp.zeros_like(state.pool.stopped),
        )
        empty = jnp.all(state.pool.lengths == self.limits.prompt, axis=1)
        pool = jax.tree.map(
            lambda a, b: jnp.where(empty.reshape(-1, *[1] * (a.ndim - 1)), a, b), unfinished, state.pool
        )
        return state._replace(pool=pool)

    def _log_probs(
        self,
        tokens: Int[Array, "B k T"],
        nodes: Any,
        logits: Float[Array, "B k V"],
        length: Int[Array, ""],
        penalties: Float[Array, "B V"] | None,
    ) -> Float[Array, "B k V"]:
        allowed = None if self.allowed is None else self.allowed.mask(nodes, logits.shape[-1])

        def processed(scores: Array) -> Array:
            if penalties is not None:
                scores = scores - penalties[:, None]
            return process(
                scores,
                tokens,
                length,
                config=self.config,
                limits=self.limits,
                prompt_mask=self.prompt_mask,
                allowed=allowed,
            )

        logits = logits.astype(jnp.float32)
        if self.rules.normalizes:
            log_probs = jax.nn.log_softmax(processed(logits))
            return jnp.where(jnp.isnan(log_probs), -jnp.inf, log_probs)  # where no token is allowed
        log_probs = processed(jax.nn.log_softmax(logits))
        if self.rules.must_end:
            vocabulary = jnp.arange(logits.shape[-1])
            stops = jnp.isin(vocabulary, jnp.asarray(self.config.stop_ids))
            pads = (vocabulary == self.config.filler) & ~stops
            forbidden = pads | (~stops & (length == self.limits.maximum - 1))
            log_probs = jnp.where(forbidden, -jnp.inf, log_probs)
        return log_probs

    def _enter(self, state: _Beams, new: _Pool, length: Int[Array, ""]) -> _Pool:
        """The best of the old pool and of what finishes now; `new.scores` are sums still."""
        size = state.pool.scores.shape[1]
        enters = new.stopped & ~state.done[:, None]
        if self.rules.keeps_unfinished:
            enters |= (length + 1 >= self.limits.maximum) & ~state.done[:, None]
        if not self.rules.counts_dead:
            enters &= new.scores > NEVER / 2
        if self.rules.first_come:
            finished = jnp.sum(state.pool.lengths > self.limits.prompt, axis=1, keepdims=True)
            enters &= finished + jnp.cumsum(enters, axis=1) <= size
        generated = length + 1 - self.limits.prompt
        weight = self.weights[generated]
        if not self.rules.counts_eos:
            weight = jnp.where(new.stopped, self.weights[generated - 1], weight)
        scores = new.scores * weight
        if not self.rules.counts_eos:
            scores = jnp.where(jnp.isinf(weight), NEVER / 2, scores)
        new = new._replace(scores=jnp.where(enters, scores, -jnp.inf))
        merged = jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=1), state.pool, new)
        _, best = top_k(merged.scores, size)
        return jax.tree.map(lambda leaf: _take_beams(leaf, best), merged)


def _width(config: GenerationConfig) -> int:
    """Candidates kept for each beam."""
    return max(2, 1 + len(config.stop_ids))


def _take_beams(table: Array, beams: Int[Array, "B k"]) -> Array:
    """table [B, K, ...] -> [B, k, ...]. Not `table[batch, beams]`, which gathers a sharded batch on every device."""
    return jnp.take_along_axis(table, beams.reshape(*beams.shape, *[1] * (table.ndim - 2)), axis=1)
