"""Decoding on eight devices says what it says on one, and its loop moves no caches."""

import contextlib
import functools
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from tests.decoding.test_generate import compilations
from vitjax.analysis.programs import collectives, host_calls, in_loops
from vitjax.decoding import GenerationConfig, generate
from vitjax.decoding.buckets import bucket
from vitjax.decoding.candidates import Share, best_continuations
from vitjax.decoding.spread import place_params
from vitjax.models.decoder import DecoderConfig
from vitjax.models.encoder_decoder import EncoderDecoderConfig
from vitjax.models.show_attend_tell import ShowAttendTellConfig
from vitjax.models.text_encoder import TextEncoderConfig
from vitjax.models.vit import VisionTransformerConfig
from vitjax.nn.blocks import TransformerConfig
from vitjax.nn.functional import abstract
from vitjax.parallel.mesh import MeshConfig, make_mesh
from vitjax.parallel.sharding import shardings

DEPTH, HEADS, HEAD_WIDTH, VOCABULARY, LENGTH = 2, 4, 8, 200, 32
WIDTH = HEADS * HEAD_WIDTH
ROWS = 13  # padded to 16
BLOCKS = TransformerConfig(width=WIDTH, depth=DEPTH, num_heads=HEADS, feed_forward_width=64)
SMALL = TransformerConfig(width=8, depth=1, num_heads=4, feed_forward_width=16)
IMAGES = VisionTransformerConfig(SMALL, image_size=(8, 8), patch_size=(4, 4), channels=1, pooling="none")
TEXTS = TextEncoderConfig(SMALL, vocabulary_size=VOCABULARY, max_length=8)
RELATIVE = DecoderConfig(
    replace(SMALL, attention_width=12, query_key_scale=1.0, norm="rms"),
    VOCABULARY,
    LENGTH,
    positions="relative",
    relative_buckets=8,
    relative_distance=12,
    tie_embeddings=True,
    head_bias=True,
    scale_head=True,
)
MODELS = {
    "image": EncoderDecoderConfig(IMAGES, DecoderConfig(BLOCKS, VOCABULARY, LENGTH, "learned")),
    "text": EncoderDecoderConfig(TEXTS, RELATIVE, share_embeddings=True),
    "lstm": ShowAttendTellConfig(IMAGES, VOCABULARY, width=16, embedding_width=8, attention_width=8),
}
# Rows end at different steps: the groups of devices that decode them leave their loops at different times.
CONFIG = GenerationConfig(
    max_length=30, min_length=6, eos_token_id=(2, 3), pad_token_id=0, decoder_start_token_id=1
)
RULES = {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "bad_words_ids": ((5,), (7, 8))}


@functools.cache
def model(name):
    """`(definition, params)`; random, and sure enough of its tokens that none of them tie."""
    definition, shapes, _ = abstract(lambda rngs: MODELS[name].build(rngs=rngs))
    random = np.random.default_rng(1)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(0.5 * random.standard_normal(leaf.shape), leaf.dtype), shapes
    )
    return definition, params


def arguments(name):
    random = np.random.default_rng(2)
    if name != "text":
        return (random.standard_normal((ROWS, 8, 8, 1)).astype(np.float32),), {}
    source = random.integers(0, VOCABULARY, (ROWS, 6)).astype(np.int32)
    prompt = random.integers(4, VOCABULARY, (ROWS, 3)).astype(np.int32)
    return (source,), {
        "source_mask": np.arange(6)[None] < random.integers(2, 7, (ROWS, 1)),
        "prompt": prompt,
        "prompt_mask": np.arange(3)[None] >= 3 - random.integers(1, 4, (ROWS, 1)),
    }


@functools.cache
def alone(name, beams, rules):
    """What one device says."""
    source, options = arguments(name)
    return jax.device_get(generate(*model(name), *source, **options, config=configuration(beams, rules)))


def configuration(beams, rules):
    return replace(CONFIG, num_beams=beams, num_return_sequences=beams, **(RULES if rules else {}))


