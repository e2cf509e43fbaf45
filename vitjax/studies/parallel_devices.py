"""What the study `parallel` measures, in a process that has four devices: real ones, or parts of a CPU."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from vitjax.analysis.programs import Collective, collectives, in_loops, longest_chain, outside_loops
from vitjax.decoding import GenerationConfig, Sequences, encode
from vitjax.decoding.beam_search import beam_search
from vitjax.decoding.candidates import Share
from vitjax.decoding.request import start_tokens
from vitjax.decoding.sample import sample
from vitjax.decoding.spread import place_params, place_rows, search_over
from vitjax.models.decoder import DecoderConfig
from vitjax.models.encoder_decoder import Encoded, EncoderDecoderConfig
from vitjax.models.show_attend_tell import ShowAttendTellConfig
from vitjax.models.vit import VisionTransformerConfig
from vitjax.nn.blocks import TransformerConfig
from vitjax.nn.functional import Tree, abstract, merge, split
from vitjax.parallel.mesh import MeshConfig, make_mesh
from vitjax.studies.lab.devices import on_cores, with_devices
from vitjax.studies.lab.study import Size

DEVICES, ROWS, BEAMS, HEADS, PATCH = 4, 4, 8, 4, 4
SHORT = 4  # tokens of the text that longer ones are compared with
AXES = {"rows": "data", "tokens": "data", "heads": "tensor", "beams": "beam"}  # of the mesh


@dataclass(frozen=True)
class Sizes:
    """Of the model and of what it reads and writes.

    Attributes:
      sides: of the images, in patches; those of the side in the middle are spread over devices and decoded.
      lengths: tokens written; the last is that of the searches with beams.
      devices: how many to spread over.
      splits: what a search is spread by.
      rounds: how often each program is timed; the median counts.
    """

    width: int
    depth: int
    vocabulary: int
    sides: tuple[int, ...]
    lengths: tuple[int, ...]
    devices: tuple[int, ...]
    splits: tuple[str, ...]
    rounds: int

    @property
    def side(self) -> int:
        """Of the images that are spread over devices and decoded, in patches."""
        return self.sides[len(self.sides) // 2]

    @property
    def length(self) -> int:
        """Tokens that the searches with beams write."""
        return self.lengths[-1]


SIZES: dict[Size, Sizes] = {
    "reduced": Sizes(32, 1, 100, (4, 16), (16,), (4,), ("beams",), 3),
    "full": Sizes(256, 4, 1000, (4, 8, 16), (4, 8, 16), (2, 4), ("rows", "heads", "beams"), 5),
    "long": Sizes(512, 6, 8000, (4, 8, 16, 32), (8, 16, 32), (2, 4), ("rows", "heads", "beams"), 9),
}


def measured(size: Size, seeds: tuple[int, ...]) -> dict[str, Any]:
    """What `measure` returns, of this process's devices if they are four real ones, else of a process with four."""
    if jax.default_backend() != "cpu" and jax.device_count() >= DEVICES:
        return measure(size, seeds)
    return cast("dict[str, Any]", with_devices(DEVICES, measure, size, seeds))


class Program(NamedTuple):
    """A compiled program, over how many devices, and what it is called with for a seed."""

    compiled: Any
    devices: int
    arguments: Callable[[int], tuple]

    def __call__(self, seed: int) -> Any:
        return self.compiled(*self.arguments(seed))


def measure(size: Size, seeds: tuple[int, ...]) -> dict[str, Any]:
    """Chains, times, work, exchanges and equality of all programs, by their names, ready for JSON.

    Programs are named `encode PATCHES`, `teach TOKENS` (one pass), `write TOKENS` (one by one), `search` (with beams),
    of one image on one device; `encode heads 4` and the like are the same over four devices, where `rows` are those of
    `encode batch` and `search batch`.

    Returns:
      `chains` of matrix products {what: [at each size]}; `seconds` {program: [of each seed]}; `work` of a device
      {program: operations}; `sent`, the bytes a device gets in a pass or, in a search, a step {program: bytes}; `equal`
      {program: [share of tokens equal to those of one device, of each seed]}; `steps` {program: [of each seed]}.
    """
    sizes = SIZES[size]
    definition, _, _ = abstract(lambda rngs: _models(sizes)[0].build(rngs=rngs))
    programs = _programs(sizes, definition, seeds)
    texts = {name: program.compiled.as_text() for name, program in programs.items()}
    searches = {name: program for name, program in programs.items() if name.startswith("search")}
    found = {name: [jax.device_get(program(seed)) for seed in seeds] for name, program in searches.items()}

    def equal(name: str) -> list[float]:
        alone = found["search batch" if " rows " in name else "search"]
        return [float((out.tokens == one.tokens).mean()) for out, one in zip(found[name], alone, strict=True)]

    return {
        "chains": _chains(sizes, definition),
        "work": {name: program.compiled.cost_analysis()["flops"] for name, program in programs.items()},
        "sent": {name: _sent(text, 0 if name in searches else sizes.depth) for name, text in texts.items()},
        "equal": {name: equal(name) for name in found}
        | {"teach": [_retold(programs, sizes.length, seed) for seed in seeds]},
        "steps": {name: [int(out.steps) for out in outs] for name, outs in found.items()},
        "seconds": _seconds(programs, sizes, seeds),
    }


