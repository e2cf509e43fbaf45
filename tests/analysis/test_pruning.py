"""A pruned model is the whole one with the rest silenced; importance is held against dimming by hand."""

from dataclasses import replace
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.nn.trees import normal, parts
from vitjax.analysis.complexity import complexity
from vitjax.analysis.pruning import importance, keep_heads, keep_neurons, strongest
from vitjax.models.decoder import DecoderConfig
from vitjax.models.encoder_decoder import EncoderDecoderConfig
from vitjax.models.text_encoder import TextEncoderConfig
from vitjax.models.vit import VisionTransformerConfig
from vitjax.nn.blocks import TransformerConfig
from vitjax.nn.functional import abstract, merge

T = TransformerConfig(width=12, depth=2, num_heads=3, feed_forward_width=10)
VIT = VisionTransformerConfig(T, (8, 8), (4, 4), num_classes=5, class_token=True, pooling="cls")
TEXT = TextEncoderConfig(T, vocabulary_size=7, max_length=6)
WRITER = EncoderDecoderConfig(encoder=TEXT, decoder=DecoderConfig(T, vocabulary_size=7, max_length=6))
VITS = {
    "plain": VIT,
    "gated, tables of each layer": replace(
        VIT,
        positions="relative",
        relative_tables="layers",
        relative_prefix=True,
        transformer=replace(T, activation="swiglu", qkv_bias="query_value", query_key_norm=True),
    ),
    "additive, shared, without bias": replace(
        VIT, transformer=replace(T, attention_score="additive", share_query_key=True, use_bias=False)
    ),
}
HEADS = np.asarray([[0, 2], [1, 2]])
NEURONS = np.asarray([[0, 3, 4, 9], [1, 2, 5, 6]])


@cache
def model(config: Any) -> tuple[Any, Any]:
    return parts(lambda rngs: config.build(rngs=rngs))[:2]


@partial(jax.jit, static_argnums=0)
def logits(config: Any, params: Any, *inputs: Any) -> jax.Array:
    definition = abstract(lambda rngs: config.build(rngs=rngs))[0]
    return merge(definition, params)(*inputs, train=False)


def silenced(blocks: Any, sublayer: str, last: str, kept: np.ndarray) -> Any:
    """The blocks with the last projection of a sublayer deaf to all but these heads or neurons."""
    kernel = np.array(blocks[sublayer][last]["kernel"])
    for layer, rows in enumerate(kept):
        kernel[layer, [row for row in range(kernel.shape[1]) if row not in rows]] = 0
    return {**blocks, sublayer: {**blocks[sublayer], last: {**blocks[sublayer][last], "kernel": kernel}}}


def equal(got: jax.Array, want: jax.Array, whole: jax.Array) -> None:
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    assert np.abs(want - whole).max() > 1e-2  # what was taken out had said something


@pytest.mark.parametrize("name", VITS)
def test_a_classifier_without_them(name: str) -> None:
    config, images = VITS[name], normal(2, 8, 8, 3)
    params = model(config)[1]
    whole = logits(config, params, images)
    blocks = silenced(params["blocks"], "attention", "out", HEADS)
    fewer_heads = keep_heads(config, params, HEADS)
    equal(logits(*fewer_heads, images), logits(config, {**params, "blocks": blocks}, images), whole)
    blocks = silenced(blocks, "feed_forward", "down", NEURONS)
    both = keep_neurons(*fewer_heads, NEURONS)
    equal(logits(*both, images), logits(config, {**params, "blocks": blocks}, images), whole)

    t = both[0].transformer
    assert (t.num_heads, t.attention_width, t.head_width, t.feed_forward_width) == (2, 8, 4, 4)
    counts = complexity(both[0])
    assert counts.total_parameters == sum(leaf.size for leaf in jax.tree.leaves(both[1]))
    assert counts.forward_flops < 0.7 * complexity(config).forward_flops


@pytest.mark.parametrize("tower", ["encoder", "decoder"])
def test_a_tower_without_them(tower: Any) -> None:
    config, params = WRITER, model(WRITER)[1]
    inputs = jnp.asarray([[3, 4, 5]]), jnp.asarray([[1, 2, 6, 0]])
    heads = {"attention": HEADS} | ({"cross_attention": 2 - HEADS[:, ::-1]} if tower == "decoder" else {})
    blocks = params[tower]["blocks"]
    for name, kept in heads.items():
        blocks = silenced(blocks, name, "out", kept)
    blocks = silenced(blocks, "feed_forward", "down", NEURONS)
    deaf = {**params, tower: {**params[tower], "blocks": blocks}}
    smaller = keep_neurons(*keep_heads(config, params, heads, tower=tower), NEURONS, tower=tower)
    equal(logits(*smaller, *inputs), logits(config, deaf, *inputs), logits(config, params, *inputs))
    untouched = "decoder" if tower == "encoder" else "encoder"
    assert getattr(smaller[0], untouched) == getattr(config, untouched)


