"""The best continuations of a row's beams, wherever beams and vocabulary lie."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from vitjax.decoding.top_k import top_k


class Share(NamedTuple):
    """What part of a search this device has, inside a `jax.shard_map`.

    Attributes:
      first_row: place in the whole batch of the first row that is here.
      beam_axis: mesh axis over which the beams of a row lie, the same number on each device; None: all are here.
      vocabulary_axis: mesh axis, left to the compiler, over which the logits may be split by token; None: they are not.
      local_rows: whether the rows lie on this device, so that some can be picked without moving them between devices.
    """

    first_row: int | Int[Array, ""] = 0
    beam_axis: str | None = None
    vocabulary_axis: str | None = None
    local_rows: bool = False


ALL = Share()


class Continuations(NamedTuple):
    """M pairs of a beam and its next token, best first; equal ones by beam, then by token."""

    scores: Float[Array, "B M"]
    log_probs: Float[Array, "B M"]
    parents: Int[Array, "B M"]
    tokens: Int[Array, "B M"]


def best_continuations(
    scores: Float[Array, "B k V"],
    log_probs: Float[Array, "B k V"],
    count: int,
    share: Share = ALL,
) -> Continuations:
    """The `count` pairs with the highest scores among all beams and tokens, with their log-probabilities.

    Where beams or vocabulary are split, every device finds its own best, only these travel, and all devices choose
    among them alike.
    """
    vocabulary = scores.shape[-1]
    split = share.vocabulary_axis
    if split is not None and vocabulary % jax.sharding.get_abstract_mesh().shape[split]:
        split = None  # such a head is whole on every device (parallel.sharding)

    def best(scores: Array, log_probs: Array) -> tuple[Array, Array, Array]:
        _, beams, tokens = scores.shape
        found, place = top_k(scores.reshape(-1, beams * tokens), min(count, beams * tokens))
        log_probs = jnp.take_along_axis(log_probs.reshape(-1, beams * tokens), place, axis=1)
        index = place
        if split is not None:
            index = place // tokens * vocabulary + place % tokens + _start(split, tokens)
        index = index + _start(share.beam_axis, beams) * vocabulary
        names = tuple(axis for axis in (share.beam_axis, split) if axis is not None)
        if names:
            found, index, log_probs = jax.lax.all_gather((found, index, log_probs), names, axis=1, tiled=True)
            worst, index, log_probs = jax.lax.sort((-found, index, log_probs), num_keys=2)
            found = -worst
        return found[:, :count], index[:, :count], log_probs[:, :count]

    if split is not None:
        parts = PartitionSpec(None, None, split)
        best = jax.shard_map(
            best, axis_names={split}, in_specs=(parts, parts), out_specs=PartitionSpec(), check_vma=False
        )
    found, index, log_probs = best(scores, log_probs)
    return Continuations(found, log_probs, index // vocabulary, index % vocabulary)


def whole_vocabulary(logits: Float[Array, "B K V"], share: Share = ALL) -> Float[Array, "B K V"]:
    """The logits whole on every device, for rules that look at all of a distribution again and again."""
    if share.vocabulary_axis is None:
        return logits
    return jax.lax.with_sharding_constraint(logits, PartitionSpec())


def _start(axis: str | None, size: int) -> int | Int[Array, ""]:
    """Where this device's share of `size` begins."""
    return 0 if axis is None else jax.lax.axis_index(axis) * size
