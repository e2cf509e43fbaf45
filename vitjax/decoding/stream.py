"""Tokens as they are written: a few at a time, in two compiled programs that hand the decoder's memory on."""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Int

from vitjax.decoding.config import GenerationConfig
from vitjax.decoding.generate import encode, pad_source
from vitjax.decoding.request import Request, decodable, limits_of, longest, make_request, start_tokens
from vitjax.decoding.sample import State, Writer, pad_keys, require_key, row_keys
from vitjax.nn.functional import Tree


def stream(
    definition: Any,
    params: Tree,
    source: Any,
    *,
    source_mask: Bool[Array | np.ndarray, "B S"] | None = None,
    prompt: Int[Array | np.ndarray, "B P"] | None = None,
    prompt_mask: Bool[Array | np.ndarray, "B P"] | None = None,
    stats: Tree | None = None,
    config: GenerationConfig,
    key: Any = None,
    batch_size: int | None = None,
    chunk_size: int = 8,
) -> Iterator[Int[np.ndarray, "B N n"]]:
    """Write greedily or by sampling, and give the new tokens out as soon as there are `chunk_size` of them.

    Joined along the last axis they are the new tokens of `generate` with the same arguments, up to the end of the
    longest sequence; a sequence that ended before is followed by filler. The host waits once a chunk. Chunks of any
    size share their programs, which are compiled for the same buckets as those of `generate`.

    Args:
      chunk_size: n, tokens given out at a time; the last may be fewer. Other arguments as in `generate`.

    Raises:
      ValueError: as in `generate`, at once and not with the first token; or the config asks for beams, all of whose
        tokens may change until the end.
    """
    if config.num_beams > 1 or config.rules != "transformers":
        raise ValueError(
            f"num_beams={config.num_beams}, rules={config.rules!r}: beam search may change its tokens until the end, "
            "so there is nothing to stream; set num_beams=1 and leave rules out, or use generate"
        )
    if chunk_size < 1:
        raise ValueError(f"chunk_size={chunk_size}: expected 1 or more tokens")
    require_key(config, key)
    rows = source.shape[0]
    source, source_mask = pad_source(
        definition, params, source, source_mask=source_mask, stats=stats, batch_size=batch_size
    )
    encoded = encode(definition, params, source, source_mask=source_mask, stats=stats)
    _, target = longest(definition, params, stats)
    request = make_request(config, encoded, prompt=prompt, prompt_mask=prompt_mask, rows=rows, longest=target)
    session, state = _start(
        request.config,
        request.limits.size,
        definition,
        params,
        stats or {},
        encoded,
        *request[3:],
        pad_keys(key, source.shape[0]),
    )
    return _chunks(request, session, state, chunk_size)


def _chunks(request: Request, session: "_Session", state: State, size: int) -> Iterator[np.ndarray]:
    limits = request.limits
    written, done = limits.prompt, False
    while not done and written < limits.maximum:
        state, out = _continue(
            request.config, limits.size, session, state, jax.device_put(np.int32(written + size))
        )
        tokens, length, done = jax.device_get(out)
        yield tokens[: request.rows, :, written:length]
        written = int(length)


class _Session(NamedTuple):
    """What the second program needs every time: the model made ready, its definition, and what the request said."""

    definition: Any
    state: Any
    prompt: Array
    prompt_mask: Array | None
    numbers: Array
    warpers: Any
    key: Any

    def writer(self, config: GenerationConfig, size: int) -> Writer:
        model = nnx.merge(self.definition, self.state)
        keys = None if self.key is None else row_keys(self.key, self.prompt.shape[0], config.num_slots)
        limits = limits_of(self.prompt, size, self.numbers)
        return Writer(model, config, limits, self.warpers, keys, self.prompt_mask, grows=False)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _start(
    config: GenerationConfig,
    size: int,
    definition: Any,
    params: Tree,
    stats: Tree,
    encoded: Any,
    prompt: Any,
    prompt_mask: Any,
    numbers: Int[Array, "4"],
    warpers: Any,
    key: Any,
) -> tuple[_Session, State]:
    """Read the prompt and write the first token."""
    prompt = start_tokens(prompt, encoded, config)
    model = decodable(definition, params, stats).prepared()
    session = _Session(*nnx.split(model), prompt, prompt_mask, numbers, warpers, key)
    state = session.writer(config, size).start(encoded, prompt, numbers[3])
    # Strong types, as the other program returns them, or it would be compiled twice.
    return session, jax.tree.map(lambda leaf: jax.lax.convert_element_type(leaf, leaf.dtype), state)


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=3)
def _continue(
    config: GenerationConfig, size: int, session: _Session, state: State, length: Int[Array, ""]
) -> tuple[State, tuple[Array, Array, Array]]:
    """Write on until sequences have `length` tokens or all have ended: tokens, their number, whether that is all."""
    writer = session.writer(config, size)
    state = writer.run(state, jnp.minimum(length, writer.limits.maximum))
    return state, (state.tokens, state.length, jnp.all(state.done))
