"""Tokens, heads and neurons taken out of Vision Transformers: what it costs in accuracy, and what it saves."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float

from vitjax.analysis.complexity import complexity
from vitjax.analysis.pruning import Importance, importance, keep_heads, keep_neurons, strongest
from vitjax.models.vit import VisionTransformerConfig
from vitjax.nn.blocks import TransformerConfig
from vitjax.nn.functional import Tree, abstract, merge
from vitjax.studies.lab.digits import digit_examples
from vitjax.studies.lab.programs import seconds
from vitjax.studies.lab.study import Size, Spread
from vitjax.studies.lab.training import Examples, Loop, trained

Pruned = Literal["tokens", "heads", "neurons"]
KINDS: tuple[Pruned, ...] = get_args(Pruned)
Amounts = dict[Pruned, tuple[int, ...]]
RATE = 3e-3


@dataclass(frozen=True)
class Setting:
    """Of one size of the study.

    Attributes:
      steps, tuning_steps: of training, and after pruning by the first amount of each kind.
      judged: training digits that tell importance.
      amounts: patches merged in each layer, or heads or neurons left.
      large: a model of real size, with random numbers, for costs alone.
      rounds: turns of each program of digits, the shortest of which counts.
    """

    digits: VisionTransformerConfig
    steps: int
    tuning_steps: int
    judged: int
    amounts: Amounts
    large: VisionTransformerConfig
    large_amounts: Amounts
    rounds: int = 5


_DIGITS = VisionTransformerConfig(
    TransformerConfig(48, 4, 6, 192), image_size=(8, 8), patch_size=(2, 2), channels=1, num_classes=10
)
_FULL = Setting(
    _DIGITS,
    steps=800,
    tuning_steps=100,
    judged=256,
    amounts={"tokens": (4, 6), "heads": (3, 5), "neurons": (96, 48)},
    large=VisionTransformerConfig.standard("S/16", num_classes=1000),
    large_amounts={"tokens": (13,), "heads": (3,), "neurons": (768,)},
)
SETTINGS: dict[Size, Setting] = {
    "reduced": Setting(
        replace(_DIGITS, transformer=TransformerConfig(48, 2, 6, 192)),
        steps=60,
        tuning_steps=0,
        judged=32,
        amounts={"tokens": (4,), "heads": (3,), "neurons": (96,)},
        large=VisionTransformerConfig(TransformerConfig(128, 1, 4, 512), (64, 64), (8, 8), num_classes=10),
        large_amounts={"tokens": (32,), "heads": (2,), "neurons": (256,)},
        rounds=1,
    ),
    "full": _FULL,
    "long": replace(_FULL, steps=3000, tuning_steps=600, judged=1437),
}


@dataclass(frozen=True)
class Variant:
    """A model with something taken out, or the whole one.

    Attributes:
      kind, amount: what was taken out: patches merged in each layer, or heads or neurons left; None: nothing.
      params: of each seed's model, on a leading axis.
      operations: of one image, from the config.
      time: seconds; `memory`: bytes beside arguments and results.
      accuracy: on held-out digits, as pruned; `tuned`: after some more training.
    """

    kind: Pruned | None
    amount: int
    config: VisionTransformerConfig
    params: Tree
    operations: int
    time: Spread = Spread(())
    memory: int = 0
    accuracy: Spread | None = None
    tuned: Spread | None = None

    @property
    def description(self) -> str:
        """In words."""
        words = {"tokens": "tokens merged a layer", "heads": "heads left", "neurons": "neurons left"}
        return f"{self.amount} {words[self.kind]}" if self.kind else "whole"


def first(variants: list[Variant]) -> dict[Pruned, Variant]:
    """Of each kind the amount that was tried first."""
    return {kind: next(each for each in variants if each.kind == kind) for kind in KINDS}


def points_lost(whole: Variant, accuracy: Spread | None) -> Spread:
    """Percentage points of accuracy that the whole model has more."""
    assert whole.accuracy is not None and accuracy is not None
    return Spread.of(100 * (a - b) for a, b in zip(whole.accuracy.values, accuracy.values, strict=True))


def digit_variants(setting: Setting, seeds: tuple[int, ...]) -> list[Variant]:
    """The whole model, trained on real digits with each seed, then what is left of it."""
    learned, held_out = digit_examples()
    whole = setting.digits
    params = trained(
        lambda rngs: whole.build(rngs=rngs), learned, seeds, steps=setting.steps, rate=RATE
    ).params

    def right(config: VisionTransformerConfig, params: Tree) -> Float[Array, " seeds"]:
        def accuracy(params: Tree) -> Array:
            logits = merge(_definition(config), params)(jnp.asarray(held_out.inputs), train=False)
            return (logits.argmax(-1) == held_out.answers).mean()

        return jax.lax.map(accuracy, params)

    scores = _importance(whole, params, learned, setting.judged)
    found = []
    variants = list(_variants(whole, params, scores, setting.amounts))
    for each, program in _measured(variants, right, len(seeds), setting.rounds):
        tuned = None
        if each.kind and setting.tuning_steps and each.amount == setting.amounts[each.kind][0]:
            tuned = Spread.of(program(_tuned(each, learned, seeds, setting.tuning_steps)))
        found.append(replace(each, accuracy=Spread.of(program(each.params)), tuned=tuned))
    return found


def large_variants(setting: Setting, repeats: int) -> list[Variant]:
    """The same of a model of real size: costs alone, which do not depend on the numbers in it."""
    config, t = setting.large, setting.large.transformer
    rng = np.random.default_rng(0)
    shapes = abstract(lambda rngs: config.build(rngs=rngs))[1]
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.05, (1, *leaf.shape)), leaf.dtype), shapes)
    images = jnp.asarray(rng.normal(size=(1, *config.image_size, config.channels)), jnp.float32)

    def logits(config: VisionTransformerConfig, params: Tree) -> Array:
        return merge(_definition(config), jax.tree.map(lambda leaf: leaf[0], params))(images, train=False)

    equal = Importance(
        {"attention": jnp.ones((1, t.depth, t.num_heads))}, jnp.ones((1, t.depth, t.feed_forward_width))
    )
    variants = list(_variants(config, params, equal, setting.large_amounts))
    return [each for each, _ in _measured(variants, logits, repeats, _FULL.rounds)]


def _variants(
    config: VisionTransformerConfig, params: Tree, scores: Importance, amounts: Amounts
) -> Iterator[Variant]:
    """The whole model and what is left of it; `scores` have a leading axis of seeds too."""
    yield Variant(None, 0, config, params, complexity(config).forward_flops)
    seeds = jax.tree.leaves(params)[0].shape[0]
    for kind in KINDS:
        for amount in amounts[kind]:
            models = [
                _pruned(kind, amount, config, *jax.tree.map(lambda leaf, i=i: leaf[i], (params, scores)))
                for i in range(seeds)
            ]
            smaller = models[0][0]
            stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(params for _, params in models))
            yield Variant(kind, amount, smaller, stacked, complexity(smaller).forward_flops)


def _pruned(
    kind: Pruned, amount: int, config: VisionTransformerConfig, params: Tree, scores: Importance
) -> tuple[VisionTransformerConfig, Tree]:
    """One model without its least important heads or neurons, or with patches merged."""
    match kind:
        case "tokens":
            return replace(config, merged_tokens=amount), params
        case "heads":
            return keep_heads(config, params, strongest(scores.heads["attention"], amount))
        case "neurons":
            return keep_neurons(config, params, strongest(scores.neurons, amount))


def _measured(
    variants: list[Variant],
    run: Callable[[VisionTransformerConfig, Tree], Array],
    repeats: int,
    rounds: int,
) -> Iterator[tuple[Variant, Any]]:
    """Each variant with time and memory, and its compiled program."""
    programs: list[Any] = [
        jax.jit(partial(run, each.config)).lower(each.params).compile() for each in variants
    ]
    runs = {
        place: partial(program, each.params)
        for place, (each, program) in enumerate(zip(variants, programs, strict=True))
    }
    times = seconds(runs, repeats, rounds=rounds)
    for place, (each, program) in enumerate(zip(variants, programs, strict=True)):
        memory = program.memory_analysis().temp_size_in_bytes
        yield replace(each, time=times[place], memory=memory), program


def _importance(config: VisionTransformerConfig, params: Tree, learned: Examples, judged: int) -> Importance:
    """Of each seed's model."""
    examples = jnp.asarray(learned.inputs[:judged]), jnp.asarray(learned.answers[:judged])

    def loss(params: Tree, example: tuple[Array, Array]) -> Array:
        image, answer = example
        logits = merge(_definition(config), params)(image[None], train=False)[0]
        return optax.softmax_cross_entropy_with_integer_labels(logits, answer)

    @jax.jit
    def of_each(params: Tree) -> Importance:
        return jax.lax.map(lambda params: importance(params, loss, examples, batch_size=32), params)

    return of_each(params)


def _tuned(variant: Variant, learned: Examples, seeds: tuple[int, ...], steps: int) -> Tree:
    """Parameters after some more training, at a tenth of the rate."""
    loop = Loop(lambda rngs: variant.config.build(rngs=rngs))
    models = [
        loop.trained(
            (jax.tree.map(lambda leaf, i=i: leaf[i], variant.params), {}),
            learned,
            seed=seed,
            steps=steps,
            rate=RATE / 10,
        )[0]
        for i, seed in enumerate(seeds)
    ]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *models)


def _definition(config: VisionTransformerConfig) -> nnx.GraphDef:
    return abstract(lambda rngs: config.build(rngs=rngs))[0]