def _models(sizes: Sizes) -> tuple[EncoderDecoderConfig, ShowAttendTellConfig]:
    """The Transformer, and an LSTM that reads the same encoder."""
    width, vocabulary = sizes.width, sizes.vocabulary
    blocks = TransformerConfig(width, sizes.depth, HEADS, 4 * width)
    pixels, patch = (sizes.side * PATCH,) * 2, (PATCH, PATCH)
    encoder = VisionTransformerConfig(
        blocks, pixels, patch, channels=1, positions="sinusoidal", pooling="none"
    )
    decoder = DecoderConfig(blocks, vocabulary, sizes.length + 1, positions="sinusoidal")
    return EncoderDecoderConfig(encoder, decoder), ShowAttendTellConfig(encoder, vocabulary, *(width,) * 3)


def _teach(
    definition: Any, params: Tree, encoded: Encoded, tokens: Int[Array, "B T"]
) -> Float[Array, "B T V"]:
    """The decoder with teacher forcing: logits of all next tokens from all tokens."""
    return merge(definition, params).decode(encoded, tokens, train=False).logits


def _train(definition: Any, params: Tree, images: Array, tokens: Int[Array, "B T"]) -> Tree:
    """Gradients of the loss of a batch, encoder included."""

    def loss(params: Tree) -> Array:
        logits = merge(definition, params)(images, tokens, train=True)
        return optax.softmax_cross_entropy_with_integer_labels(logits[:, :-1], tokens[:, 1:]).mean()

    return jax.grad(loss)(params)


def _search(
    definition: Any, config: GenerationConfig, mesh: Mesh, params: Tree, encoded: Encoded
) -> Sequences:
    """Greedy decoding or beam search, over a mesh."""
    search = sample if config.num_beams == 1 else beam_search

    def on_device(params: Tree, encoded: Encoded, share: Share) -> Sequences:
        prompt = start_tokens(None, encoded, config)
        return search(merge(definition, params), encoded, prompt, config=config, share=share)

    return search_over(mesh, on_device, params, encoded)


def _config(tokens: int, beams: int) -> GenerationConfig:
    return GenerationConfig(max_new_tokens=tokens, num_beams=beams, decoder_start_token_id=1)


def _mesh(split: str, devices: int) -> Mesh:
    return make_mesh(MeshConfig(**{"data": 1, AXES[split]: devices}), jax.devices()[:devices])


def _programs(sizes: Sizes, definition: Any, seeds: tuple[int, ...]) -> dict[str, Program]:
    """All that is timed, compiled."""
    programs: dict[str, Program] = {}
    params = {seed: split(_models(sizes)[0].build(rngs=nnx.Rngs(seed)))[1] for seed in seeds}
    random = {seed: np.random.default_rng(seed) for seed in seeds}
    texts = {seed: random[seed].integers(0, sizes.vocabulary, (1, sizes.length)) for seed in seeds}
    images = {
        (seed, side): random[seed].standard_normal((ROWS, side * PATCH, side * PATCH, 1)).astype(np.float32)
        for seed in seeds
        for side in sizes.sides
    }

    def add(name: str, function: Callable[..., Any], devices: int, arguments: Callable[[int], tuple]) -> None:
        placed = {seed: arguments(seed) for seed in seeds}
        compiled = jax.jit(function).lower(*placed[seeds[0]]).compile()
        programs[name] = Program(compiled, devices, placed.__getitem__)

    def encoding(name: str, rows: int, side: int, by: str, devices: int) -> None:
        mesh = _mesh(by, devices)
        place = NamedSharding(mesh, PartitionSpec(*(None,) * (by == "tokens"), AXES["rows"]))

        def arguments(seed: int) -> tuple:
            return place_params(params[seed], mesh), jax.device_put(images[seed, side][:rows], place)

        add(name, partial(encode, definition), devices, arguments)

    def writing(name: str, rows: int, tokens: int, beams: int, by: str, devices: int) -> None:
        mesh = _mesh(by, devices)
        search = partial(_search, definition, _config(tokens, beams), mesh)

        def arguments(seed: int) -> tuple:
            some = jax.tree.map(lambda leaf: leaf[:rows], jax.device_get(encoded[seed]))
            return place_params(params[seed], mesh), place_rows(some, mesh)

        add(name, search, devices, arguments)

    for side in sizes.sides:
        encoding(f"encode {side**2}", 1, side, "rows", 1)
    encoding("encode batch", ROWS, sizes.side, "rows", 1)
    for by, devices in product(("rows", "heads", "tokens"), sizes.devices):
        encoding(f"encode {by} {devices}", ROWS if by == "rows" else 1, sizes.side, by, devices)
    encoded = {seed: programs["encode batch"](seed) for seed in seeds}

    for length in sizes.lengths:

        def arguments(seed: int, length: int = length) -> tuple:
            one = jax.tree.map(lambda leaf: leaf[:1], encoded[seed])
            return params[seed], one, texts[seed][:, :length]

        add(f"teach {length}", partial(_teach, definition), 1, arguments)
        writing(f"write {length}", 1, length, 1, "rows", 1)
    writing("search", 1, sizes.length, BEAMS, "rows", 1)
    if "rows" in sizes.splits:
        writing("search batch", ROWS, sizes.length, BEAMS, "rows", 1)
    for by, devices in product(sizes.splits, sizes.devices):
        writing(f"search {by} {devices}", ROWS if by == "rows" else 1, sizes.length, BEAMS, by, devices)
    return programs