def test_importance_against_dimming() -> None:
    """Values scaled by 1 +- eps dim a head, rows of the last kernel a neuron; the mean is over each example's size."""
    params = model(VIT)[1]
    images, labels = normal(5, 8, 8, 3), jnp.asarray([0, 1, 2, 3, 4])

    def loss(params: Any, example: Any) -> jax.Array:
        return -jax.nn.log_softmax(logits(VIT, params, example[0][None]))[0, example[1]]

    found = jax.jit(lambda params: importance(params, loss, (images, labels), batch_size=2))(params)
    assert set(found.heads) == {"attention"} and found.neurons.shape == (2, 10)
    losses = jax.jit(lambda params: jax.vmap(lambda *example: loss(params, example))(images, labels))

    def dimmed(sublayer: str, paths: list[tuple[str, str, Any]], eps: float) -> Any:
        part = {name: dict(leaves) for name, leaves in params["blocks"][sublayer].items()}
        for name, leaf, index in paths:
            part[name][leaf] = part[name][leaf].at[index].multiply(1 + eps)
        return {**params, "blocks": {**params["blocks"], sublayer: part}}

    def moves(sublayer: str, paths: list[tuple[str, str, Any]]) -> Any:
        eps = 2e-2
        up, down = (losses(dimmed(sublayer, paths, e)) for e in (eps, -eps))
        return np.abs(np.asarray(up - down) / (2 * eps)).mean()

    for layer in range(2):
        for head in range(3):
            values = [("value", "kernel", (layer, slice(None), head)), ("value", "bias", (layer, head))]
            want = moves("attention", values)
            np.testing.assert_allclose(found.heads["attention"][layer, head], want, rtol=1e-2, atol=1e-3)
        want = moves("feed_forward", [("down", "kernel", (layer, 7))])
        np.testing.assert_allclose(found.neurons[layer, 7], want, rtol=1e-2, atol=1e-3)


def test_a_decoder_has_two_attentions() -> None:
    params = model(WRITER)[1]

    def loss(params: Any, tokens: Any) -> jax.Array:
        return logits(WRITER, params, jnp.asarray([[3, 4, 5]]), tokens[None])[0, -1, 2]

    found = importance(params, loss, jnp.asarray([[1, 2, 6, 0]]), tower="decoder")
    assert {name: each.shape for name, each in found.heads.items()} == {
        "attention": (2, 3),
        "cross_attention": (2, 3),
    }
    assert all((each > 0).all() for each in (*found.heads.values(), found.neurons))


def test_the_strongest() -> None:
    scores = jnp.asarray([[0.1, 3.0, 2.0], [5.0, 1.0, 1.0]])
    assert strongest(scores, 2).tolist() == [[1, 2], [0, 1]]


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda: keep_heads(VIT, model(VIT)[1], np.asarray([[0, 3], [0, 1]])), "expected some of 0 to 2"),
        (lambda: keep_heads(VIT, model(VIT)[1], np.asarray([[0, 0], [0, 1]])), "there twice"),
        (lambda: keep_heads(VIT, model(VIT)[1], HEADS[:1]), "those of 1 layers: the model has 2"),
        (lambda: keep_neurons(VIT, model(VIT)[1], NEURONS[:, :0]), "expected some of 0 to 9"),
        (
            lambda: keep_heads(WRITER, model(WRITER)[1], HEADS, tower="decoder"),
            "given for attention: the blocks have attention, cross_attention",
        ),
        (lambda: keep_neurons(WRITER, model(WRITER)[1], NEURONS), "this model has no Transformer blocks"),
    ],
)
def test_what_is_not_there(change: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        change()


@pytest.mark.parametrize("options", [{"positions": "relative"}, {"pooling": "attention"}], ids=str)
def test_what_all_layers_share(options: dict[str, Any]) -> None:
    config = replace(VIT, **options)
    with pytest.raises(ValueError, match="cannot be taken from the layers alone"):
        keep_heads(config, model(config)[1], HEADS)
