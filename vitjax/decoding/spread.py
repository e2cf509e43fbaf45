"""A search over a device mesh: rows over `data` and `fsdp`, beams over `beam`, heads and vocabulary over `tensor`."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array

from vitjax.decoding.buckets import is_spread
from vitjax.decoding.candidates import Share
from vitjax.decoding.config import GenerationConfig
from vitjax.decoding.sequences import Sequences
from vitjax.nn.functional import Tree
from vitjax.parallel.sharding import BATCH_AXES, batch_sharding, replicated, shardings

ROWS, WHOLE = PartitionSpec(BATCH_AXES), PartitionSpec()


def row_parts(mesh: Mesh | None) -> int:
    """Into how many parts a mesh splits the rows of a batch."""
    return 1 if mesh is None else math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def keeps_shape(array: Any, mesh: Mesh | None) -> bool:
    """Whether an array is not padded: it would have to come to this host, from devices or from other processes."""
    if mesh is None:
        return is_spread(array)
    return isinstance(array, jax.Array) and not array.is_fully_addressable


def require_beams(config: GenerationConfig, mesh: Mesh | None) -> None:
    """ValueError if the beams do not split evenly over the mesh."""
    parts = 1 if mesh is None else mesh.shape["beam"]
    if config.num_beams % parts:
        raise ValueError(
            f"num_beams={config.num_beams} does not split over mesh beam={parts}: make it a multiple of {parts}, or "
            "give these devices to data or tensor"
        )
    if parts > 1 and config.num_beam_groups > 1:
        raise ValueError(
            f"num_beam_groups={config.num_beam_groups} over mesh beam={parts}: groups choose one after the other, so "
            "their beams stay on one device; give the others to data or tensor"
        )


def search_over(
    mesh: Mesh, search: Callable[[Any, Any, Share], Sequences], whole: Any, by_rows: Any
) -> Sequences:
    """`search(whole, by_rows, share)` on every device with its own rows and beams; traceable.

    Devices that decode different rows say nothing to each other, and each group leaves its loop when its own rows are
    done. `tensor` is left to the compiler, which splits what the parameters are split by.

    Args:
      whole: arrays that every device sees whole (over `tensor`: as they lie).
      by_rows: arrays [B, ...] of which it sees its rows, from `share.first_row` on.
    """
    beam_axis, vocabulary_axis = (axis if mesh.shape[axis] > 1 else None for axis in ("beam", "tensor"))
    results = {name: ROWS for name in Sequences.__dataclass_fields__} | {"steps": WHOLE}

    @partial(
        jax.shard_map,
        mesh=mesh,
        axis_names={*BATCH_AXES, "beam"},
        in_specs=(WHOLE, ROWS),
        out_specs=results,
        check_vma=False,
    )
    def run(whole: Any, by_rows: Any) -> dict[str, Array]:
        first_row = jax.lax.axis_index(BATCH_AXES) * jax.tree.leaves(by_rows)[0].shape[0]
        out = search(whole, by_rows, Share(first_row, beam_axis, vocabulary_axis, local_rows=True))
        return vars(out) | {"steps": jax.lax.pmax(out.steps, BATCH_AXES)}

    return Sequences(**run(whole, by_rows))


def place_rows(tree: Any, mesh: Mesh | None) -> Any:
    """Arrays [B, ...] with their rows over the mesh; as they are if it is None.

    Raises:
      ValueError: B is not a multiple of the parts.
    """
    if mesh is None:
        return tree
    for leaf in jax.tree.leaves(tree):
        batch_sharding(mesh, leaf.shape[0])
    return jax.device_put(tree, batch_sharding(mesh))


def place_params(params: Tree, mesh: Mesh | None) -> Tree:
    """Parameters as a search reads them at every token: split over `tensor` alone; as they are if `mesh` is None."""
    return params if mesh is None else jax.device_put(params, shardings(params, mesh, axes=("tensor",)))


def place_whole(tree: Any, mesh: Mesh | None) -> Any:
    """Arrays whole on every device of the mesh; on JAX's own choice of device if it is None."""
    return jax.device_put(tree, None if mesh is None else replicated(mesh))
