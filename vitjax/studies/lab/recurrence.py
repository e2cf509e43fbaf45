"""What waiting for the token before does to readers: to the reach of gradients, to training steps."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from vitjax.analysis.programs import longest_chain
from vitjax.nn.functional import Tree, merge, split
from vitjax.nn.recurrent import LSTMState
from vitjax.nn.stack import layers
from vitjax.parallel.mesh import MeshConfig, make_mesh
from vitjax.studies.lab.programs import Program, seconds
from vitjax.studies.lab.readers import LSTM, TRANSFORMER, Reader, prose
from vitjax.studies.lab.training import cross_entropy


@partial(jax.jit, static_argnums=0)
@partial(jax.vmap, in_axes=(None, 0, None))
def by_distance(definition: nnx.GraphDef, params: Tree, tokens: Int[Array, "B T"]) -> Float[Array, " T"]:
    """Norm of the gradient of what is said last with respect to the vector of the token k before, k = 0, 1, ..."""
    reader = merge(definition, params)

    def said(x: Float[Array, "B T D"]) -> Array:
        signs = (-1.0) ** jnp.arange(x.shape[-1])  # what all numbers share a norm takes away
        return (reader.run(x)[:, -1] * signs).sum()

    return jnp.sqrt((jax.grad(said)(reader.embed(tokens)) ** 2).sum((0, 2)))[::-1]


@partial(jax.jit, static_argnums=0)
@partial(jax.vmap, in_axes=(None, 0, None))
def carousel(definition: nnx.GraphDef, params: Tree, tokens: Int[Array, "B T"]) -> tuple[Array, Array, Array]:
    """The memory of an LSTM of one layer.

    Returns:
      How far the gradient from each memory to the last, along the memory (what the gates owe to what was said is held
      fixed, as in Hochreiter and Schmidhuber), is from the product of the forget gates between, at most and relative
      to it; the mean of these gates; the mean of their product from the first token to the last.
    """
    reader = merge(definition, params)
    (cell,) = layers(reader.layers, 1)

    def step(state: LSTMState, inputs: Float[Array, "B G"]) -> tuple[LSTMState, tuple[Array, Array]]:
        def keep(memory: Float[Array, "B D"]) -> Float[Array, "B D"]:
            return cell.advance(inputs, LSTMState(state.hidden, memory)).cell

        _, slope = jax.jvp(keep, (state.cell,), (jnp.ones_like(state.cell),))
        return cell.advance(inputs, state), (slope, cell.gates(inputs, state).forget)

    inputs = jnp.swapaxes(cell.input(reader.embed(tokens)), 0, 1)  # [T, B, G]
    _, each = jax.lax.scan(step, cell.initial_state(len(tokens)), inputs)
    gradient, product = (jnp.cumprod(of[:0:-1], axis=0) for of in each)  # over the last 1, 2, ... steps
    return jnp.abs(gradient / product - 1).max(), each[1].mean(), product[-1].mean()


def training_steps(
    devices: int, width: int, rows: int, lengths: Sequence[int], repeats: int
) -> tuple[dict, dict, dict]:
    """Gradients of all parameters of an LSTM and a Transformer, from rows of text whose tokens are spread over devices.

    Returns:
      Of each reader, the matrix products that wait for each other, by length; the operations of one device at the
      longest; the seconds, by length.
    """
    mesh = make_mesh(MeshConfig(data=devices), jax.devices()[:devices])
    shardings = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec(None, "data"))
    programs: dict[tuple[str, int], Program] = {}
    chain: dict[str, list[int]] = {LSTM: [], TRANSFORMER: []}
    for name in chain:
        definition, params, _ = split(Reader(name, width, every=True, rngs=nnx.Rngs(0)))
        step = partial(_gradients, definition)
        for length in lengths:
            text = prose(length, rows)
            arguments = jax.device_put((params, (text.inputs, text.answers)), shardings)
            programs[name, length] = Program.of(step, arguments, devices=devices)
            chain[name].append(longest_chain(step, *arguments))
    times = seconds(programs, repeats, rounds=3)

    def work(name: str) -> float:
        counted = [programs[name, length].flops for length in lengths]
        if name == TRANSFORMER:
            return counted[-1]
        # XLA counts one turn of the loop over tokens, and all that is done outside:
        outside, turn = np.polyfit(lengths[:2], counted[:2], 1)
        return float((outside + turn) * lengths[-1])

    return (
        chain,
        {name: work(name) for name in chain},
        {name: [times[name, length].values for length in lengths] for name in chain},
    )


def _gradients(definition: nnx.GraphDef, params: Tree, batch: tuple[Array, Array]) -> Tree:
    return jax.grad(lambda params: cross_entropy(merge(definition, params), batch))(params)
