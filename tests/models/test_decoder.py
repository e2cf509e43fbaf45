from dataclasses import replace
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.nn import reference
from tests.nn.trees import gradients_match, normal, parts
from vitjax.models.decoder import DecoderConfig, TransformerDecoder
from vitjax.nn import functional
from vitjax.nn.blocks import TransformerConfig
from vitjax.nn.embeddings import combine
from vitjax.nn.positions import sinusoidal

B, K, S, E, V, LENGTH = 2, 3, 4, 6, 11, 7
T = TransformerConfig(width=8, depth=2, num_heads=2, feed_forward_width=12)
CONFIG = DecoderConfig(T, vocabulary_size=V, max_length=LENGTH)

OPTIONS: dict[str, dict[str, Any]] = {
    "learned": {},
    "none": {"positions": "none"},
    "sinusoidal, Vaswani": {
        "positions": "sinusoidal",
        "transformer": replace(T, norm_position="post", activation="relu"),
        "scale_embedding": True,
        "tie_embeddings": True,
    },
    "relative, T5": {
        "positions": "relative",
        "relative_buckets": 6,
        "relative_distance": 5,
        "transformer": replace(
            T, norm="rms", use_bias=False, query_key_scale=1.0, attention_width=12, activation="geglu_tanh"
        ),
        "tie_embeddings": True,
        "scale_head": True,
    },
    "offset, RoBERTa": {
        "transformer": replace(T, norm_position="post"),
        "embedding_norm": True,
        "token_types": 1,
        "position_offset": 2,
        "padding_token": 1,
        "tie_embeddings": True,
        "head_bias": True,
        "head_transform": "gelu",
        "project_context": True,
    },
    "rotary, Llama": {
        "positions": "rotary",
        "transformer": replace(T, norm="rms", activation="swiglu", query_key_norm=True),
    },
    "concatenated": {"embedding_combination": "concat", "transformer": replace(T, layer_scale=0.5)},
    "post-norm, additive": {
        "transformer": replace(T, norm_position="post", attention_score="additive", unroll=True)
    },
    "batch norm, shared": {"transformer": replace(T, norm="batch", share_query_key=True, remat="full")},
}
CONTEXT = normal(B, S, E, seed=9)
CONTEXT_MASK = jnp.asarray([[1, 1, 1, 1], [1, 1, 0, 0]], bool)


@cache
def model(config: DecoderConfig) -> tuple[Any, Any, Any]:
    return parts(lambda rngs: TransformerDecoder(config, context_width=E, rngs=rngs))


def named(option: str, **more: Any) -> tuple[Any, Any, Any]:
    return model(replace(CONFIG, **OPTIONS[option], **more))


@partial(jax.jit, static_argnums=0, static_argnames=("train", "return_attention", "parallel"))
def full(parts, arrays, tokens, context=CONTEXT, *, train=False, **kwargs):
    return functional.merge(parts, *arrays)(tokens, context, train=train, **kwargs)


@partial(jax.jit, static_argnums=0, static_argnames=("num_beams", "room"))
def start(definition, arrays, prompt, mask, *, num_beams, room=LENGTH):
    decoder = functional.merge(definition, *arrays)
    cache = decoder.init_cache(CONTEXT, CONTEXT_MASK, num_beams=num_beams, max_length=room)
    return decoder.prefill(cache, prompt, mask)


@partial(jax.jit, static_argnums=0)
def step(definition, arrays, cache, tokens, parents):
    return functional.merge(definition, *arrays).step(cache.reorder(parents), tokens)


def random_tokens(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, V, shape).astype(np.int32)


