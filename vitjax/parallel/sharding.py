"""Where each array lives: one table of rules from parameter paths to mesh axes.

The scheme is Megatron-LM's for the `tensor` axis (heads, feed-forward width and vocabulary are split, so that a block
needs one reduction after attention and one after the feed-forward) and ZeRO-3's for `fsdp` (every matrix is split along
its largest remaining dimension and gathered where it is used). A dimension that an axis does not divide stays whole,
and `explain` says so. Vectors (norm scales, most biases) stay whole: gathering them costs more than they weigh.
"""

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vitjax.parallel.paths import is_stacked, named_leaves, path_name

BATCH_AXES = ("data", "fsdp")


@dataclasses.dataclass(frozen=True)
class Rule:
    """Names the dimensions of the arrays whose path ends in `pattern` (a regular expression, whole components).

    One dimension more than `dims` is the layer axis of a stack. `dims` None: a rule for whatever is left, of any rank.
    """

    pattern: str
    dims: tuple[str, ...] | None

    def matches(self, path: str) -> bool:
        return re.search(rf"(^|/)(?:{self.pattern})$", path) is not None


VECTORS = ("bias", "scale", "score_kernel")
TENSOR_DIMS = ("heads", "hidden", "vocabulary")

# The first rule that matches decides. Dimensions named in TENSOR_DIMS are split over `tensor`; of the others, the
# largest that divides over `fsdp`. A stack's leading layer axis is not named here and never split.
RULES: tuple[Rule, ...] = (
    Rule(r"(query|key|value)/kernel", ("width", "heads", "head_width")),
    Rule(r"(query|key|value)/bias", ("heads", "head_width")),
    Rule(r"(cross_)?attention/out/kernel", ("heads", "head_width", "width")),
    Rule(r"(cross_)?attention/score_kernel", ("heads", "head_width")),
    Rule(r"(up|gate)/kernel", ("width", "hidden")),
    Rule(r"(up|gate)/bias", ("hidden",)),
    Rule(r"down/kernel", ("hidden", "width")),
    Rule(r"positions/embedding", ("position", "width")),
    Rule(r"relative_bias/embedding", ("bucket", "heads")),
    Rule(r"(tokens|embedding)/embedding", ("vocabulary", "width")),
    Rule(r"head/kernel", ("width", "vocabulary")),
    Rule(r"head/bias|head_bias", ("vocabulary",)),
    # low-rank factors of kernels (vitjax.training.lora): the dimension that `tensor` splits is split in them too
    Rule(r"(query|key|value)/kernel/b", ("rank", "heads", "head_width")),
    Rule(r"(cross_)?attention/out/kernel/a", ("heads", "head_width", "rank")),
    Rule(r"(up|gate)/kernel/b", ("rank", "hidden")),
    Rule(r"down/kernel/a", ("hidden", "rank")),
    Rule(r".*", None),
)


@dataclasses.dataclass(frozen=True)
class Placement:
    """One array's place on the mesh, and why."""

    path: str
    shape: tuple[int, ...]
    spec: PartitionSpec
    reason: str


def explain(
    params: Any, mesh: Mesh, rules: Sequence[Rule] = RULES, *, axes: Sequence[str] = ("fsdp", "tensor")
) -> list[Placement]:
    """The place of every array of `params` (arrays or ShapeDtypeStructs), in tree order, each with its reason.

    Args:
        axes: mesh axes that parameters may be split over; over the others they are whole.
    """
    sizes = {axis: mesh.shape[axis] if axis in axes else 1 for axis in ("fsdp", "tensor")}
    return [_place(path, tuple(leaf.shape), sizes, rules) for path, leaf in named_leaves(params).items()]


def shardings(
    params: Any, mesh: Mesh, rules: Sequence[Rule] = RULES, *, axes: Sequence[str] = ("fsdp", "tensor")
) -> Any:
    """A tree like `params` (arrays or ShapeDtypeStructs) of NamedShardings. Arguments as in `explain`."""
    places = [NamedSharding(mesh, place.spec) for place in explain(params, mesh, rules, axes=axes)]
    return jax.tree.unflatten(jax.tree.structure(params), places)


