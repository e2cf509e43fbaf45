"""What a decoder's masked self-attention reads, bit by bit, and adding -1000 instead of excluding: where it leaks."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int
from matplotlib.figure import Figure

from vitjax.models.decoder import DecoderConfig, TransformerDecoder
from vitjax.nn.attention import softmax_scores
from vitjax.nn.blocks import TransformerConfig
from vitjax.nn.functional import merge, split
from vitjax.studies.lab.drawing import curve
from vitjax.studies.lab.study import Check, Result, Size, Spread, Study, Table

LENGTHS = {"reduced": 8, "full": 32, "long": 128}
ROWS = {"reduced": (16, 256), "full": (16, 65536), "long": (16, 1024, 65536, 1048576)}
GAPS = np.arange(880, 1061, 4)
VOCABULARY = 16
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}


def run(seeds: tuple[int, ...], size: Size) -> Result:
    """Perturb futures and the encoder's output; compare ways to exclude a key."""
    length = LENGTHS[size]
    sources = [_sources(seed, length) for seed in seeds]
    from_encoder, from_tokens, cross_from_encoder, cross_from_tokens = (
        Spread.of(found[pair] for found in sources)
        for pair in (("self", "encoder"), ("self", "tokens"), ("cross", "encoder"), ("cross", "tokens"))
    )
    causal = [_perturbed(seed, length, poison=False) for seed in seeds]
    poisoned = [_perturbed(seed, length, poison=True) for seed in seeds]
    control = Spread.of(found["after"] for found in causal)
    changed = Spread.of(found["before"] for found in causal)
    spoiled = Spread.of(found["before"] for found in poisoned)

    rows: list[tuple] = [
        (
            f"{where}-attention, {what} changed: keys and values that differ (first layer)",
            "-",
            "float32",
            share,
        )
        for where, what, share in (
            ("masked self", "encoder's output", from_encoder),
            ("masked self", "decoder's tokens", from_tokens),
            ("cross", "encoder's output", cross_from_encoder),
            ("cross", "decoder's tokens", cross_from_tokens),
        )
    ]
    rows += [
        ("causal decoder, a token changed: logits before it that differ", "excluded", "float32", changed),
        ("the same, logits at it and after it", "excluded", "float32", control),
        (
            "causal decoder, a token's vector is NaN: logits before it that differ",
            "excluded",
            "float32",
            spoiled,
        ),
    ]
    ordinary: list[Spread] = []
    for name in DTYPES:
        for keys in ROWS[size]:
            leak = Spread.of(_random_leak(seed, keys, name) for seed in seeds)
            ordinary.append(leak)
            rows.append((f"scores of variance 1, {keys:,} keys, half masked", "-1000", name, leak))
    early = Spread.of(_random_leak(seed, 256, "float32", penalty=-1000 / 512**0.5) for seed in seeds)
    rows.append(("the same, 256 keys, added before the division by sqrt(512)", "-1000", "float32", early))
    empty = Spread.of(_fully_masked(seed) for seed in seeds)
    rows.append(("all keys masked: how far the weights are those without a mask", "-1000", "float32", empty))
    gaps = {name: [Spread.of([leak]) for leak in _gap_leaks(dtype)] for name, dtype in DTYPES.items()}
    for name, leaks in gaps.items():
        first = next((int(gap) for gap, leak in zip(GAPS, leaks, strict=True) if leak.high > 0), -1)
        rows.append(("masked score above the visible one by so much: first leak at", "-1000", name, first))

    checks = (
        Check(
            "the masked self-attention takes its keys and values from the encoder",
            from_encoder,
            "of them differ with the encoder's output",
            at_least=0.99,
        ),
        Check(
            "the cross-attention does",
            cross_from_encoder,
            "of its keys and values differ with the encoder's output",
            at_least=0.99,
        ),
        Check(
            "there the encoder's output is added to what comes from the decoder",
            cross_from_tokens,
            "of its keys and values differ with the decoder's tokens",
            at_least=0.99,
        ),
        Check(
            "no logit before a changed token changes by a bit",
            changed,
            "of the logits before it",
            at_least=0.0,
            at_most=0.0,
            essential=True,
        ),
        Check("the test can fail: logits at and after it do change", control, "of them", at_least=0.99),
        Check(
            "nor if what is changed is no number (NaN)",
            spoiled,
            "of the logits before it",
            at_least=0.0,
            at_most=0.0,
        ),
        Check(
            "adding -1000 to scores of variance 1 gives masked keys exactly no weight, in any dtype and length",
            Spread(tuple(max(values) for values in zip(*(leak.values for leak in ordinary), strict=True))),
            "of the attention",
            at_least=0.0,
            at_most=0.0,
            essential=True,
        ),
        Check(
            "also if it is added before the division by sqrt(d_k)",
            early,
            "of the attention",
            at_least=0.0,
            at_most=0.0,
        ),
        Check(
            "also if the masked score is 1000 above the visible ones",
            gaps["float32"][int(np.flatnonzero(GAPS == 1000)[0])],
            "of the attention",
            at_least=0.0,
            at_most=0.0,
        ),
        Check(
            "a row in which all is masked does not read what is masked",
            empty,
            "(1: weights as without a mask)",
            at_least=0.0,
            at_most=0.0,
        ),
    )

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for place, (name, leaks) in enumerate(gaps.items()):
            curve(axes, GAPS.tolist(), leaks, name, place)
        axes.set(
            xlabel="masked score minus visible score, before the mask (nats)",
            ylabel="attention that goes to the masked key (fraction)",
            title="two keys, one of them masked by adding -1000",
            yscale="log",
        )
        axes.legend()

    return Result(
        Table(("situation", "mask", "dtype", "measured (fraction; nats in the last rows)"), tuple(rows)),
        checks,
        "The masked self-attention has nothing to do with the encoder: keys and values are the decoder's own, as are "
        "the queries; another output of the encoder changes not one bit of them in the first layer. It is the "
        "cross-attention that takes keys and values from the encoder, and from it alone: nothing is added to them. "
        "The causal mask is exact: change a token, and not one bit of any logit before it changes. One thing does "
        f"get through: a weight of zero times NaN is NaN, so {100 * spoiled.mean:.0f}% of the earlier logits are "
        "spoiled by a NaN in the future; a mask is no protection from bad numbers. Adding -1000 is as good as "
        "excluding for ordinary scores, at any length and in half precision too, which underflows even earlier. It "
        "leaks where every key of a row is masked: the same -1000 is added everywhere, softmax does not see it, and "
        "the row attends as if there were no mask. It leaks if added before the division by sqrt(d_k) = 22.6 "
        f"({early.mean:.1g} of the attention), and where a masked score is about 900 larger than the visible ones, "
        "which takes a model gone astray.",
        draw,
        "Share of attention that a key masked by adding -1000 still gets, against how far its score lies above the "
        "only visible one; no point: exactly none.",
    )


