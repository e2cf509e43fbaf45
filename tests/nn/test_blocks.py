from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.nn import reference
from tests.nn.trees import gradients_match, normal, parts
from vitjax.nn import functional
from vitjax.nn.attention import causal_mask, padding_mask
from vitjax.nn.blocks import DecoderBlock, EncoderBlock, TransformerConfig
from vitjax.nn.cache import DecoderCache, write
from vitjax.nn.positions import rotary

B, T, S, D, E = 2, 3, 4, 8, 6
CONFIG = TransformerConfig(width=D, depth=1, num_heads=2, feed_forward_width=12)

VARIANTS: dict[str, dict[str, Any]] = {
    "ViT": {},
    "Vaswani": {"norm_position": "post", "activation": "relu"},
    "Llama": {"norm": "rms", "activation": "swiglu", "use_bias": False},
    "layer scale, post-norm": {"layer_scale": 0.5, "norm_position": "post", "norm_epsilon": 1e-3},
    "batch norm": {"norm": "batch", "activation": "silu"},
}
MASK = jnp.asarray([[1, 1, 1, 0], [1, 1, 1, 1]], bool)


def encoder(config: TransformerConfig) -> tuple[Any, Any, Any]:
    return parts(lambda rngs: EncoderBlock(config, rngs=rngs))


def decoder(config: TransformerConfig) -> tuple[Any, Any, Any]:
    return parts(lambda rngs: DecoderBlock(config, context_width=E, rngs=rngs))


@partial(jax.jit, static_argnums=0, static_argnames=("train", "return_weights"))
def run(definition, params, stats, *args, train=False, **kwargs):
    return functional.merge(definition, params, stats)(*args, train=train, **kwargs)


class Reference:
    """One residual branch after the other, as the papers draw them."""

    def __init__(self, config: TransformerConfig, params: Any):
        self.config, self.params = config, params

    def norm(self, x: np.ndarray, name: str) -> np.ndarray:
        norm = {key: np.asarray(value) for key, value in self.params[name]["norm"].items()}
        epsilon = self.config.norm_epsilon
        match self.config.norm:
            case "layer":
                return reference.layer_norm(x, norm["scale"], norm["bias"], epsilon)
            case "rms":
                return reference.rms_norm(x, norm["scale"], epsilon)
        return x / np.sqrt(1 + epsilon) * norm["scale"] + norm["bias"]  # running mean 0, variance 1

    def branch(self, x: np.ndarray, name: str, function: Any) -> np.ndarray:
        pre = self.config.norm_position == "pre"
        out = function(self.norm(x, name) if pre else x)
        if self.config.layer_scale is not None:
            out = out * np.asarray(self.params[name]["layer_scale"]["scale"])
        return x + out if pre else self.norm(x + out, name)

    def __call__(self, x, context=None, mask=None, context_mask=None):
        p = self.params
        x = self.branch(
            x,
            "attention_sublayer",
            lambda a: reference.multi_head_attention(a, a, p["attention"], mask),
        )
        if context is not None:
            x = self.branch(
                x,
                "cross_attention_sublayer",
                lambda a: reference.multi_head_attention(a, context, p["cross_attention"], context_mask),
            )
        return self.branch(
            x,
            "feed_forward_sublayer",
            lambda a: reference.feed_forward(a, p["feed_forward"], self.config.activation),
        )


@pytest.mark.parametrize("variant", VARIANTS)
def test_encoder_block_against_numpy(variant: str) -> None:
    config = replace(CONFIG, **VARIANTS[variant])
    definition, params, stats = encoder(config)
    x, mask = normal(B, S, D), padding_mask(MASK)
    want = Reference(config, params)(np.asarray(x, float), mask=np.asarray(mask))
    got = run(definition, params, stats, x, mask=mask)
    np.testing.assert_allclose(got.x, want, rtol=1e-4, atol=2e-5)
    assert got.weights is None