def teacher_forced(
    definition, arrays, histories: list[np.ndarray], mask: np.ndarray | None
) -> list[np.ndarray]:
    """Logits [B, K, V] after the last token of each of several histories [B, K, N].

    Every beam is a row of its own, filled up to LENGTH; all of them go through one call.
    """
    batch, beams, _ = histories[0].shape
    tokens = np.zeros((len(histories), batch, beams, LENGTH), np.int32)
    valid = np.ones(tokens.shape, bool)
    for n, history in enumerate(histories):
        tokens[n, :, :, : history.shape[2]] = history
    if mask is not None:
        valid[..., : mask.shape[1]] = mask[:, None]

    def rows(a):
        return jnp.tile(jnp.repeat(a, beams, axis=0), (len(histories),) + (1,) * (a.ndim - 1))

    logits = full(
        definition,
        arrays,
        jnp.asarray(tokens.reshape(-1, LENGTH)),
        rows(CONTEXT),
        mask=jnp.asarray(valid.reshape(-1, LENGTH)),
        context_mask=rows(CONTEXT_MASK),
    ).logits
    logits = np.asarray(logits).reshape(*tokens.shape, V)
    return [logits[n, :, :, history.shape[2] - 1] for n, history in enumerate(histories)]


def compare_cached(
    option: str,
    seed: int,
    padding: int,
    choices: list[list[int]],
    rooms: tuple[int, ...] = (LENGTH,) * 5,
    beams: int = K,
):
    definition, *arrays = named(option)
    prompt = random_tokens(seed, B, 3)
    mask = np.ones((B, 3), bool)
    mask[1, :padding] = False
    logits, cache = start(
        definition, arrays, jnp.asarray(prompt), jnp.asarray(mask), num_beams=beams, room=rooms[0]
    )
    histories = [np.repeat(prompt[:, None], beams, axis=1)]
    said = [np.repeat(np.asarray(logits)[:, None], beams, axis=1)]
    parents = np.zeros((B, beams), np.int32)
    for n, (choice, room) in enumerate(zip(choices, rooms[1:], strict=True)):
        tokens = random_tokens(seed + 100 + n, B, beams)
        cache = cache.grow(room)
        logits, cache = step(definition, arrays, cache, jnp.asarray(tokens), jnp.asarray(parents))
        said.append(np.asarray(logits))
        kept = np.stack([histories[-1][b][parents[b]] for b in range(B)])
        histories.append(np.concatenate([kept, tokens[:, :, None]], axis=2))
        parents = np.reshape(choice, (B, K))[:, :beams].astype(np.int32) % beams
    assert cache.position == 3 + len(choices)
    for got, want in zip(said, teacher_forced(definition, arrays, histories, mask), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-5)


steps = st.lists(st.lists(st.integers(0, K - 1), min_size=B * K, max_size=B * K), min_size=4, max_size=4)


@pytest.mark.parametrize("option", OPTIONS)
@settings(max_examples=5)
@given(seed=st.integers(0, 99), padding=st.integers(0, 2), choices=steps)
def test_cached_equals_uncached(option: str, seed: int, padding: int, choices: list[list[int]]) -> None:
    """Beams with tokens and parents of their own, prompts padded on the left, against each whole history."""
    compare_cached(option, seed, padding, choices)


@settings(max_examples=10)
@given(seed=st.integers(0, 99), padding=st.integers(0, 2), choices=steps)
def test_a_cache_that_grows(seed: int, padding: int, choices: list[list[int]]) -> None:
    compare_cached("rotary, Llama", seed, padding, choices, (3, 4, 6, 6, LENGTH))
    compare_cached("relative, T5", seed, padding, choices, (3, 4, 6, 6, LENGTH))


def test_one_beam() -> None:
    compare_cached("learned", 0, 1, [[0] * B * K] * 4, beams=1)


def test_reorder_matters() -> None:
    """Beams of different histories say different things: the comparison above can fail."""
    definition, *arrays = named("learned")
    _, cache = start(definition, arrays, jnp.asarray(random_tokens(0, B, 3)), None, num_beams=K)
    stay = jnp.tile(jnp.arange(K, dtype=jnp.int32), (B, 1))
    _, cache = step(definition, arrays, cache, jnp.asarray([[1, 2, 3]] * B, jnp.int32), stay)
    same = jnp.full((B, K), 5, jnp.int32)
    straight, _ = step(definition, arrays, cache, same, stay)
    turned, _ = step(definition, arrays, cache, same, stay[:, ::-1])
    np.testing.assert_array_equal(straight[:, ::-1], turned)
    assert np.abs(straight[:, 0] - straight[:, 1]).max() > 1e-3