def _decoder(seed: int, length: int) -> tuple[nnx.GraphDef, dict]:
    """A fresh decoder of two layers, in parts."""
    transformer = TransformerConfig(width=32, depth=2, num_heads=4, feed_forward_width=64)
    config = DecoderConfig(transformer, VOCABULARY + 1, length)
    return split(TransformerDecoder(config, context_width=32, rngs=nnx.Rngs(seed)))[:2]


def _sources(seed: int, length: int) -> dict[tuple[str, str], float]:
    """Of (which attention, what is changed): share of the first layer's keys and values that differ in any bit."""
    definition, params = _decoder(seed, length)
    tokens = jax.random.randint(jax.random.key(seed), (1, length), 0, VOCABULARY)
    context, other = jax.random.normal(jax.random.key(seed + 1), (2, 1, 4, 32))
    before = _kept(definition, params, tokens, context)
    after = {
        "tokens": _kept(definition, params, (tokens + 1) % VOCABULARY, context),
        "encoder": _kept(definition, params, tokens, other),
    }
    return {
        (where, what): float((changed[where] != kept).mean())
        for what, changed in after.items()
        for where, kept in before.items()
    }


@partial(jax.jit, static_argnums=0)
def _kept(
    definition: nnx.GraphDef, params: dict, tokens: Int[Array, "1 T"], context: Float[Array, "1 S D"]
) -> dict[str, Array]:
    """The bits of the first layer's keys and values that the decoder keeps, having read the tokens."""
    model = merge(definition, params)
    cache = model.prefill(model.init_cache(context, num_beams=1, max_length=tokens.shape[1]), tokens)[1]
    first = cache.layers[0]
    pairs = {"self": (first.self_key, first.self_value), "cross": (first.cross_key, first.cross_value)}
    return {
        where: jax.lax.bitcast_convert_type(jnp.stack([key.data, value.data]), jnp.uint32)
        for where, (key, value) in pairs.items()
    }


