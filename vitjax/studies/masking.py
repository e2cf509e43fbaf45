"""What a decoder attends to, bit by bit, and adding -1000 to scores instead of excluding them: where it leaks."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from matplotlib.figure import Figure

from vitjax.models.decoder import DecoderConfig, TransformerDecoder
from vitjax.nn.attention import softmax_scores
from vitjax.nn.blocks import TransformerConfig
from vitjax.nn.functional import Tree, merge
from vitjax.studies.lab.drawing import panel
from vitjax.studies.lab.study import Cell, Check, Result, Size, Spread, Study, Table
from vitjax.studies.lab.training import Build, fresh

LENGTHS = {"reduced": 8, "full": 32, "long": 128}  # tokens that the decoder reads
KEYS = {"reduced": (16, 256), "full": (16, 65536), "long": (16, 65536, 1048576)}
GAPS = np.arange(880, 1061, 4)  # nats
VOCABULARY, WIDTH, SOURCES = 16, 32, 4
DTYPES = ("float32", "bfloat16", "float16")
CHANGES = {  # what is changed, and what may differ then
    "self by encoder": ("the encoder's output", "keys and values of the self-attention"),
    "self by tokens": ("all tokens", "keys and values of the self-attention"),
    "cross by encoder": ("the encoder's output", "keys and values of the cross-attention"),
    "cross by tokens": ("all tokens", "keys and values of the cross-attention"),
    "elsewhere": ("the encoder's output, cross-attention silenced", "logits"),
    "before": ("a token", "logits before it"),
    "after": ("a token", "logits at it and after it"),
    "before NaN": ("a token, to NaN", "logits before it"),
}


def run(seeds: tuple[int, ...], size: Size) -> Result:
    """Change tokens and the encoder's output; compare ways to exclude a key."""
    differ = _differences(seeds, LENGTHS[size])
    ordinary = {dtype: Spread.most(*(_leak(seeds, keys, dtype) for keys in KEYS[size])) for dtype in DTYPES}
    early = _leak(seeds, 256, "float32", penalty=-1000 / 512**0.5)
    empty = _fully_masked(seeds)
    gaps = {dtype: _gap_leaks(dtype) for dtype in DTYPES}

    lengths = " or ".join(f"{keys:,}" for keys in KEYS[size])
    masked = "attention to masked keys (fraction)"
    rows: tuple[tuple[Cell, ...], ...] = (
        *(
            (f"changed: {changed}", "float32", f"{what} that differ (fraction)", differ[name])
            for name, (changed, what) in CHANGES.items()
        ),
        *(
            (f"-1000 on half of {lengths} keys, scores of variance 1", dtype, masked, leak)
            for dtype, leak in ordinary.items()
        ),
        ("-1000 before the division by sqrt(512), 256 keys", "float32", masked, early),
        ("-1000 on all keys", "float32", "weights, between even (0) and those without a mask (1)", empty),
        *(
            ("-1000 on one of two keys", dtype, "it leaks if its score is higher by (nats)", _first(leaks))
            for dtype, leaks in gaps.items()
        ),
    )
    encoder, tokens = "of them differ with the encoder's output", "of them differ with the tokens"
    none = partial(Check, at_least=0.0, at_most=0.0)
    checks = (
        Check(
            "the masked self-attention takes its keys and values from the encoder",
            differ["self by encoder"],
            encoder,
            at_least=0.99,
        ),
        Check("the cross-attention does", differ["cross by encoder"], encoder, at_least=0.99),
        Check(
            "there the encoder's output is added to what comes from the decoder",
            differ["cross by tokens"],
            tokens,
            at_least=0.99,
        ),
        Check(
            "it is added to queries or keys elsewhere: silencing the cross-attention does not shut it out",
            differ["elsewhere"],
            "of the logits differ with it",
            at_least=0.99,
        ),
        none("no logit before a changed token changes by a bit", differ["before"], "of them", essential=True),
        Check(
            "the test can fail: logits at and after it do change", differ["after"], "of them", at_least=0.99
        ),
        none("nor if what is changed is no number (NaN)", differ["before NaN"], "of the logits before it"),
        none(
            "adding -1000 to scores of variance 1 gives masked keys exactly no weight, in any dtype and length",
            Spread.most(*ordinary.values()),
            "of the attention",
            essential=True,
        ),
        none("also if it is added before the division by sqrt(d_k)", early, "of the attention"),
        none(
            "also if the masked score is 1000 above the visible ones",
            gaps["float32"][int(np.flatnonzero(GAPS == 1000)[0])],
            "of the attention",
        ),
        none(
            "a row in which all is masked does not read what is masked",
            empty,
            "(1: weights as without a mask)",
        ),
    )

    def draw(figure: Figure) -> None:
        panel(
            figure.subplots(),
            GAPS.tolist(),
            gaps,
            xlabel="masked score minus visible score, before the mask (nats)",
            ylabel="attention that goes to the masked key (fraction)",
            title="two keys, one of them masked by adding -1000",
            log="y",
            legend="upper left",
        )

    return Result(
        Table(("situation", "dtype", "what is measured (unit)", "measured"), rows),
        checks,
        "The masked self-attention has nothing to do with the encoder: its keys and values are the decoder's own, and "
        "another output of the encoder changes not one bit of them in the first layer. It is the cross-attention that "
        "takes keys and values from the encoder, and from it alone: nothing is added to them, nor is the encoder's "
        "output added to queries or keys elsewhere. The causal mask is exact: change a token, and not one bit of any "
        "logit before it changes. One thing does get through: a weight of zero times NaN is NaN, so "
        f"{differ['before NaN'].mean:.0%} of the earlier logits are spoiled by a NaN in the future. Adding -1000 is as "
        "good as excluding for ordinary scores, at any length and in half precision too. It leaks where every key of a "
        "row is masked: softmax does not see what is added everywhere, and the row attends as if there were none. It "
        f"leaks if added before the division by sqrt(d_k) = {512**0.5:.1f} ({early.mean:.1g} of the attention), and "
        f"where a masked score is {_first(gaps['float32'])} nats or more above the visible ones, which takes a model "
        "gone astray.",
        draw,
        "Share of attention that a key masked by adding -1000 still gets, against how far its score lies above the "
        "only visible one; no point: exactly none. The line of bfloat16 covers that of float32.",
    )