@pytest.mark.parametrize("option", OPTIONS)
@settings(max_examples=5)
@given(seed=st.integers(0, 99), at=st.integers(1, LENGTH - 1))
def test_causality_is_exact(option: str, seed: int, at: int) -> None:
    """Another token at position t leaves the logits before t as they are, bit for bit, and changes those from t."""
    definition, *arrays = named(option)
    tokens = random_tokens(seed, B, LENGTH)
    other = tokens.copy()
    other[:, at] = (other[:, at] + 1) % V
    before, after = (
        np.asarray(full(definition, arrays, jnp.asarray(t), context_mask=CONTEXT_MASK).logits)
        for t in (tokens, other)
    )
    np.testing.assert_array_equal(before[:, :at], after[:, :at])
    assert (np.abs(before[:, at:] - after[:, at:]).max(-1) > 0).all()


@pytest.mark.parametrize("option", ["learned", "relative, T5", "rotary, Llama", "sinusoidal, Vaswani"])
@settings(max_examples=5)
@given(seed=st.integers(0, 99), padding=st.integers(1, 3))
def test_padding_invariance(option: str, seed: int, padding: int) -> None:
    """Left padding shifts the logits and nothing else; what stands in the padding is never seen."""
    definition, *arrays = named(option)
    tokens = random_tokens(seed, B, LENGTH)
    want = full(definition, arrays, jnp.asarray(tokens), mask=jnp.ones((B, LENGTH), bool)).logits
    padded = np.concatenate([random_tokens(seed + 1, B, padding), tokens[:, : LENGTH - padding]], axis=1)
    mask = np.arange(LENGTH)[None] >= np.full((B, 1), padding)
    got = full(definition, arrays, jnp.asarray(padded), mask=jnp.asarray(mask)).logits
    np.testing.assert_allclose(got[:, padding:], want[:, : LENGTH - padding], rtol=1e-4, atol=2e-5)


def test_masked_context_is_never_seen() -> None:
    definition, *arrays = named("learned")
    tokens = jnp.asarray(random_tokens(0, B, LENGTH))
    spoiled = CONTEXT.at[1, 2:].set(1e3)
    want = full(definition, arrays, tokens, context_mask=CONTEXT_MASK, return_attention=True)
    got = full(definition, arrays, tokens, spoiled, context_mask=CONTEXT_MASK, return_attention=True)
    np.testing.assert_array_equal(got.logits, want.logits)
    assert want.attention.shape == (2, B, 2, LENGTH, S)
    np.testing.assert_allclose(want.attention.sum(-1), 1, rtol=1e-5)
    assert not np.asarray(want.attention)[:, 1, :, :, 2:].any()
    plain = full(definition, arrays, tokens, context_mask=CONTEXT_MASK)
    assert plain.attention is None
    np.testing.assert_array_equal(plain.logits, want.logits)


@given(st.permutations(range(4)))
def test_batch_permutation(order: list[int]) -> None:
    definition, *arrays = named("rotary, Llama")
    tokens, context = jnp.asarray(random_tokens(0, 4, LENGTH)), normal(4, S, E)
    rows = jnp.asarray(order)
    np.testing.assert_allclose(
        full(definition, arrays, tokens[rows], context[rows]).logits,
        full(definition, arrays, tokens, context).logits[rows],
        rtol=1e-5,
        atol=1e-5,
    )


@pytest.mark.parametrize("tied", [True, False])
def test_logits_of_a_decoder_without_layers_worth_mentioning(tied: bool) -> None:
    """With silent branches the logits are norm(embedding + position) against the head or the embedding itself."""
    config = replace(CONFIG, tie_embeddings=tied, scale_embedding=True)
    definition, params, _ = model(config)
    params = {**params, "blocks": jax.tree.map(jnp.zeros_like, params["blocks"])}
    tokens = random_tokens(0, B, LENGTH)
    embedding = np.asarray(params["embedding"]["tokens"]["embedding"], float)
    x = embedding[tokens] * np.sqrt(8) + np.asarray(params["embedding"]["positions"]["embedding"])
    x = reference.layer_norm(x, *(np.asarray(params["norm"][n]) for n in ("scale", "bias")))
    want = x @ embedding.T if tied else reference.linear(x, params["head"])
    got = full(definition, (params, {}), jnp.asarray(tokens)).logits
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-5)
    assert ("head" in params) != tied


