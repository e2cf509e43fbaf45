"""What a run will cost, found by compiling its step and allocating nothing."""

import dataclasses
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
from jax.sharding import Mesh

from vitjax.analysis.complexity import complexity
from vitjax.models.config import reads_images
from vitjax.nn.blocks import TransformerConfig
from vitjax.nn.functional import Tree
from vitjax.parallel.sharding import Placement, explain
from vitjax.training.config import Config
from vitjax.training.lora import LORA
from vitjax.training.state import join, make_setup
from vitjax.training.step import make_train_step, train_step
from vitjax.training.tasks import batch_shapes

T = TypeVar("T")


@dataclass(frozen=True)
class Plan:
    """A run's cost.

    Attributes:
      parameters, trainable: numbers: of the model's, frozen ones included, and of what is trained, LoRA's factors too.
      state_bytes: of the whole training state, over all devices, each array counted once.
      analytic_flops: of one step that trains every parameter, counted from the config (`vitjax.analysis.complexity`).
      xla_flops: of one step, as XLA counts the program with its layers written out; None where it does not say.
      argument_bytes, temporary_bytes: on each device, the state with the batch, and what a step needs beside them.
      arrays: where each parameter lies, and why.
    """

    parameters: int
    trainable: int
    state_bytes: int
    analytic_flops: int
    xla_flops: float | None
    argument_bytes: int
    temporary_bytes: int
    arrays: list[Placement]


def make_plan(config: Config, mesh: Mesh) -> Plan:
    """Compile the training step ahead of time for the mesh; no data is touched."""
    setup = make_setup(config, mesh)
    batch = batch_shapes(config)
    compiled = make_train_step(setup, mesh).lower(setup.shapes, batch).compile()
    memory = compiled.memory_analysis()
    assert memory is not None  # every backend of jaxlib tells
    params = join(setup.shapes.params, setup.shapes.frozen)
    return Plan(
        parameters=_count({name: part for name, part in params.items() if name != LORA}),
        trainable=_count(setup.shapes.params),
        state_bytes=sum(_bytes(leaf) for leaf in jax.tree.leaves(setup.shapes)),
        analytic_flops=_analytic(config),
        xla_flops=_counted_by_xla(config, mesh),
        argument_bytes=memory.argument_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        arrays=explain(params, mesh),
    )


def _analytic(config: Config) -> int:
    size = config.data.image_size if reads_images(config.model) else None
    cost = complexity(
        config.model,
        image_size=size,
        source_length=None if size else config.data.max_length,
        target_length=config.data.max_length - 1,
    )
    return config.train.batch_size * cost.training_flops


def _counted_by_xla(config: Config, mesh: Mesh) -> float | None:
    """XLA counts the body of a loop once: so of the same step without loops, lowered and not compiled."""
    train = dataclasses.replace(config.train, accumulate=1)
    flat = dataclasses.replace(_unrolled(config), train=train)
    setup = make_setup(flat, mesh)
    lowered = jax.jit(lambda state, batch: train_step(setup, state, batch)).lower(
        setup.shapes, batch_shapes(flat)
    )
    analysis = lowered.cost_analysis()
    return float(analysis["flops"]) if analysis and "flops" in analysis else None


def _unrolled(config: T) -> T:
    """The same config with every stack of layers written out."""
    changes: dict[str, Any] = {"unroll": True} if isinstance(config, TransformerConfig) else {}
    for field in dataclasses.fields(config):  # type: ignore[arg-type]  # always a dataclass
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            changes[field.name] = _unrolled(value)
    return dataclasses.replace(config, **changes) if changes else config  # type: ignore[type-var]


def _count(tree: Tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _bytes(leaf: jax.ShapeDtypeStruct) -> int:
    size = 8 if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf.dtype.itemsize
    return leaf.size * size
