"""Speculative decoding: a small model drafts, the large one reads the drafts in one pass and keeps what it would write.

The rule is exact (Leviathan et al. 2023; Chen et al. 2023, algorithm 2): what is written is distributed as if the large
model had written alone, whatever the small one proposes. A good draft only makes it faster. The rule itself is in
`vitjax.decoding.drafting`.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from vitjax.decoding.config import GenerationConfig, Limits
from vitjax.decoding.drafting import Memory, Row, Speculator
from vitjax.decoding.generate import encode, pad_source
from vitjax.decoding.protocol import SequenceModel, Verifier
from vitjax.decoding.request import decodable, limits_of, longest, make_request, start_tokens
from vitjax.decoding.sample import conclude, pad_keys, require_key, row_keys
from vitjax.decoding.sequences import Sequences
from vitjax.decoding.warpers import Warpers
from vitjax.nn.functional import Tree


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
      num_assistant_tokens: tokens it drafts for each pass of the large model; static. Other arguments as in `generate`;
        `config.cache_dtype` is that of the large model's cache.

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
        pad_keys(key, jax.tree.leaves(encoded[0])[0].shape[0]),
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
    memory, draft_memory = Memory(cache), Memory(draft_cache)
    blank = jnp.full((batch, room), config.filler, jnp.int32)
    zero = jnp.zeros(batch, jnp.int32)
    state = Row(
        cache=memory.rows(cache),
        draft=draft_memory.rows(draft_cache),
        tokens=blank.at[:, :start].set(prompt),
        log_probs=jnp.zeros(blank.shape, jnp.float32),
        length=zero + start,
        ended=jnp.arange(batch) >= (batch if rows is None else rows),
        examined=zero,
        accepted=zero,
    )
    speculator = Speculator(model, draft, memory, draft_memory, config, limits, warpers, num_assistant_tokens)
    state = jax.vmap(speculator.first)(state, logits, row_key, prompt_mask)

    def unfinished(carry: tuple[Array, Row]) -> Array:
        return ~jnp.all(carry[1].ended | (carry[1].length >= limits.maximum))

    def body(carry: tuple[Array, Row]) -> tuple[Array, Row]:
        return carry[0] + 1, jax.vmap(speculator.round)(carry[1], row_key, prompt_mask)

    passes, state = jax.lax.while_loop(unfinished, body, (jnp.int32(1), state))
    tokens, log_probs = (a[:, None, : limits.size] for a in (state.tokens, state.log_probs))
    return Speculation(
        conclude(tokens, log_probs, state.length[:, None], passes, config=config, limits=limits),
        state.examined,
        state.accepted,
    )


def _require_plain(model: Any, config: GenerationConfig, num_assistant_tokens: int) -> None:
    if config.num_beams > 1 or config.num_return_sequences > 1 or config.rules != "transformers":
        raise ValueError(
            f"num_beams={config.num_beams}, num_return_sequences={config.num_return_sequences}, "
            f"rules={config.rules!r}: speculative decoding writes one sequence a row by transformers' rules; set both "
            "numbers to 1 and leave rules out"
        )
    if num_assistant_tokens < 1:
        raise ValueError(f"num_assistant_tokens={num_assistant_tokens}: expected 1 or more")
    if not isinstance(model, Verifier):
        raise ValueError(
            f"{type(model).__name__} cannot verify drafts: it has no `extend` to read several tokens at once, as "
            "EncoderDecoder has; it can be the assistant"
        )
