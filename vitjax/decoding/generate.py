"""From a source to sequences in two compiled programs, with nothing on the host between tokens."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Int

from vitjax.decoding.allowed import AllowedSequences
from vitjax.decoding.beam_search import beam_search
from vitjax.decoding.buckets import bucket, is_spread, pad_columns, pad_rows
from vitjax.decoding.candidates import Share
from vitjax.decoding.config import GenerationConfig
from vitjax.decoding.protocol import SequenceModel
from vitjax.decoding.request import decodable, limits_of, longest, make_request, start_tokens
from vitjax.decoding.sample import one_per_row, pad_keys, require_key, sample
from vitjax.decoding.sequences import Sequences
from vitjax.decoding.spread import (
    keeps_shape,
    place_params,
    place_rows,
    place_whole,
    require_beams,
    row_parts,
    search_over,
)
from vitjax.decoding.warpers import Warpers
from vitjax.nn.functional import Tree


def generate(
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
    allowed: AllowedSequences | None = None,
    batch_size: int | None = None,
    mesh: Mesh | None = None,
) -> Sequences:
    """Encode the source, then decode it: `decode(encode(source))`.

    Rows, source tokens, prompts and maximum lengths are padded to the next of a few sizes (`buckets.bucket`), so that
    calls of nearly one size share their programs. A source that lies on several devices keeps its shape.

    Args:
      definition: what `vitjax.nn.functional.split` gave for the model; static.
      params: its parameters, a nested dict; new values compile nothing.
      source: images [B, H, W, channels] or tokens [B, S].
      source_mask: True where a source token is real.
      prompt: first decoder tokens of each row; the config's start token if None. It is part of the result.
      prompt_mask: True where the prompt is real; prompts of different lengths are padded on the left.
      stats: BatchNorm statistics, if the model has any.
      config: what to generate; static, but for its lengths and the numbers that shape sampling.
      key: a `jax.random.key` if `config.do_sample`: what a row draws depends on it and on the row's place alone; or
        [B] keys, one a row: then its place does not matter either.
      allowed: the sequences to choose from, `AllowedSequences.of(...)`; None allows all.
      batch_size: rows to pad to, at least B: give it where the last batch of many is smaller, and it compiles nothing.
      mesh: devices to share the work (`vitjax.parallel.mesh.make_mesh`): rows over `data` and `fsdp`, beams over
        `beam`, heads and vocabulary over `tensor`. Parameters are placed on it if they are not there; None leaves
        all where it is.

    Raises:
      ValueError: the model has no decoder, prompt and lengths do not fit, or a key is missing or of no use.
    """
    rows = source.shape[0]
    params, stats = place_params(params, mesh), place_params(stats or {}, mesh)
    source, source_mask = pad_source(
        definition, params, source, source_mask=source_mask, stats=stats, batch_size=batch_size, mesh=mesh
    )
    encoded = encode(definition, params, source, source_mask=source_mask, stats=stats, mesh=mesh)
    return decode(
        definition,
        params,
        encoded,
        prompt=prompt,
        prompt_mask=prompt_mask,
        stats=stats,
        config=config,
        key=key,
        allowed=allowed,
        rows=rows,
        mesh=mesh,
    )


def pad_source(
    definition: Any,
    params: Tree,
    source: Any,
    *,
    source_mask: Bool[Array | np.ndarray, "B S"] | None = None,
    stats: Tree | None = None,
    batch_size: int | None = None,
    mesh: Mesh | None = None,
) -> tuple[Any, Any]:
    """`(source, source_mask)` brought to a size that programs are compiled for. Arguments as in `generate`."""
    if keeps_shape(source, mesh):
        return source, source_mask
    rows = source.shape[0]
    parts = row_parts(mesh)  # each has a bucket of its own
    batch = parts * bucket(-(-rows // parts)) if batch_size is None else batch_size
    if batch < rows:
        raise ValueError(f"batch_size={batch_size} is less than the {rows} rows of the source: raise it")
    if jnp.issubdtype(source.dtype, jnp.integer) and source.ndim == 2:
        limit, _ = longest(definition, params, stats)
        length = bucket(source.shape[1], limit=limit)
        if source_mask is None:
            source_mask = jax.device_put(np.ones(source.shape, bool))
        source = pad_columns(source, length, 0)
        source_mask = pad_columns(source_mask, length, False)
    return pad_rows(source, batch), None if source_mask is None else pad_rows(source_mask, batch)


def encode(
    definition: Any,
    params: Tree,
    source: Any,
    *,
    source_mask: Bool[Array | np.ndarray, "B S"] | None = None,
    stats: Tree | None = None,
    mesh: Mesh | None = None,
) -> Any:
    """The first program: what the model's encoder makes of the source. Arguments as in `generate`."""
    params, stats = place_params(params, mesh), place_params(stats or {}, mesh)
    return _encode(definition, params, stats, place_rows(source, mesh), place_rows(source_mask, mesh))