def state_shardings(state: Any, params: Any, mesh: Mesh, rules: Sequence[Rule] = RULES) -> Any:
    """A tree like `state` of NamedShardings: what mirrors a parameter lies where the parameter lies.

    A leaf of `state` mirrors a parameter when its path ends in the parameter's path and the shapes agree: the
    parameters themselves, their moving average, an optimizer's moments. Everything else (step, keys, running
    statistics, Adafactor's row and column moments) is whole on every device.

    Args:
        state: any pytree of arrays or ShapeDtypeStructs, e.g. the train state with optax's state inside.
        params: the parameter tree that the rules' paths are about.
    """
    places = {place.path: place for place in explain(params, mesh, rules)}

    def mirrored(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        components = path_name(path).split("/")
        for start in range(len(components)):
            place = places.get("/".join(components[start:]))
            if place is not None:
                return NamedSharding(
                    mesh, place.spec if place.shape == tuple(leaf.shape) else PartitionSpec()
                )
        return NamedSharding(mesh, PartitionSpec())

    return jax.tree_util.tree_map_with_path(mirrored, state)


def batch_sharding(mesh: Mesh, batch_size: int | None = None) -> NamedSharding:
    """Splits the leading axis over `data` and `fsdp`; what follows it is whole.

    Raises:
        ValueError: `batch_size` (global) is given and is not a multiple of the number of parts.
    """
    parts = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    if batch_size is not None and batch_size % parts:
        raise ValueError(
            f"batch size {batch_size} is not a multiple of {parts} (mesh data={mesh.shape['data']} x "
            f"fsdp={mesh.shape['fsdp']}); choose {max(batch_size // parts, 1) * parts} or another mesh"
        )
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """Whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def _place(path: str, shape: tuple[int, ...], sizes: dict[str, int], rules: Sequence[Rule]) -> Placement:
    rule = next((rule for rule in rules if rule.matches(path)), None)
    if rule is None:
        return Placement(path, shape, PartitionSpec(), "no rule: replicated")
    dims = _named_dims(rule, path, shape)
    if dims is None:
        reason = f"rule {rule.pattern}: is about {rule.dims}, found {len(shape)} dimensions: replicated"
        return Placement(path, shape, PartitionSpec(), reason)

    axes: list[str | None] = [None] * len(shape)
    reasons = []
    if sizes["tensor"] > 1:
        for index, name in enumerate(dims):
            if name in TENSOR_DIMS:
                reasons.append(_split(axes, index, name, shape, "tensor", sizes["tensor"]))
    if sizes["fsdp"] > 1:
        vector = (
            path.rsplit("/", 1)[-1] in VECTORS
            or sum(n != "layers" and size > 1 for n, size in zip(dims, shape, strict=True)) < 2
        )
        reasons.append("a vector, not over fsdp" if vector else _split_fsdp(axes, dims, shape, sizes["fsdp"]))
    if not any(axes):
        reasons.append("whole on every device")
    while axes and axes[-1] is None:
        axes.pop()
    head = f"rule {rule.pattern}" if rule.dims else "no rule of its own"
    return Placement(path, shape, PartitionSpec(*axes), f"{head}: {'; '.join(reasons)}")


def _named_dims(rule: Rule, path: str, shape: tuple[int, ...]) -> tuple[str, ...] | None:
    """The name of each dimension, "layers" for a stack's leading one; None if the rule is about another rank."""
    if rule.dims is not None:
        layers = len(shape) - len(rule.dims)
        return ("layers",) * layers + rule.dims if layers in (0, 1) else None
    stacked = len(shape) > 1 and is_stacked(path)
    return tuple("layers" if stacked and index == 0 else f"dim {index}" for index in range(len(shape)))


def _split(
    axes: list[str | None], index: int, name: str, shape: tuple[int, ...], axis: str, parts: int
) -> str:
    if shape[index] % parts:
        return f"{name} {shape[index]} not divisible by {axis}={parts}: replicated"
    axes[index] = axis
    return f"{name} over {axis}"


def _split_fsdp(axes: list[str | None], dims: tuple[str, ...], shape: tuple[int, ...], parts: int) -> str:
    # Dimensions that `tensor` would take come last, so that a layout does not change its kind with the tensor axis.
    free = sorted(
        (index for index, name in enumerate(dims) if name != "layers" and axes[index] is None),
        key=lambda index: (dims[index] in TENSOR_DIMS, -shape[index]),
    )
    chosen = next((index for index in free if shape[index] % parts == 0), free[0] if free else None)
    if chosen is None:
        return "nothing left for fsdp"
    return _split(axes, chosen, dims[chosen], shape, "fsdp", parts)
