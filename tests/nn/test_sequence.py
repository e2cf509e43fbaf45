from dataclasses import replace
from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest

from tests.nn import reference
from tests.nn.trees import gradients_match, parts
from vitjax.nn import functional
from vitjax.nn.blocks import TransformerConfig
from vitjax.nn.sequence import SequenceConfig, SequenceEmbedding

T = TransformerConfig(width=8, depth=1, num_heads=2, feed_forward_width=12)


def sequence(kind: str, combination: str = "add", scale: bool = False, width: int = 8, **options):
    config = SequenceConfig(
        replace(T, width=width),
        7,
        max_length=6,
        positions=kind,
        embedding_combination=combination,
        scale_embedding=scale,
        **options,
    )
    definition, params, _ = parts(lambda rngs: SequenceEmbedding(config, rngs=rngs))
    return partial(functional.merge(definition, params), train=False), params


TOKENS = jnp.asarray([[1, 2, 3], [4, 5, 6]])
PLACES = jnp.asarray([[0, 1, 2], [0, 0, 1]])


@pytest.mark.parametrize("kind", ["none", "sinusoidal", "learned", "relative", "rotary"])
@pytest.mark.parametrize("combination", ["add", "concat"])
@pytest.mark.parametrize("scale", [True, False])
def test_sequence_embedding(kind: str, combination: str, scale: bool) -> None:
    embedding, params = sequence(kind, combination, scale)
    gives = kind in ("sinusoidal", "learned")
    token_width = 4 if gives and combination == "concat" else 8
    want = np.asarray(params["tokens"]["embedding"], float)[np.asarray(TOKENS)] * (
        token_width**0.5 if scale else 1.0
    )
    assert want.shape == (2, 3, token_width)
    if gives:
        width = 4 if combination == "concat" else 8
        places = np.asarray(PLACES)
        table = (
            np.asarray(params["positions"]["embedding"])
            if kind == "learned"
            else np.stack([reference.sinusoid(p, width) for p in range(6)])
        )
        assert table.shape == (6, width)
        want = want + table[places] if combination == "add" else np.concatenate([want, table[places]], -1)
    else:
        assert set(params) == {"tokens"}
    np.testing.assert_allclose(embedding(TOKENS, PLACES), want, rtol=1e-5, atol=1e-6)


def test_one_row_of_places_for_all() -> None:
    for kind in ("learned", "sinusoidal"):
        embedding, _ = sequence(kind)
        repeated = jnp.tile(PLACES[:1], (2, 1))
        np.testing.assert_array_equal(embedding(TOKENS, PLACES[:1]), embedding(TOKENS, repeated))


def test_more_tokens_than_learned_positions_are_refused() -> None:
    embedding, _ = sequence("learned")
    long = jnp.zeros((1, 7), int)
    with pytest.raises(ValueError, match="7 tokens are beyond the 6 learned positions: raise max_length"):
        embedding(long, jnp.arange(7)[None])
    embedding, _ = sequence("sinusoidal")
    assert embedding(long, jnp.arange(7)[None]).shape == (1, 7, 8)


def test_odd_width_is_shared_out() -> None:
    embedding, params = sequence("learned", "concat", width=7)
    assert params["tokens"]["embedding"].shape == (7, 4) and params["positions"]["embedding"].shape == (6, 3)
    assert embedding(TOKENS, PLACES).shape == (2, 3, 7)


def normed(x, params):
    return reference.layer_norm(x, np.asarray(params["scale"]), np.asarray(params["bias"]))


def test_token_types_norm_and_offset() -> None:
    """BERT's embedding with a table that has rows before the first place: word + kind + place, then the norm."""
    embedding, params = sequence("learned", embedding_norm=True, token_types=2, position_offset=3)
    tables = {
        name: np.asarray(params[name]["embedding"], float) for name in ("tokens", "token_types", "positions")
    }
    assert tables["token_types"].shape == (2, 8) and tables["positions"].shape == (9, 8)
    want = tables["tokens"][np.asarray(TOKENS)] + tables["token_types"][0]
    want = normed(want + tables["positions"][np.asarray(PLACES) + 3], params["norm"])
    np.testing.assert_allclose(embedding(TOKENS, PLACES), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["learned", "sinusoidal"])
def test_a_padding_token_has_no_place(kind: str) -> None:
    """Wherever it stands it is the same vector, and the others keep the places that they have without it."""
    options = dict(position_offset=2, sinusoid="halves_inclusive")
    embedding, params = sequence(kind, padding_token=1, **options)
    plain, _ = sequence(kind, **options)
    places = jnp.asarray([[0, 1, 2]])
    got = np.asarray(embedding(jnp.asarray([[1, 4, 1], [5, 1, 3]]), places))
    alone = np.asarray(params["tokens"]["embedding"])[1]
    if kind == "learned":
        alone = alone + np.asarray(params["positions"]["embedding"])[1]
    np.testing.assert_allclose(got[[0, 0, 1], [0, 2, 1]], np.stack([alone] * 3), rtol=1e-6)
    want = np.asarray(plain(jnp.asarray([[2, 4, 2], [5, 2, 3]]), places))
    np.testing.assert_array_equal(got[[0, 1, 1], [1, 0, 2]], want[[0, 1, 1], [1, 0, 2]])


def test_a_padding_token_needs_a_row_before_the_first() -> None:
    with pytest.raises(ValueError, match="padding_token needs position_offset 1 or more"):
        sequence("learned", padding_token=1)
    sequence("sinusoidal", padding_token=1)


def test_token_vectors_from_elsewhere() -> None:
    config = SequenceConfig(T, 7, max_length=6, positions="none")
    definition, params, _ = parts(lambda rngs: SequenceEmbedding(config, own_tokens=False, rngs=rngs))
    assert not params
    own, _ = sequence("none")
    embedding = functional.merge(definition, params)
    got = embedding(TOKENS, PLACES, embedding=own.func.tokens, train=False)
    np.testing.assert_array_equal(got, own(TOKENS, PLACES))


def test_gradients() -> None:
    config = SequenceConfig(
        replace(T, width=6), 7, 6, embedding_combination="concat", scale_embedding=True, embedding_norm=True
    )
    definition, params, _ = parts(lambda rngs: SequenceEmbedding(config, rngs=rngs))
    gradients_match(lambda p: functional.merge(definition, p)(TOKENS, PLACES, train=False), params)