def _differences(seeds: tuple[int, ...], length: int) -> dict[str, Spread]:
    """Of a fresh decoder of two layers: share of numbers in which any bit differs after each of the `CHANGES`."""
    config = DecoderConfig(TransformerConfig(WIDTH, 2, 4, 2 * WIDTH), VOCABULARY + 1, length)
    definition, params, _ = fresh(Build(partial(TransformerDecoder, config, context_width=WIDTH)), seeds)
    vectors = params["embedding"]["tokens"]  # [seeds, V, D]
    vectors["embedding"] = vectors["embedding"].at[:, VOCABULARY].set(jnp.nan)
    cross = jax.tree.map(jnp.zeros_like, params["blocks"]["cross_attention"])
    silent = {**params, "blocks": {**params["blocks"], "cross_attention": cross}}

    @jax.jit
    @jax.vmap
    def kept(params: Tree, tokens: Int[Array, " T"], context: Float[Array, "S D"]) -> dict[str, Array]:
        """Keys and values of the first layer."""
        model = merge(definition, params)
        cache = model.init_cache(context[None], num_beams=1, max_length=length)
        first = model.prefill(cache, tokens[None])[1].layers[0]
        return {
            "self": jnp.stack([first.self_key.data, first.self_value.data]),
            "cross": jnp.stack([first.cross_key.data, first.cross_value.data]),
        }

    @jax.jit
    @jax.vmap
    def logits(
        params: Tree, tokens: Int[Array, "B T"], context: Float[Array, "S D"]
    ) -> Float[Array, "B T V"]:
        contexts = jnp.broadcast_to(context, (len(tokens), *context.shape))
        return merge(definition, params)(tokens, contexts, train=False).logits

    rng = np.random.default_rng(0)
    tokens = rng.integers(0, VOCABULARY, (len(seeds), length))
    others = (tokens + 1) % VOCABULARY
    context, another = rng.normal(size=(2, len(seeds), SOURCES, WIDTH)).astype(np.float32)
    usual = kept(params, tokens, context)
    then = {"encoder": kept(params, tokens, another), "tokens": kept(params, others, context)}
    found = {
        f"{where} by {what}": _differ(then[what][where], usual[where]) for what in then for where in usual
    }

    same = np.broadcast_to(tokens[:, None], (len(seeds), length, length))
    found["elsewhere"] = _differ(logits(silent, same, context), logits(silent, same, another))
    own = np.eye(length, dtype=bool)  # in row t token t is another, or no number
    unchanged, changed, poisoned = (
        np.asarray(logits(params, read, context))  # [seeds, T, T, V]
        for read in (same, np.where(own, others[:, None], same), np.where(own, VOCABULARY, same))
    )
    past = np.tri(length, k=-1, dtype=bool)
    return found | {
        "before": _differ(changed[:, past], unchanged[:, past]),
        "after": _differ(changed[:, ~past], unchanged[:, ~past]),
        "before NaN": _differ(poisoned[:, past], unchanged[:, past]),
    }


