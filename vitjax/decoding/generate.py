"""From a source to sequences in two compiled programs, with nothing on the host between tokens."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from vitjax.decoding.beam_search import beam_search
from vitjax.decoding.config import GenerationConfig
from vitjax.decoding.greedy import greedy
from vitjax.decoding.protocol import SequenceModel
from vitjax.decoding.sequences import Sequences
from vitjax.nn.functional import Tree, merge


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
) -> Sequences:
    """Encode the source, then decode it: `decode(encode(source))`.

    Args:
      definition: what `vitjax.nn.functional.split` gave for the model; static.
      params: its parameters, a nested dict; new values compile nothing.
      source: images [B, H, W, channels] or tokens [B, S].
      source_mask: True where a source token is real.
      prompt: first decoder tokens of each row; the config's start token if None. It is part of the result.
      prompt_mask: True where the prompt is real; prompts of different lengths are padded on the left.
      stats: BatchNorm statistics, if the model has any.
      config: what to generate; static.

    Raises:
      ValueError: the model has no decoder, or prompt and lengths do not fit.
    """
    encoded = encode(definition, params, source, source_mask=source_mask, stats=stats)
    return decode(
        definition, params, encoded, prompt=prompt, prompt_mask=prompt_mask, stats=stats, config=config
    )


def encode(
    definition: Any,
    params: Tree,
    source: Any,
    *,
    source_mask: Bool[Array | np.ndarray, "B S"] | None = None,
    stats: Tree | None = None,
) -> Any:
    """The first program: what the model's encoder makes of the source. Arguments as in `generate`."""
    return _encode(definition, params, stats or {}, source, source_mask)


def decode(
    definition: Any,
    params: Tree,
    encoded: Any,
    *,
    prompt: Int[Array | np.ndarray, "B P"] | None = None,
    prompt_mask: Bool[Array | np.ndarray, "B P"] | None = None,
    stats: Tree | None = None,
    config: GenerationConfig,
) -> Sequences:
    """The second program: prompt, loop over tokens and choice of the best. Arguments as in `generate`.

    Args:
      encoded: what `encode` returned.
    """
    if prompt_mask is not None and (prompt is None or prompt_mask.shape != prompt.shape):
        shape = None if prompt is None else prompt.shape
        raise ValueError(
            f"prompt_mask is {prompt_mask.shape} and prompt {shape}: expected one mask value a token"
        )
    return _decode(definition, config, params, stats or {}, encoded, prompt, prompt_mask)


@partial(jax.jit, static_argnums=0)
def _encode(definition: Any, params: Tree, stats: Tree, source: Any, source_mask: Any) -> Any:
    model = _decodable(merge(definition, params, stats))
    return model.encode(source, source_mask=source_mask, train=False)


@partial(jax.jit, static_argnums=(0, 1))
def _decode(
    definition: Any,
    config: GenerationConfig,
    params: Tree,
    stats: Tree,
    encoded: Any,
    prompt: Any,
    prompt_mask: Any,
) -> Sequences:
    model = _decodable(merge(definition, params, stats))
    if prompt is None:
        rows = jax.tree.leaves(encoded)[0].shape[0]
        prompt = jnp.full((rows, 1), config.start_id, jnp.int32)
    search = greedy if config.num_beams == 1 else beam_search
    return search(model, encoded, prompt, prompt_mask, config=config)


def _decodable(model: Any) -> SequenceModel:
    if not isinstance(model, SequenceModel):
        raise ValueError(
            f"{type(model).__name__} cannot generate: expected a model with encode, init_cache, prefill and step, "
            "such as EncoderDecoder or ShowAttendTell"
        )
    return model