@pytest.mark.parametrize("variant", VARIANTS)
def test_decoder_block_against_numpy(variant: str) -> None:
    config = replace(CONFIG, **VARIANTS[variant])
    definition, params, stats = decoder(config)
    x, context = normal(B, T, D), normal(B, S, E, seed=1)
    want = Reference(config, params)(
        np.asarray(x, float),
        np.asarray(context, float),
        np.asarray(causal_mask(T)),
        np.asarray(padding_mask(MASK)),
    )
    got = run(definition, params, stats, x, context, mask=causal_mask(T), context_mask=padding_mask(MASK))
    np.testing.assert_allclose(got.x, want, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("variant", ["ViT", "Vaswani"])
def test_encoder_block_gradients(variant: str) -> None:
    config = replace(CONFIG, **VARIANTS[variant])
    definition, params, stats = encoder(config)

    def block(params, x):
        bias = jnp.linspace(-1, 1, S)[None, None, None]
        return functional.merge(definition, params, stats)(
            x, mask=padding_mask(MASK), bias=bias, rotation=rotary(jnp.arange(S)[None], 4), train=False
        ).x

    gradients_match(block, params, normal(B, S, D))


@pytest.mark.parametrize("variant", VARIANTS)
def test_decoder_block_gradients(variant: str) -> None:
    config = replace(CONFIG, **VARIANTS[variant])
    definition, params, stats = decoder(config)

    def block(params, x, context):
        return functional.merge(definition, params, stats)(
            x, context, mask=causal_mask(T), context_mask=padding_mask(MASK), train=False
        ).x

    gradients_match(block, params, normal(B, T, D), normal(B, S, E, seed=1))


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_weights_on_request(kind: str) -> None:
    """The encoder's are those of its self-attention, the decoder's of its cross-attention."""
    definition, params, stats = (encoder if kind == "encoder" else decoder)(CONFIG)
    inputs = (normal(B, T, D),) if kind == "encoder" else (normal(B, T, D), normal(B, S, E, seed=1))
    plain = run(definition, params, stats, *inputs)
    asked = run(definition, params, stats, *inputs, return_weights=True)
    np.testing.assert_array_equal(plain.x, asked.x)
    assert asked.weights.shape == (B, 2, T, T if kind == "encoder" else S)
    attention = params["attention" if kind == "encoder" else "cross_attention"]
    sublayer = params[f"{'' if kind == 'encoder' else 'cross_'}attention_sublayer"]["norm"]
    if kind == "encoder":
        entered = reference.layer_norm(inputs[0], np.asarray(sublayer["scale"]), np.asarray(sublayer["bias"]))
        q, k = (
            np.einsum("btd,dhc->bthc", entered, np.asarray(attention[n]["kernel"]))
            + np.asarray(attention[n]["bias"])
            for n in ("query", "key")
        )
        np.testing.assert_allclose(asked.weights, reference.dot_weights(q, k), rtol=1e-4, atol=1e-5)


def test_shared_query_and_key_only_where_they_see_the_same_tokens() -> None:
    _, params, _ = decoder(replace(CONFIG, share_query_key=True))
    assert "key" not in params["attention"] and "key" in params["cross_attention"]


def test_every_drop_is_applied() -> None:
    """Each rate alone changes the output in train mode, and depends on the key."""
    for option in ({"dropout": 0.5}, {"attention_dropout": 0.5}, {"stochastic_depth": 0.5}):
        definition, params, stats = encoder(replace(CONFIG, **option))
        x = normal(8, S, D)
        calm = run(definition, params, stats, x).x
        drops = [
            run(definition, params, stats, x, train=True, key=jax.random.key(k, impl="rbg"), drop_rate=0.5).x
            for k in (0, 0, 1)
        ]
        np.testing.assert_array_equal(drops[0], drops[1])
        assert np.abs(drops[0] - calm).max() > 1e-2 and np.abs(drops[0] - drops[2]).max() > 1e-2
        with pytest.raises(ValueError, match="needs a key"):
            run(definition, params, stats, x, train=True, drop_rate=0.5)


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_bfloat16(kind: str) -> None:
    config = replace(CONFIG, layer_scale=0.5, query_key_norm=True)
    build = encoder if kind == "encoder" else decoder
    definition, params, stats = build(replace(config, dtype="bfloat16"))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    inputs = (normal(B, T, D),) if kind == "encoder" else (normal(B, T, D), normal(B, S, E, seed=1))
    low = run(definition, params, stats, *(a.astype(jnp.bfloat16) for a in inputs), return_weights=True)
    exact = run(build(config)[0], params, stats, *inputs)
    assert low.x.dtype == jnp.bfloat16 and low.weights.dtype == jnp.float32
    np.testing.assert_allclose(low.x.astype(jnp.float32), exact.x, atol=0.15)


@pytest.mark.parametrize("position", ["pre", "post"])
def test_extend_equals_the_whole_sequence(position: str) -> None:
    """Two beams a row, in pieces of 2 and 1 tokens, against one pass (the decoder's tests go further)."""
    config = replace(CONFIG, norm_position=position)
    definition, params, _ = decoder(config)
    block = functional.merge(definition, params)
    x, context = normal(B, 2, T, D), normal(B, S, E, seed=1)
    cache = DecoderCache.create([block.project_context(context)], MASK, num_beams=2, max_length=T)
    pieces, layer = [], cache.layers[0]
    for start, length in ((0, 2), (2, 1)):
        cache = cache.claim(2, length)
        out, layer = block.extend(
            x[:, :, start : start + length].reshape(B, 2 * length, D),
            layer,
            put=partial(write, position=cache.position, length=length, num_beams=2),
            visible=cache.visible(2, length),
            context_mask=MASK,
        )
        cache, pieces = cache.advance(length), [*pieces, out.reshape(B, 2, length, D)]
    for beam in range(2):
        want = run(
            definition, params, {}, x[:, beam], context, mask=causal_mask(T), context_mask=padding_mask(MASK)
        ).x
        np.testing.assert_allclose(jnp.concatenate(pieces, axis=2)[:, beam], want, rtol=1e-5, atol=1e-5)


def test_head_width_must_divide() -> None:
    with pytest.raises(ValueError, match="width 8 is not a multiple of num_heads 3"):
        EncoderBlock(replace(CONFIG, num_heads=3), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="attention_width 10 is not a multiple of num_heads"):
        replace(CONFIG, attention_width=10, num_heads=4)
    assert replace(CONFIG, attention_width=12, num_heads=4).head_width == 3
