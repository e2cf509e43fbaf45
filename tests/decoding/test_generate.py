"""Two compiled programs with nothing on the host between tokens."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from tests.decoding.decoders import SlotDecoder, StateDecoder, make_table
from vitjax.decoding import GenerationConfig, decode, encode, generate, loop
from vitjax.decoding.generate import _decode, _encode
from vitjax.models.vit import VisionTransformerConfig
from vitjax.nn.functional import abstract, split

STOPS = (2, 4)
TABLE = make_table(3, 10, stops=STOPS, bias=1.0)
CONFIGS = {
    "greedy": GenerationConfig(
        max_new_tokens=9, eos_token_id=STOPS, pad_token_id=0, decoder_start_token_id=1
    ),
    "beam": GenerationConfig(
        max_new_tokens=9,
        num_beams=3,
        num_return_sequences=2,
        eos_token_id=STOPS,
        pad_token_id=0,
        decoder_start_token_id=1,
    ),
}


def sources(rows=8):
    return jnp.arange(rows, dtype=jnp.int32)[:, None]


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@contextlib.contextmanager
def compilations():
    """Names of the programs that are lowered inside the block."""
    names = []

    def listen(event, duration, **about):
        if event == "/jax/core/compile/jaxpr_to_mlir_module_duration":
            names.append(about.get("fun_name", "?"))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield names
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize("kind", CONFIGS)
def test_compiles_two_programs_and_then_nothing(kind):
    definition, params, _ = split(SlotDecoder(TABLE))
    first, second, wider = sources(7), sources(7) + 1, sources(9)
    jax.clear_caches()
    with compilations() as names:
        generate(definition, params, first, config=CONFIGS[kind])
    assert len(names) == 2, names
    other = jax.tree.map(lambda leaf: leaf * 2, params)
    again = split(SlotDecoder(TABLE))[0]
    with compilations() as names:
        generate(again, other, second, config=GenerationConfig(**vars(CONFIGS[kind])))
    assert names == []
    with compilations() as names:
        generate(definition, params, wider, config=CONFIGS[kind])
    assert len(names) == 2, names


@pytest.mark.parametrize("kind", CONFIGS)
def test_nothing_crosses_to_the_host(kind):
    definition, params, _ = split(StateDecoder(TABLE))
    config = CONFIGS[kind]
    generate(definition, params, sources(), config=config)
    source = sources()
    with jax.transfer_guard("disallow"):
        jax.block_until_ready(generate(definition, params, source, config=config))
    encoded = encode(definition, params, sources())
    programs = (
        _encode.lower(definition, params, {}, sources(), np.ones((8, 1), bool)),
        _decode.lower(
            definition, config, 32, None, True, params, {}, encoded, None, None, np.array([0, 1, 10, 8])
        ),
    )
    for program in programs:
        for word in ("callback", "infeed", "outfeed", "stablehlo.send", "stablehlo.recv"):
            assert word not in program.as_text()
    # nothing of the caller's is donated
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((params, source, encoded)))


@pytest.mark.parametrize("kind", CONFIGS)
def test_is_decode_after_encode(kind):
    definition, params, _ = split(StateDecoder(TABLE))
    encoded = encode(definition, params, sources())
    assert_same(
        generate(definition, params, sources(), config=CONFIGS[kind]),
        decode(definition, params, encoded, config=CONFIGS[kind]),
    )


@pytest.mark.parametrize("kind", CONFIGS)
def test_start_token_is_a_prompt(kind):
    definition, params, _ = split(StateDecoder(TABLE))
    prompt = np.ones((8, 1), np.int32)
    assert_same(
        generate(definition, params, sources(), config=CONFIGS[kind]),
        generate(definition, params, sources(), prompt=prompt, config=CONFIGS[kind]),
    )


class CountingDecoder(SlotDecoder):
    """Tells the host of every step."""

    def step(self, cache, tokens):
        room = cache.valid.shape[1]
        jax.debug.callback(lambda position: STEPS.append((int(position), room)), cache.position)
        return super().step(cache, tokens)


STEPS: list[tuple[int, int]] = []


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("stop_at", [1, 5])
def test_leaves_as_soon_as_every_row_is_done(beams, stop_at):
    # An EOS that is impossible before `stop_at` new tokens and certain then.
    table = np.zeros((4093, 6), np.float32)
    table[:, 2] = 50
    definition, params, _ = split(CountingDecoder(table))
    config = GenerationConfig(
        num_beams=beams,
        max_length=150,
        min_new_tokens=stop_at - 1,
        eos_token_id=2,
        decoder_start_token_id=1,
        early_stopping=True,
    )
    STEPS.clear()
    out = generate(definition, params, sources(), config=config)
    jax.effects_barrier()
    assert (out.lengths[:, 0] == 1 + stop_at).all()
    # greedy is done at the first EOS, three beams when three hypotheses have ended, a step later at most
    assert len(STEPS) == stop_at - 1 if beams == 1 else stop_at - 1 <= len(STEPS) <= stop_at


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_cache_grows_in_chunks(kind, monkeypatch):
    monkeypatch.setattr(loop, "CHUNK", 4)
    definition, params, _ = split(CountingDecoder(make_table(3, 11)))
    config = GenerationConfig(max_length=11, num_beams=CONFIGS[kind].num_beams, decoder_start_token_id=1)
    STEPS.clear()
    generate(definition, params, sources(), config=config)
    jax.effects_barrier()
    # every step but the last token's, which nobody reads
    assert sorted(STEPS) == [(p, 4 if p < 4 else 8 if p < 8 else 12) for p in range(1, 10)]


def test_chunks_change_nothing(monkeypatch):
    definition, params, _ = split(SlotDecoder(TABLE))
    options = vars(CONFIGS["beam"]) | {"max_new_tokens": 20, "min_new_tokens": 12}
    whole = generate(definition, params, sources(), config=GenerationConfig(**options))
    monkeypatch.setattr(loop, "CHUNK", 9)
    jax.clear_caches()
    assert_same(whole, generate(definition, params, sources(), config=GenerationConfig(**options)))


@pytest.mark.parametrize("kind", CONFIGS)
def test_sharded_batch_gives_the_same(kind):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    rows, whole = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
    definition, params, _ = split(SlotDecoder(TABLE))
    alone = generate(definition, params, sources(16), config=CONFIGS[kind])
    placed = jax.device_put(params, whole)
    source = jax.device_put(sources(16), rows)
    out = generate(definition, placed, source, config=CONFIGS[kind])
    assert_same(alone, jax.device_get(out))
    assert len(out.tokens.sharding.device_set) == 8
    assert out.tokens.sharding.shard_shape(out.tokens.shape)[0] == 2


def test_a_model_without_decoder():
    small = VisionTransformerConfig.standard("Ti/16", image_size=(16, 16), transformer={"depth": 1})
    definition, params, _ = abstract(lambda rngs: small.build(rngs=rngs))
    with pytest.raises(ValueError, match="VisionTransformer cannot generate"):
        _encode.lower(definition, params, {}, jnp.zeros((1, 16, 16, 3)), None)


def test_prompts_that_do_not_fit():
    definition, params, _ = split(StateDecoder(TABLE))
    prompt = np.ones((8, 3), np.int32)
    with pytest.raises(
        (ValueError, TypeError), match="prompt_mask"
    ):  # TypeError under the tests' type checker
        generate(
            definition,
            params,
            sources(),
            prompt=prompt,
            prompt_mask=np.ones((8, 2), bool),
            config=CONFIGS["beam"],
        )
    with pytest.raises(ValueError, match="one mask value a token"):
        generate(definition, params, sources(), prompt_mask=np.ones((8, 1), bool), config=CONFIGS["beam"])
    with pytest.raises(ValueError, match="no room after a decoder prompt of 3 tokens"):
        generate(definition, params, sources(), prompt=prompt, config=GenerationConfig(max_length=2))
    with pytest.raises(ValueError, match="no decoder prompt"):
        generate(definition, params, sources(), config=GenerationConfig())