def test_what_stands_between_the_last_vector_and_the_scores() -> None:
    """With silent branches again: dense, activation and norm, 1 / sqrt(D), the token vectors, a bias."""
    definition, params, _ = named("offset, RoBERTa", scale_head=True)
    params = {**params, "blocks": jax.tree.map(jnp.zeros_like, params["blocks"])}
    for sublayer in ("attention", "cross_attention", "feed_forward"):
        params["blocks"][f"{sublayer}_sublayer"]["norm"]["scale"] += 1
    tokens = random_tokens(0, B, LENGTH)
    table, types, places = (
        np.asarray(params["embedding"][name]["embedding"], float)
        for name in ("tokens", "token_types", "positions")
    )
    rows = np.where(tokens == 1, 1, np.arange(LENGTH) + 2)

    def norm(x, p):
        return reference.layer_norm(x, np.asarray(p["scale"]), np.asarray(p["bias"]))

    x = norm(table[tokens] + types[0] + places[rows], params["embedding"]["norm"])
    for _ in range(2 * 3):
        x = reference.layer_norm(x)
    head = params["head_transform"]
    x = norm(reference.ACTIVATIONS["gelu"](reference.linear(x, head["dense"])), head["norm"])
    want = x / np.sqrt(8) @ table.T + np.asarray(params["head_bias"])
    got = full(definition, (params, {}), jnp.asarray(tokens)).logits
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("bias", [True, False, None])
@pytest.mark.parametrize("tied", [True, False])
def test_head_bias(tied: bool, bias: bool | None) -> None:
    config = replace(CONFIG, tie_embeddings=tied, head_bias=bias)
    params = functional.abstract(lambda rngs: TransformerDecoder(config, context_width=E, rngs=rngs))[1]
    found = "head_bias" in params if tied else "bias" in params["head"]
    assert found == (not tied if bias is None else bias)


@pytest.mark.parametrize("tied", [True, False])
def test_bfloat16(tied: bool) -> None:
    low, exact = (
        model(replace(CONFIG, tie_embeddings=tied, transformer=replace(T, dtype=dtype)))
        for dtype in ("bfloat16", "float32")
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(low[1])} == {jnp.dtype("float32")}
    tokens = jnp.asarray(random_tokens(0, B, LENGTH))
    a, b = (full(m[0], m[1:], tokens).logits for m in (low, exact))
    assert a.dtype == jnp.float32
    np.testing.assert_allclose(a, b, atol=0.25)
    assert np.abs(a - a.astype(jnp.bfloat16)).max() > 0  # not rounded on the way out
    if tied:
        logits, cache = start(low[0], low[1:], tokens[:, :3], None, num_beams=K)
        assert logits.dtype == jnp.float32 and cache.layers[0].self_key.data.dtype == jnp.bfloat16
        (want,) = teacher_forced(low[0], low[1:], [np.asarray(tokens)[:, None, :3]], None)
        np.testing.assert_allclose(logits, want[:, 0], atol=0.1)


PLACED = ["learned", "sinusoidal, Vaswani", "concatenated", "batch norm, shared", "offset, RoBERTa"]
PLACES = LENGTH - 1


