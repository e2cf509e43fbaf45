"""Gradient and tokens by depth, with and without residual connections."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float
from matplotlib.figure import Figure

from vitjax.nn.blocks import EncoderBlock, TransformerConfig
from vitjax.nn.functional import Tree, merge
from vitjax.nn.stack import stack_blocks
from vitjax.studies.lab.drawing import panel
from vitjax.studies.lab.study import Check, Result, Size, Spread, Study, Table
from vitjax.studies.lab.training import Build, fresh, keys

DEPTHS = {"reduced": 12, "full": 24, "long": 32}  # float32 ends soon after: see the numbers without norm
WIDTH, TOKENS, BATCH = 64, 16, 8


class Variant(NamedTuple):
    """A way to put a sublayer f into the stack: x + f(x) or f(x), normalised before, after or not; 1 is yes."""

    label: str
    residual: float
    pre_norm: float
    post_norm: float


VARIANTS = (
    Variant("residual, pre-norm", 1.0, 1.0, 0.0),
    Variant("residual, post-norm", 1.0, 0.0, 1.0),
    Variant("residual, no norm", 1.0, 0.0, 0.0),
    Variant("none, with norm", 0.0, 1.0, 0.0),
    Variant("none, no norm", 0.0, 0.0, 0.0),
)
PRE, POST, _, BARE_NORM, BARE = (variant.label for variant in VARIANTS)


def run(seeds: tuple[int, ...], size: Size) -> Result:
    """Each variant at one depth: what reaches the first layer, and what is left of the tokens in the last."""
    depth = DEPTHS[size]
    definition, params, _ = fresh(Build(partial(_blocks, depth)), seeds)
    by_depth = jax.jit(jax.vmap(partial(_by_depth, depth, definition), in_axes=(0, 0, None)))
    apart: dict[str, list[Spread]] = {}
    gradients: dict[str, list[Spread]] = {}  # of each layer, of the last's
    for label, *variant in VARIANTS:
        norms, differences = (
            np.asarray(each, float) for each in by_depth(params, keys(seeds), tuple(variant))
        )
        gradients[label] = [Spread.of(layer) for layer in (norms / norms[:, -1:]).T]
        apart[label] = [Spread.of(layer) for layer in differences.T]
    first = {label: layers[0] for label, layers in gradients.items()}
    unit = "times the last layer's"
    checks = (
        Check(
            "without residual connections and norms the gradient of the first layer vanishes",
            first[BARE],
            unit,
            at_most=1e-3,
            essential=True,
        ),
        Check(
            "with them it does not (pre-norm)", first[PRE], unit, at_least=0.1, at_most=100.0, essential=True
        ),
        Check(
            "nor in the first Transformer's order (post-norm)", first[POST], unit, at_least=0.1, at_most=100.0
        ),
        Check(
            "residual connections are needed for it: norms alone do not keep the gradient",
            first[BARE_NORM],
            unit,
            at_most=1e-3,
        ),
    )

    def draw(figure: Figure) -> None:
        gradient, tokens = figure.subplots(1, 2)
        panel(
            gradient,
            range(1, depth + 1),
            gradients,
            title="gradient by depth",
            xlabel="layer (number)",
            ylabel="gradient (times the last layer's)",
            log="y",
            legend=None,
        )
        panel(
            tokens,
            range(1, depth + 1),
            apart,
            title="what is left of the differences between tokens",
            xlabel="layer (number)",
            ylabel="differences (fraction of the vectors)",
            log="y",
            ylim=(1e-8, 1.5),
        )

    return Result(
        Table(
            (
                "sublayers",
                "gradient, first layer (of the last's)",
                "gradient, middle layer (of the last's)",
                "tokens apart after the first layer (fraction)",
                f"after layer {depth} (fraction)",
            ),
            tuple(
                (label, layers[0], layers[depth // 2], apart[label][0], apart[label][-1])
                for label, layers in gradients.items()
            ),
        ),
        checks,
        f"Over {depth} layers at initialisation the gradient that reaches the first layer is {first[BARE].mean:.1g} "
        f"times the last's without residual connections and norms, {first[PRE].mean:.1g} times with residual "
        f"connections and pre-norm and {first[POST].mean:.1g} times with post-norm. Without residual connections but "
        f"with norms it is {first[BARE_NORM].mean:.1g} times. What residual connections save in a Transformer is not "
        "the gradient alone: without them attention averages the tokens until they are all the same. After "
        f"{depth} layers the part of the vectors that tells tokens apart is {apart[BARE_NORM][-1].mean:.1g} with norms "
        f"alone, against {apart[PRE][-1].mean:.1g} with residual connections and pre-norm.",
        draw,
        "Gradient of a random function of the output with respect to what leaves each layer, and how far the tokens "
        "still differ there.",
    )


def _blocks(depth: int, *, rngs: nnx.Rngs) -> EncoderBlock:
    config = TransformerConfig(WIDTH, depth, 4, 4 * WIDTH)
    return stack_blocks(lambda r: EncoderBlock(config, rngs=r), depth, rngs=rngs)


def _by_depth(
    depth: int, definition: nnx.GraphDef, params: Tree, key: Array, variant: tuple[Array, Array, Array]
) -> tuple[Float[Array, " L"], Float[Array, " L"]]:
    """For what leaves each layer: norm of the gradient, and the part of the vectors not common to all tokens."""
    residual, pre_norm, post_norm = variant  # arrays, so that one program serves all
    of_input, of_direction = jax.random.split(key)
    blocks = merge(definition, params)
    shape = (BATCH, TOKENS, WIDTH)
    x, direction = jax.random.normal(of_input, shape), jax.random.normal(of_direction, shape)

    def layer(x: Array, inputs: tuple[EncoderBlock, Array]) -> tuple[Array, Array]:
        block, nudge = inputs
        attend = (lambda h: block.attention(h, train=False).values, block.attention_sublayer.norm)
        feed = (lambda h: block.feed_forward(h, train=False), block.feed_forward_sublayer.norm)
        for sublayer, norm in (attend, feed):
            branch = sublayer(jnp.where(pre_norm, norm(x, train=False), x))
            x = x * residual + branch
            x = jnp.where(post_norm, norm(x, train=False), x)
        x = x + nudge
        common = x.mean(axis=1, keepdims=True)
        return x, _norm(x - common) / _norm(x)

    def output(nudges: Float[Array, "L B N D"]) -> tuple[Array, Array]:
        last, apart = jax.lax.scan(layer, x, (blocks, nudges))
        return (last * direction).sum(), apart

    gradients, apart = jax.grad(output, has_aux=True)(jnp.zeros((depth, *shape)))
    return jax.vmap(_norm)(gradients), apart


def _norm(x: Array) -> Array:
    """Of numbers whose squares may be too small or too large for float32."""
    largest = jnp.maximum(jnp.abs(x).max(), jnp.finfo(x.dtype).tiny)
    return largest * jnp.linalg.norm(x / largest)


STUDY = Study(
    name="residual",
    claim="Residual connections are there so that gradients reach the first layers of a deep network.",
    method=(
        f"A stack of fresh encoder blocks (width {WIDTH}, {TOKENS} tokens), whose sublayers are put together in five "
        "ways. Measured are the gradient of a random linear function of the output with respect to what leaves each "
        "layer, and the part of those vectors that is not common to all tokens."
    ),
    sources=(
        "He et al. 2016, Deep Residual Learning for Image Recognition",
        "Dong et al. 2021, Attention is not all you need: pure attention loses rank doubly exponentially with depth",
        "Xiong et al. 2020, On Layer Normalization in the Transformer Architecture",
    ),
    run=run,
)