def _chains(sizes: Sizes, definition: Any) -> dict[str, list[int]]:
    """Matrix products that wait for each other, at each size."""
    model, recurrent = _models(sizes)
    _, params, _ = abstract(lambda rngs: model.build(rngs=rngs))
    vectors = jax.ShapeDtypeStruct((1, sizes.side**2, sizes.width), jnp.float32)
    encoded = Encoded(cast(Array, vectors), None)
    lstm, lstm_params, _ = abstract(lambda rngs: recurrent.build(rngs=rngs))

    def images(side: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((1, side * PATCH, side * PATCH, 1), jnp.float32)

    def tokens(length: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((1, length), jnp.int32)

    def written(length: int, beams: int) -> int:
        search = partial(_search, definition, _config(length, beams), _mesh("rows", 1))
        return longest_chain(search, params, encoded, iterations=length - 1)  # the prompt is the first step

    train, teach = partial(_train, definition), partial(_teach, definition)
    ends = SHORT, sizes.length
    return {
        "encode": [longest_chain(partial(encode, definition), params, images(side)) for side in sizes.sides],
        "teach": [longest_chain(teach, params, encoded, tokens(sizes.length))],
        "train": [longest_chain(train, params, images(sizes.side), tokens(length)) for length in ends],
        "lstm": [
            longest_chain(partial(_teach, lstm), lstm_params, encoded, tokens(length)) for length in ends
        ],
        "write": [written(length, 1) for length in ends],
        "one after another": [BEAMS * written(sizes.length, 1)],
        "search": [written(sizes.length, BEAMS)],
    }


def _sent(program: str, passes: int) -> int:
    """Bytes that a device gets: in its loops, so many times, and outside; in one pass of its loops alone if 0."""

    def total(found: list[Collective]) -> int:
        return sum(each.bytes for each in found)

    looped = total(collectives(in_loops(program)))
    return passes * looped + total(collectives(outside_loops(program))) if passes else looped


def _retold(programs: dict[str, Program], length: int, seed: int) -> float:
    """Share of the tokens written step by step that one pass over them finds the likeliest too."""
    written = np.asarray(programs[f"write {length}"](seed).tokens[:, 0])
    teach = programs[f"teach {length}"]
    params, encoded, _ = teach.arguments(seed)
    logits = teach.compiled(params, encoded, written[:, :-1])
    return float(np.mean(np.asarray(logits).argmax(-1) == written[:, 1:]))


def _seconds(programs: dict[str, Program], sizes: Sizes, seeds: tuple[int, ...]) -> dict[str, list[float]]:
    """Median time of each program for each seed, all in turn; `one after another` is `write` for each beam."""

    def seconds(program: Program, seed: int, times: int = 1) -> float:
        with on_cores(program.devices):
            jax.block_until_ready(program(seed))
            start = time.perf_counter()
            for _ in range(times):
                jax.block_until_ready(program(seed))
            return time.perf_counter() - start

    found: dict[str, list[float]] = {name: [] for name in (*programs, "one after another")}
    for seed in seeds:
        times: dict[str, list[float]] = {name: [] for name in found}
        for _ in range(sizes.rounds):
            for name, program in programs.items():
                times[name].append(seconds(program, seed))
            times["one after another"].append(seconds(programs[f"write {sizes.length}"], seed, BEAMS))
        for name, values in times.items():
            found[name].append(statistics.median(values))
    return found