@pytest.mark.parametrize("option", PLACED)
def test_parallel_prediction_reads_the_context_and_nothing_else(option: str) -> None:
    """Other tokens, another padding and a shorter text leave every logit as it is; another context changes them all."""
    definition, *arrays = named(option, parallel_prediction=True)
    predict = partial(full, definition, arrays, parallel=True)
    tokens, other = (jnp.asarray(random_tokens(seed, B, PLACES)) for seed in (0, 1))
    mask = jnp.asarray([[1, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1]], bool)
    want = predict(tokens, mask=mask, return_attention=True)
    assert want.logits.shape == (B, PLACES, V)
    for padding in (mask, ~mask):
        np.testing.assert_array_equal(predict(other, mask=padding).logits, want.logits)
        np.testing.assert_array_equal(predict(tokens, mask=padding).logits, want.logits)
    short = predict(tokens[:, :2], return_attention=True)
    np.testing.assert_allclose(short.logits, want.logits[:, :2], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(short.attention, want.attention[..., :2, :], rtol=1e-5, atol=1e-6)
    changed = np.abs(predict(tokens, CONTEXT + 1).logits - want.logits).max(-1)
    assert (changed > 1e-3).all()
    places = np.abs(want.logits[:, 1:] - want.logits[:, :-1]).max(-1)
    assert (places > 1e-3).all()  # a place knows which one it is


@pytest.mark.parametrize("option", PLACED[:-1])  # the last has more around its blocks
def test_parallel_prediction_is_the_blocks_on_mask_tokens(option: str) -> None:
    """Against the stack itself without any mask, which a causal one would not equal."""
    definition, *arrays = named(option, parallel_prediction=True)

    @jax.jit
    def by_hand(arrays):
        decoder = functional.merge(definition, *arrays)
        embedding, t = decoder.embedding, decoder.config.transformer
        positions = jnp.arange(PLACES)
        config = decoder.config
        known = (
            embedding.positions.at(positions)
            if config.positions == "learned"
            else sinusoidal(positions, config.position_width)
        )
        x = jnp.tile(embedding.mask_token[...] * embedding.scale, (B, PLACES, 1))
        x = combine(x, known, config.embedding_combination)
        for block in decoder._layers():
            x = block(x, CONTEXT, train=False).x
        x = decoder.norm(x, train=False) if t.norm_position == "pre" else x
        return embedding.tokens.attend(x) if decoder.config.tie_embeddings else decoder.head(x)

    got = full(definition, arrays, jnp.zeros((B, PLACES), jnp.int32), parallel=True).logits
    np.testing.assert_allclose(got, by_hand(arrays), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("option", PLACED)
def test_a_batch_of_both_modes_is_each_row_alone(option: str) -> None:
    definition, *arrays = named(option, parallel_prediction=True)
    tokens = jnp.asarray(random_tokens(0, B, PLACES - 1))  # shorter than what is predicted in parallel
    mask = np.asarray([[1, 1, 1, 1, 0], [0, 0, 1, 1, 1]], bool)
    parallel = full(definition, arrays, tokens, parallel=True).logits
    for padding in (None, mask):
        forced = full(definition, arrays, tokens, mask=padding).logits
        for rows in (np.asarray([True, False]), np.asarray([False, True])):
            both = full_of_rows(definition, arrays, tokens, rows, padding)
            want = np.where(rows[:, None, None], parallel, forced)
            told = rows[:, None] | (np.ones_like(mask) if padding is None else mask)
            np.testing.assert_allclose(both[told], want[told], rtol=1e-4, atol=2e-5)
    assert np.abs(parallel - forced).max() > 1e-2


@partial(jax.jit, static_argnums=0)
def full_of_rows(definition, arrays, tokens, rows, mask):
    decoder = functional.merge(definition, *arrays)
    return decoder(tokens, CONTEXT, mask=mask, parallel=rows, train=False).logits


def test_a_mask_token_changes_no_other_way_of_decoding() -> None:
    with_token, without = named("learned", parallel_prediction=True), named("learned")
    embedding = {**without[1]["embedding"], "mask_token": jnp.full(8, jnp.nan)}
    params = {**without[1], "embedding": embedding}
    tokens = jnp.asarray(random_tokens(0, B, LENGTH))
    want = full(without[0], without[1:], tokens).logits
    np.testing.assert_array_equal(full(with_token[0], (params, {}), tokens).logits, want)
    logits, _ = start(with_token[0], (params, {}), tokens[:, :3], None, num_beams=K)
    assert np.isfinite(logits).all()


def test_one_program_for_all_steps() -> None:
    definition, *arrays = named("learned")
    traces = 0

    @jax.jit
    def counted(arrays, cache, tokens):
        nonlocal traces
        traces += 1
        return functional.merge(definition, *arrays).step(cache, tokens)

    _, cache = start(definition, arrays, jnp.asarray(random_tokens(0, B, 3)), None, num_beams=K)
    for n in range(4):
        _, cache = counted(arrays, cache, jnp.asarray(random_tokens(n, B, K)))
    assert traces == 1


def test_layers_apart_are_the_same_decoder() -> None:
    definition, *arrays = named("learned")
    decoder = functional.merge(definition, *arrays)
    prompt = jnp.asarray(random_tokens(0, B, 3))
    told = []
    for model in (decoder, decoder.prepared()):
        cache = model.init_cache(CONTEXT, num_beams=1, max_length=4)
        told.append(model.prefill(cache, prompt)[0])
    np.testing.assert_array_equal(*told)
    decoder(prompt, CONTEXT, train=False)  # and the first is still itself


@pytest.mark.parametrize(("dtype", "error"), [("float32", 1e-6), ("bfloat16", 0.05), ("int8", 0.1)])
def test_cache_dtypes(dtype: str, error: float) -> None:
    """Keys and values in fewer bits: a little off, and really in fewer bits."""
    definition, *arrays = named("learned")
    decoder = functional.merge(definition, *arrays)
    tokens = jnp.asarray(random_tokens(0, B, 4))
    cache = decoder.init_cache(CONTEXT, num_beams=1, max_length=4, dtype=dtype)
    assert {layer.self_key.data.dtype for layer in cache.layers} == {jnp.dtype(dtype)}
    assert {layer.cross_value.data.dtype for layer in cache.layers} == {jnp.dtype(dtype)}
    _, cache = decoder.prefill(cache, tokens[:, :3])
    got, _ = decoder.step(cache, tokens[:, 3:])
    want = decoder(tokens, CONTEXT, train=False).logits[:, -1:]
    assert np.abs(got - want).max() < error * np.abs(want).max()
    assert dtype == "float32" or np.abs(got - want).max() > 0


def test_gradients() -> None:
    config = replace(CONFIG, transformer=replace(T, depth=1), tie_embeddings=True)
    definition, params, _ = model(config)
    tokens = jnp.asarray(random_tokens(0, 1, 3))
    gradients_match(
        lambda params, context: functional.merge(definition, params)(tokens, context, train=False).logits,
        params,
        normal(1, 2, E),
    )


def test_errors_teach() -> None:
    with pytest.raises(ValueError, match="tie_embeddings needs embedding_combination 'add'"):
        replace(CONFIG, tie_embeddings=True, embedding_combination="concat")
    for positions in ("none", "relative", "rotary"):
        with pytest.raises(ValueError, match=f"needs positions 'learned' or 'sinusoidal', not '{positions}'"):
            replace(CONFIG, parallel_prediction=True, positions=positions)
    definition, *arrays = named("learned")
    decoder = functional.merge(definition, *arrays)
    with pytest.raises(ValueError, match=r"it needs DecoderConfig\(parallel_prediction=True\)"):
        decoder(jnp.zeros((B, 2), jnp.int32), CONTEXT, parallel=True, train=False)
    with pytest.raises(ValueError, match="7 logits are asked for, .* predicts max_length - 1 = 6"):
        definition, *arrays = named("learned", parallel_prediction=True)
        masked = functional.merge(definition, *arrays)
        masked(jnp.zeros((B, LENGTH), jnp.int32), CONTEXT, parallel=jnp.ones(B, bool), train=False)
    with pytest.raises(ValueError, match="8 tokens are beyond the 7 learned positions"):
        decoder(jnp.zeros((B, 8), jnp.int32), CONTEXT, train=False)
    with pytest.raises(ValueError, match="need an even head width, not 3"):
        rotary = replace(CONFIG, positions="rotary", transformer=replace(T, width=6))
        TransformerDecoder(rotary, context_width=E, rngs=nnx.Rngs(0))(
            jnp.zeros((B, 2), jnp.int32), CONTEXT, train=False
        )
