"""What a call asks for, brought to sizes that programs are compiled for."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int

from vitjax.decoding import loop
from vitjax.decoding.buckets import bucket, pad_columns, pad_rows
from vitjax.decoding.config import GenerationConfig, Limits
from vitjax.decoding.protocol import SequenceModel
from vitjax.decoding.spread import keeps_shape, place_rows, place_whole
from vitjax.decoding.warpers import Warpers
from vitjax.nn.functional import Tree, merge

NO_TOKEN = -1  # in the columns that only fill a prompt up to the length of its bucket


class Request(NamedTuple):
    """Arguments of the programs that write.

    Attributes:
      config: the part that programs are compiled for.
      limits: columns, as numbers of the host.
      rows: of the batch, those that are real.
      prompt, prompt_mask: [B, P] with the columns and rows of their buckets, or None.
      numbers: padding, minimum, maximum and rows once more, on the device.
      warpers: on the device.
    """

    config: GenerationConfig
    limits: Limits
    rows: int
    prompt: Any
    prompt_mask: Any
    numbers: Any
    warpers: Warpers


def make_request(
    config: GenerationConfig,
    encoded: Any,
    *,
    prompt: Any,
    prompt_mask: Any,
    rows: int | None,
    longest: int | None,
    mesh: Mesh | None = None,
) -> Request:
    """Pad prompts and lengths to their buckets, unless the batch keeps its shape, and place them on the mesh.

    Args:
      encoded: of B rows, of which the first `rows` are real (None: all).
      longest: most tokens that the model can write, None if any number.

    Raises:
      ValueError: prompt, mask and lengths do not fit.
    """
    if prompt_mask is not None and (prompt is None or prompt_mask.shape != prompt.shape):
        shape = None if prompt is None else prompt.shape
        raise ValueError(
            f"prompt_mask is {prompt_mask.shape} and prompt {shape}: expected one mask value a token"
        )
    leaf = jax.tree.leaves(encoded)[0]
    batch = leaf.shape[0]
    rows = batch if rows is None else rows
    length = 1 if prompt is None else prompt.shape[1]
    limits = config.limits(length)
    limits.require_room(longest)
    if not keeps_shape(leaf, mesh):
        padding = bucket(length) - length
        maximum = limits.maximum + padding
        limits = Limits(
            prompt=bucket(length),
            size=bucket(maximum, step=loop.CHUNK),
            padding=padding,
            minimum=limits.minimum + padding,
            maximum=maximum,
        )
        if prompt is not None and length > 1:
            mask = jax.device_put(np.ones(prompt.shape, bool)) if prompt_mask is None else prompt_mask
            prompt_mask = pad_columns(mask, limits.prompt, False, left=True)
            prompt = pad_columns(prompt, limits.prompt, NO_TOKEN, left=True)
        prompt = None if prompt is None else pad_rows(prompt, batch)
        prompt_mask = None if prompt_mask is None else pad_rows(prompt_mask, batch)
    numbers = np.asarray([limits.padding, limits.minimum, limits.maximum, rows], np.int32)
    numbers, warpers = place_whole((numbers, Warpers.of(config)), mesh)
    prompt, prompt_mask = place_rows(prompt, mesh), place_rows(prompt_mask, mesh)
    return Request(config.without_numbers(), limits, rows, prompt, prompt_mask, numbers, warpers)


def limits_of(prompt: Any, size: int, numbers: Int[Array, "4"]) -> Limits:
    """The limits inside a program."""
    padding, minimum, maximum, _ = numbers
    return Limits(1 if prompt is None else prompt.shape[1], size, padding, minimum, maximum)


def start_tokens(prompt: Any, encoded: Any, config: GenerationConfig) -> Int[Array, "B P"]:
    """The prompt, or the config's start token for each row of `encoded`."""
    if prompt is not None:
        return prompt
    return jnp.full((jax.tree.leaves(encoded)[0].shape[0], 1), config.start_id, jnp.int32)


def decodable(definition: Any, params: Tree, stats: Tree | None) -> SequenceModel:
    """The model; ValueError if it is none that writes."""
    model = merge(definition, params, stats)
    if not isinstance(model, SequenceModel):
        raise ValueError(
            f"{type(model).__name__} cannot generate: expected a model with encode, init_cache, prefill and step, "
            "such as EncoderDecoder or ShowAttendTell"
        )
    return model


_LONGEST: dict[Any, tuple[int | None, int | None]] = {}


def longest(definition: Any, params: Tree, stats: Tree | None) -> tuple[int | None, int | None]:
    """The model's longest source and target, looked up once."""
    if definition not in _LONGEST:
        model = decodable(definition, params, stats)
        _LONGEST[definition] = (model.max_source_length, model.max_target_length)
    return _LONGEST[definition]