def _differ(
    one: Float[Array | np.ndarray, "seeds ..."], other: Float[Array | np.ndarray, "seeds ..."]
) -> Spread:
    """Share of numbers that differ in any bit."""
    differ = np.asarray(one).view(np.uint32) != np.asarray(other).view(np.uint32)
    return Spread.of(differ.reshape(len(differ), -1).mean(1))


def _added(
    scores: Float[np.ndarray, "... S"],
    masked: Bool[np.ndarray, " S"],
    dtype: str = "float32",
    penalty: float = -1000.0,
) -> Float[np.ndarray, "... S"]:
    """Weights where a penalty is added to masked scores, in a dtype from end to end."""
    added = jnp.asarray(scores, dtype) + jnp.where(masked, penalty, 0).astype(dtype)
    return np.asarray(jax.nn.softmax(added), np.float32)


def _leak(seeds: tuple[int, ...], keys: int, dtype: str, penalty: float = -1000.0) -> Spread:
    """Attention that goes to masked keys, every second one, among standard normal scores."""
    masked = np.arange(keys) % 2 == 1
    return Spread.of(_added(_scores(seeds, keys), masked, dtype, penalty)[:, masked].sum(1))


def _gap_leaks(dtype: str) -> list[Spread]:
    """Attention that goes to a masked key whose score lies `GAPS` above that of the only visible one."""
    scores = np.stack([np.zeros(len(GAPS)), GAPS], axis=1)
    return [Spread((float(leak),)) for leak in _added(scores, np.array([False, True]), dtype)[:, 1]]


def _first(leaks: list[Spread]) -> int:
    """The least of the `GAPS` at which something leaks, in nats."""
    return int(GAPS[np.argmax([leak.mean > 0 for leak in leaks])])


def _fully_masked(seeds: tuple[int, ...], keys: int = 16) -> Spread:
    """1 if a row of masked keys gets the weights it has without a mask, 0 if it gets even ones, as ours does."""
    scores = _scores(seeds, keys)
    plain, even = (
        np.asarray(softmax_scores(jnp.asarray(scores)[:, None, None], mask, None))[:, 0, 0]
        for mask in (None, jnp.zeros((1, 1, 1, keys), bool))
    )
    added = _added(scores, np.ones(keys, bool))
    return Spread.of(1 - np.abs(added - plain).sum(1) / np.abs(even - plain).sum(1))


def _scores(seeds: tuple[int, ...], keys: int) -> Float[np.ndarray, "seeds S"]:
    return np.stack([np.random.default_rng(seed).normal(size=keys) for seed in seeds]).astype(np.float32)


STUDY = Study(
    name="masking",
    claim=(
        "In a decoder, masked self-attention takes keys and values from the encoder. Its causal mask lets nothing of "
        "the future through, and adding a large negative number such as -1000 to the scores does the same as "
        "excluding them."
    ),
    method=(
        "A fresh two-layer decoder reads a sequence; then all tokens or the encoder's output are changed, and the bits "
        "of the keys and values that its first layer keeps are compared. The encoder's output is changed again while "
        "all parameters of the cross-attention are 0, then each token in turn, and the bits of logits are compared. "
        "The other rows mask keys by adding -1000 to their scores, in the dtype named, and measure what share of the "
        "attention the masked keys still get."
    ),
    sources=(
        "Vaswani et al. 2017, Attention Is All You Need, section 3.2.3 (masking by minus infinity)",
        "Devlin et al. 2019, BERT: its first implementation adds -10000",
    ),
    run=run,
)