@contextlib.contextmanager
def recorded(monkeypatch):
    """Collects the texts of the decoding programs that `generate` compiles."""
    module = sys.modules["vitjax.decoding.generate"]
    compile_decode, texts = module._decode.lower, []

    def run(*args):
        program = compile_decode(*args).compile()
        texts.append(program.as_text())
        return program(*args[5:])  # the others are static

    with monkeypatch.context() as patch:
        patch.setattr(module, "_decode", run)
        yield texts


def assert_same(out, expected):
    np.testing.assert_array_equal(out.tokens, expected.tokens)
    np.testing.assert_array_equal(out.lengths, expected.lengths)
    np.testing.assert_array_equal(out.finished, expected.finished)
    np.testing.assert_allclose(out.scores, expected.scores, rtol=0, atol=1e-5)
    np.testing.assert_allclose(out.token_log_probs, expected.token_log_probs, rtol=0, atol=1e-5)
    assert out.steps == expected.steps


@pytest.mark.parametrize(
    ("name", "beams", "split", "rules"),
    [
        ("image", 4, "data=8", False),
        ("image", 4, "data=2,beam=4", False),
        ("image", 8, "data=1,beam=8", False),
        ("image", 4, "data=2,tensor=4", False),
        ("image", 4, "data=1,fsdp=4,tensor=2", False),
        ("image", 4, "data=2,beam=2,tensor=2", False),
        ("text", 4, "data=2,beam=2,tensor=2", True),
        ("text", 1, "data=4,tensor=2", True),
        ("lstm", 4, "data=2,beam=2,tensor=2", False),
        ("lstm", 1, "data=8", False),
    ],
)
def test_eight_devices_say_what_one_says(name, beams, split, rules, monkeypatch):
    definition, params = model(name)
    mesh = make_mesh(MeshConfig.parse(split))
    placed = jax.device_put(params, shardings(params, mesh))  # as training leaves them
    source, options = arguments(name)
    with recorded(monkeypatch) as programs:
        out = generate(definition, placed, *source, **options, config=configuration(beams, rules), mesh=mesh)
    assert_same(jax.device_get(out), alone(name, beams, rules))

    loop = in_loops(programs[0])
    assert loop and not host_calls(loop)
    moved = collectives(loop)
    parts = mesh.shape
    if parts["beam"] == parts["tensor"] == 1:
        assert not moved  # devices with rows of their own say nothing to each other
        return
    assert moved and {each.kind for each in moved} <= {"all-gather", "all-to-all", "all-reduce"}
    rows = bucket(-(-ROWS // (parts["data"] * parts["fsdp"])))
    # An answer with its softmax's maximum and sum, or what one beam suggests to every device.
    most = rows * beams * max(HEADS * (HEAD_WIDTH + 2), 3 * parts["beam"] * parts["tensor"])
    assert max(each.elements for each in moved) <= most
    if name == "image":
        cache = rows * beams * HEADS * LENGTH * HEAD_WIDTH // (parts["beam"] * parts["tensor"])
        assert 3 * most <= cache
        assert 3 * most <= rows * beams * VOCABULARY  # nor do logits travel
    if name == "image" and parts["tensor"] == 1:
        assert (
            len(moved) == 2 * DEPTH + 3
        )  # a layer's queries and answers; scores, log-probabilities and places


def test_what_a_row_draws_does_not_depend_on_its_device(monkeypatch):
    definition, params = model("lstm")
    (source,), _ = arguments("lstm")
    config = replace(CONFIG, do_sample=True, top_p=0.9, num_return_sequences=2)
    options = {"config": config, "key": jax.random.key(3)}
    expected = jax.device_get(generate(definition, params, source, **options))
    mesh = make_mesh(MeshConfig.parse("data=4,tensor=2"))
    with recorded(monkeypatch) as programs:
        out = generate(definition, params, source, **options, mesh=mesh)
    assert_same(jax.device_get(out), expected)
    # The logits are gathered once; what then looks at all of them does it at home.
    moved = collectives(in_loops(programs[0]))
    assert {each.kind for each in moved} <= {"all-gather", "all-reduce"}
    logits = bucket(-(-ROWS // 4)) * 2 * VOCABULARY
    assert [each.elements for each in moved if each.elements >= logits / 2] == [logits]


def test_the_readers_of_programs_find_what_they_are_for():
    mesh = make_mesh(MeshConfig())
    rows = NamedSharding(mesh, PartitionSpec("data"))
    cache = jax.device_put(np.zeros((8, 4, 64), np.float32), rows)
    parents = jax.device_put(np.zeros((8, 4), np.int32), rows)

    def loop(body):
        program = jax.jit(
            lambda cache, parents: jax.lax.fori_loop(0, 5, lambda _, x: body(x, parents), cache)
        )
        return in_loops(program.lower(cache, parents).compile().as_text())

    indexed = loop(lambda cache, parents: cache[jnp.arange(8)[:, None], parents] + 1)
    assert max(each.elements for each in collectives(indexed)) >= cache.size
    taken = loop(lambda cache, parents: jnp.take_along_axis(cache, parents[:, :, None], axis=1) + 1)
    assert taken and not collectives(taken)

    def tell(cache, parents):
        jax.debug.callback(lambda x: None, cache.sum())
        return cache + 1

    assert host_calls(loop(tell)) and not host_calls(taken)


@pytest.mark.parametrize("split", ["data=4,beam=2", "data=1,tensor=8", "data=2,beam=2,tensor=2"])
def test_best_continuations_of_split_beams_and_vocabulary(split):
    mesh = make_mesh(MeshConfig.parse(split))
    rng = np.random.default_rng(0)
    scores = rng.integers(-3, 3, (8, 4, 16)).astype(np.float32)  # many ties
    scores[1, :, 3:] = -np.inf
    log_probs = rng.standard_normal(scores.shape).astype(np.float32)
    beam_axis, vocabulary_axis = (axis if mesh.shape[axis] > 1 else None for axis in ("beam", "tensor"))
    share = Share(beam_axis=beam_axis, vocabulary_axis=vocabulary_axis)
    by_beams = PartitionSpec("data", "beam")
    find = jax.jit(
        jax.shard_map(
            lambda scores, log_probs: best_continuations(scores, log_probs, 13, share),
            mesh=mesh,
            axis_names={"data", "fsdp", "beam"},
            in_specs=(by_beams, by_beams),
            out_specs=PartitionSpec("data"),
            check_vma=False,
        )
    )
    found = find(scores, log_probs)
    for got, expected in zip(
        found, best_continuations(jnp.asarray(scores), jnp.asarray(log_probs), 13), strict=True
    ):
        np.testing.assert_array_equal(got, expected)


def test_splits_that_do_not_come_out():
    definition, params = model("image")
    (source,), _ = arguments("image")
    mesh = make_mesh(MeshConfig.parse("data=4,beam=2"))
    with pytest.raises(
        ValueError, match="num_beams=5 does not split over mesh beam=2: make it a multiple of 2"
    ):
        generate(definition, params, source, config=configuration(5, False), mesh=mesh)
    with pytest.raises(ValueError, match="batch size 14 is not a multiple of 4"):
        generate(definition, params, source, config=configuration(4, False), mesh=mesh, batch_size=14)


def test_a_mesh_compiles_two_programs_and_then_nothing():
    definition, params = model("lstm")
    (source,), _ = arguments("lstm")
    mesh = make_mesh(MeshConfig.parse("data=4,tensor=2"))
    params = place_params(params, mesh)
    options = {"config": configuration(1, False), "mesh": mesh}
    jax.clear_caches()
    with compilations() as names:
        generate(definition, params, source[:12], **options)
    assert len(names) == 2, names
    with compilations() as names:
        generate(definition, params, source[:9] + 1, **options)
    assert names == []