def _perturbed(seed: int, length: int, *, poison: bool) -> dict[str, float]:
    """Share of logits that differ in any bit before, and from, a token that is changed; mean over its places."""
    definition, params = _decoder(seed, length)
    if poison:
        vectors = params["embedding"]["tokens"]["embedding"]
        params["embedding"]["tokens"]["embedding"] = vectors.at[VOCABULARY].set(jnp.nan)
    of_tokens, of_context = jax.random.split(jax.random.key(seed))
    tokens = jax.random.randint(of_tokens, (1, length), 0, VOCABULARY)
    other = jnp.full_like(tokens, VOCABULARY) if poison else (tokens + 1) % VOCABULARY
    variants = jnp.where(jnp.eye(length, dtype=bool), other, tokens)  # row t has token t changed
    context = jax.random.normal(of_context, (1, 4, 32))
    logits = _logits(definition, params, jnp.concatenate([tokens, variants]), context)
    bits = np.asarray(logits).view(np.uint32)
    differ = (bits[1:] != bits[:1]).mean(-1)  # [changed, position]
    before = np.tri(length, k=-1, dtype=bool)
    return {"before": float(differ[before].mean()), "after": float(differ[~before].mean())}


@partial(jax.jit, static_argnums=0)
def _logits(
    definition: nnx.GraphDef, params: dict, tokens: Int[Array, "B T"], context: Float[Array, "1 S D"]
) -> Float[Array, "B T V"]:
    context = jnp.broadcast_to(context, (tokens.shape[0], *context.shape[1:]))
    return merge(definition, params)(tokens, context, train=False).logits


def _added(scores: Float[Array, " S"], masked: Array, penalty: float) -> Float[Array, " S"]:
    """Weights where a penalty is added to masked scores, in the dtype of the scores from end to end."""
    return jax.nn.softmax(scores + jnp.where(masked, penalty, 0).astype(scores.dtype))


def _random_leak(seed: int, keys: int, dtype: str, penalty: float = -1000.0) -> float:
    """Attention that goes to masked keys, every second one, among standard normal scores."""
    scores = jax.random.normal(jax.random.key(seed), (keys,)).astype(DTYPES[dtype])
    masked = jnp.arange(keys) % 2 == 1
    return float(jnp.where(masked, _added(scores, masked, penalty), 0).astype(jnp.float32).sum())


def _gap_leaks(dtype: Any) -> Float[np.ndarray, " gaps"]:
    """Attention that goes to a masked key whose score lies `GAPS` above the only visible one."""
    scores = jnp.stack([jnp.zeros(len(GAPS)), jnp.asarray(GAPS, jnp.float32)], axis=1).astype(dtype)
    weights = jax.vmap(lambda row: _added(row, jnp.array([False, True]), -1000.0))(scores)
    return np.asarray(weights[:, 1], np.float32)


def _fully_masked(seed: int, keys: int = 16) -> float:
    """1 if a row of masked keys gets the weights it has without a mask, 0 if it gets even ones, as ours does."""
    scores = jax.random.normal(jax.random.key(seed), (1, 1, 1, keys))
    plain = softmax_scores(scores, None, None)[0, 0, 0]
    even = softmax_scores(scores, jnp.zeros((1, 1, 1, keys), bool), None)[0, 0, 0]
    added = _added(scores[0, 0, 0], jnp.ones(keys, bool), -1000.0)
    return float(1 - jnp.abs(added - plain).sum() / jnp.abs(even - plain).sum())


STUDY = Study(
    name="masking",
    claim=(
        "In a decoder, masked self-attention takes keys and values from the encoder. Its causal mask lets nothing of "
        "the future through, and adding a large negative number such as -1000 to the scores does the same as "
        "excluding them."
    ),
    method=(
        "A fresh two-layer decoder reads a sequence; then all tokens or the encoder's output are changed, and the bits "
        "of the keys and values in its cache are compared; then each token in turn, and the bits of all logits. The "
        "other rows mask keys by adding -1000 to their scores, in the dtype named, and measure "
        "what share of the attention the masked keys still get."
    ),
    sources=(
        "Vaswani et al. 2017, Attention Is All You Need, section 3.2.3 (masking by minus infinity)",
        "Devlin et al. 2019, BERT: its first implementation adds -10000",
    ),
    run=run,
)