def decode(
    definition: Any,
    params: Tree,
    encoded: Any,
    *,
    prompt: Int[Array | np.ndarray, "b P"] | None = None,
    prompt_mask: Bool[Array | np.ndarray, "b P"] | None = None,
    stats: Tree | None = None,
    config: GenerationConfig,
    key: Any = None,
    allowed: AllowedSequences | None = None,
    rows: int | None = None,
    mesh: Mesh | None = None,
) -> Sequences:
    """The second program: prompt, loop over tokens and choice of the best. Arguments as in `generate`.

    Args:
      encoded: what `encode` returned, of B rows.
      rows: b, the first rows of `encoded` that are real (None: all); the others are not waited for and not returned.
    """
    require_beams(config, mesh)
    _, target = longest(definition, params, stats)
    request = make_request(
        config, encoded, prompt=prompt, prompt_mask=prompt_mask, rows=rows, longest=target, mesh=mesh
    )
    limits = request.limits
    out = _decode(
        definition,
        request.config,
        limits.size,
        mesh,
        not is_spread(jax.tree.leaves(encoded)[0]),
        place_params(params, mesh),
        place_params(stats or {}, mesh),
        place_rows(encoded, mesh),
        request.prompt,
        request.prompt_mask,
        request.numbers,
        request.warpers,
        place_whole(pad_keys(key, jax.tree.leaves(encoded)[0].shape[0]), mesh),
        place_whole(allowed, mesh),
    )
    return out.cut(request.rows, limits.padding, limits.maximum)


def encode_and_decode(
    model: SequenceModel,
    source: Any,
    *,
    source_mask: Bool[Array, "B S"] | None = None,
    prompt: Int[Array, "B P"] | None = None,
    prompt_mask: Bool[Array, "B P"] | None = None,
    config: GenerationConfig,
    key: Any = None,
    allowed: AllowedSequences | None = None,
) -> Sequences:
    """Both programs in one, traceable: to export, or to use inside your own `jax.jit`. No buckets."""
    encoded = model.encode(source, source_mask=source_mask, train=False)
    return _search(model, encoded, prompt, prompt_mask, config=config, key=key, allowed=allowed)


@partial(jax.jit, static_argnums=0)
def _encode(definition: Any, params: Tree, stats: Tree, source: Any, source_mask: Any) -> Any:
    model = decodable(definition, params, stats)
    return model.encode(source, source_mask=source_mask, train=False)


@partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _decode(
    definition: Any,
    config: GenerationConfig,
    size: int,
    mesh: Mesh | None,
    local_rows: bool,
    params: Tree,
    stats: Tree,
    encoded: Any,
    prompt: Any,
    prompt_mask: Any,
    numbers: Int[Array, "4"],
    warpers: Warpers | None = None,
    key: Any = None,
    allowed: AllowedSequences | None = None,
) -> Sequences:
    def search(whole: Any, by_rows: Any, share: Share) -> Sequences:
        params, stats, numbers, warpers, allowed = whole
        encoded, prompt, prompt_mask, key = by_rows
        return _search(
            decodable(definition, params, stats),
            encoded,
            prompt,
            prompt_mask,
            config=config,
            key=key,
            warpers=warpers,
            allowed=allowed,
            limits=limits_of(prompt, size, numbers),
            rows=numbers[3] - share.first_row,
            share=share,
        )

    if key is not None:
        key = one_per_row(key, jax.tree.leaves(encoded)[0].shape[0])
    parts = (params, stats, numbers, warpers, allowed), (encoded, prompt, prompt_mask, key)
    if mesh is None:
        return search(*parts, Share(local_rows=local_rows))
    return search_over(mesh, search, *parts)


def _search(
    model: SequenceModel,
    encoded: Any,
    prompt: Any,
    prompt_mask: Any,
    *,
    config: GenerationConfig,
    key: Any,
    warpers: Warpers | None = None,
    **options: Any,
) -> Sequences:
    prompt = start_tokens(prompt, encoded, config)
    require_key(config, key)
    if config.num_beams > 1 or config.rules != "transformers":
        return beam_search(model, encoded, prompt, prompt_mask, config=config, **options)
    return sample(model, encoded, prompt, prompt_mask, config=config, key=key, warpers=warpers, **options)
