"""Training steps of an LSTM and a Transformer on one device and on eight: what waits, what is shared, the time."""

import statistics
import time
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from vitjax.analysis.programs import longest_chain
from vitjax.nn.functional import Tree, merge, split
from vitjax.parallel.mesh import MeshConfig, make_mesh
from vitjax.studies.lab.devices import on_cores, with_devices
from vitjax.studies.lab.study import Size
from vitjax.studies.transformer_or_lstm_readers import ReaderConfig, loss_of

DEVICES, ROWS, VOCABULARY = 8, 8, 16
CORES: tuple[Literal["lstm"], Literal["transformer"]] = ("lstm", "transformer")
ONE, BATCH, TOKENS = "one device", "batch", "tokens"  # what is spread
SPLITS = {  # over how many devices, and along which axis of the tokens
    ONE: (1, PartitionSpec()),
    BATCH: (DEVICES, PartitionSpec("data")),
    TOKENS: (DEVICES, PartitionSpec(None, "data")),
}


class Sizes(NamedTuple):
    """Width and lengths of the readers, what is spread, and how often each program is timed (0: none is)."""

    width: int
    lengths: tuple[int, ...]
    spreads: tuple[str, ...]
    rounds: int


SIZES: dict[Size, Sizes] = {
    "reduced": Sizes(16, (8, 16), (TOKENS,), 0),
    "full": Sizes(128, (32, 128, 512), (BATCH, TOKENS), 5),
    "long": Sizes(256, (32, 128, 512, 2048), (BATCH, TOKENS), 7),
}


class Steps(NamedTuple):
    """Training steps (gradients of all parameters) of a reader.

    Attributes:
      chain: matrix products that wait for each other, at each length.
      work: operations of one device at each length, by what is spread.
      seconds: by what is spread, at each length, of each seed; {} if none was timed.
    """

    chain: list[int]
    work: dict[str, list[float]]
    seconds: dict[str, list[list[float]]]


def measured(size: Size, seeds: tuple[int, ...]) -> dict[str, Steps]:
    """Of an LSTM and a Transformer, in this process if it has eight devices, else in one that has."""
    if jax.device_count() >= DEVICES:
        found = measure(size, seeds)
    else:
        found = with_devices(DEVICES, measure, size, seeds)
    return {core: Steps(*found[core]) for core in CORES}


def measure(size: Size, seeds: tuple[int, ...]) -> dict[str, Steps]:
    """The same, in this process."""
    sizes = SIZES[size]
    found: dict[str, Steps] = {}
    programs: dict[tuple[str, str, int], tuple[Any, list[tuple]]] = {}
    for core in CORES:
        config = ReaderConfig(core, VOCABULARY, sizes.width, answers="every")
        definition, params, _ = split(config.build(rngs=nnx.Rngs(0)))
        step = jax.jit(partial(_gradients, definition))
        chain = [longest_chain(step, params, *_batch(length, 0)) for length in sizes.lengths]
        found[core] = Steps(chain, {}, {})
        for name in (ONE, *sizes.spreads):
            devices, spec = SPLITS[name]
            mesh = make_mesh(MeshConfig(data=devices), jax.devices()[:devices])
            whole, spread = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, spec)
            counted = []
            for length in sizes.lengths:
                batches = [jax.device_put(_batch(length, seed), spread) for seed in seeds]
                arguments = [(jax.device_put(params, whole), *batch) for batch in batches]
                program: Any = step.lower(*arguments[0])
                if sizes.rounds or name != ONE:  # what each device does is known only then
                    program = program.compile()
                    programs[core, name, length] = program, arguments
                counted.append(program.cost_analysis()["flops"])
            found[core].work[name] = _all_steps(counted, sizes.lengths) if core == "lstm" else counted
    for place in range(len(seeds)) if sizes.rounds else ():
        times: dict[tuple[str, str, int], list[float]] = {key: [] for key in programs}
        for _ in range(sizes.rounds):
            for key, (compiled, arguments) in programs.items():
                with on_cores(SPLITS[key[1]][0]):
                    start = time.perf_counter()
                    jax.block_until_ready(compiled(*arguments[place]))  # slow at first: the median counts
                    times[key].append(time.perf_counter() - start)
        for (reader, name, length), values in times.items():
            seconds = found[reader].seconds.setdefault(name, [[] for _ in sizes.lengths])
            seconds[sizes.lengths.index(length)].append(statistics.median(values))
    return found


def _gradients(definition: nnx.GraphDef, params: Tree, tokens: Any, answers: Any) -> Tree:
    return jax.grad(lambda params: loss_of(merge(definition, params), tokens, answers))(params)


def _batch(length: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    tokens = np.random.default_rng(seed).integers(0, VOCABULARY, (ROWS, length + 1), dtype=np.int32)
    return tokens[:, :-1], tokens[:, 1:]


def _all_steps(counted: list[float], lengths: tuple[int, ...]) -> list[float]:
    """Operations of a program whose loop over tokens XLA counted once: it found outside * T + loop, of T times each."""
    outside = (counted[-1] - counted[0]) / (lengths[-1] - lengths[0])
    loop = counted[0] - outside * lengths[0]
    return [(outside + loop) * length for length in lengths]
