"""Tokens, heads and neurons taken out of Vision Transformers: what it costs in accuracy, and what it saves."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from vitjax.analysis.complexity import complexity
from vitjax.analysis.pruning import Importance, importance, keep_heads, keep_neurons, strongest
from vitjax.models.vit import VisionTransformerConfig
from vitjax.nn.blocks import TransformerConfig
from vitjax.nn.functional import Tree, abstract, merge
from vitjax.studies.digits import digit_examples
from vitjax.studies.study import Size, Spread
from vitjax.studies.timing import seconds
from vitjax.studies.training import Examples, train, trained

Pruned = Literal["tokens", "heads", "neurons"]
KINDS: tuple[Pruned, ...] = get_args(Pruned)
RATE = 3e-3


@dataclass(frozen=True)
class Setting:
    """Of one size of the study.

    Attributes:
      steps, tuning_steps: of training, and after pruning.
      judged: training digits that tell importance.
      amounts: what is tried, patches merged a layer or heads or neurons left, the amount that is also tuned first.
      large: a model of real size, with random numbers, for time alone.
      large_amounts: of it.
      rounds: turns of each program whose median is a time.
    """

    digits: VisionTransformerConfig
    steps: int
    tuning_steps: int
    judged: int
    amounts: dict[Pruned, tuple[int, ...]]
    large: VisionTransformerConfig
    large_amounts: dict[Pruned, int]
    rounds: int = 5


_SMALL = VisionTransformerConfig(
    TransformerConfig(48, 4, 6, 192), image_size=(8, 8), patch_size=(2, 2), channels=1, num_classes=10
)
_FULL = Setting(
    _SMALL,
    steps=800,
    tuning_steps=100,
    judged=256,
    amounts={"tokens": (4, 6), "heads": (3, 5), "neurons": (96, 48)},
    large=VisionTransformerConfig.standard("S/16", num_classes=1000),
    large_amounts={"tokens": 13, "heads": 3, "neurons": 768},
)
SETTINGS: dict[Size, Setting] = {
    "reduced": replace(
        _FULL,
        digits=replace(_SMALL, transformer=TransformerConfig(48, 2, 6, 192)),
        steps=60,
        tuning_steps=0,
        judged=32,
        amounts={"tokens": (4,), "heads": (3,), "neurons": (96,)},
        large=VisionTransformerConfig(TransformerConfig(128, 1, 4, 512), (64, 64), (8, 8)),
        large_amounts={"tokens": 32, "heads": 2, "neurons": 256},
        rounds=1,
    ),
    "full": _FULL,
    "long": replace(_FULL, steps=3000, tuning_steps=600, judged=1437),
}


@dataclass(frozen=True)
class Variant:
    """A model with something taken out, or the whole one.

    Attributes:
      amount: patches merged in each layer, or heads or neurons left.
      operations: of one image, from the config.
      time: seconds; `memory`: bytes beside arguments and results.
      accuracy: on held-out digits, as pruned; `tuned`: after some more training.
    """

    kind: Pruned | None
    amount: int
    operations: int
    time: Spread
    memory: int
    accuracy: Spread | None = None
    tuned: Spread | None = None

    @property
    def description(self) -> str:
        """In words."""
        match self.kind:
            case "tokens":
                return f"{self.amount} tokens merged a layer"
            case "heads" | "neurons":
                return f"{self.amount} {self.kind} left"
        return "whole"

    def time_left(self, whole: "Variant") -> Spread:
        """Share of the time of the whole model."""
        return Spread.of(a / b for a, b in zip(self.time.values, whole.time.values, strict=True))


def first(variants: list[Variant]) -> dict[Pruned, Variant]:
    """Of each kind the amount that was tried first."""
    return {kind: next(each for each in variants if each.kind == kind) for kind in KINDS}


def least_favourable(whole: Variant, pruned: Iterable[Variant]) -> Spread:
    """The largest share of the time left for each share of the operations left."""
    left = [
        [time / each.operations * whole.operations for time in each.time_left(whole).values]
        for each in pruned
    ]
    return Spread.of(map(max, zip(*left, strict=True)))


def points_lost(whole: Variant, accuracy: Spread | None) -> Spread:
    """Percentage points of accuracy that the whole model has more."""
    assert whole.accuracy is not None and accuracy is not None
    return Spread.of(100 * (a - b) for a, b in zip(whole.accuracy.values, accuracy.values, strict=True))


def digit_variants(setting: Setting, seeds: tuple[int, ...]) -> list[Variant]:
    """The whole model, trained on real digits with each seed, then its pruned forms."""
    learned, held_out = digit_examples()
    whole = setting.digits
    model = trained(lambda rngs: whole.build(rngs=rngs), learned, seeds, steps=setting.steps, rate=RATE)

    def answers(config: VisionTransformerConfig, params: Tree) -> Float[Array, " seeds"]:
        definition = _definition(config)

        def accuracy(params: Tree) -> Array:
            logits = merge(definition, params)(jnp.asarray(held_out.inputs), train=False)
            return (logits.argmax(-1) == held_out.answers).mean()

        return jax.lax.map(accuracy, params)

    scores = _importance(whole, model.params, learned, setting.judged)
    forms = list(_forms(whole, model.params, scores, setting.amounts))
    found = []
    for form, variant, program in _measured(forms, answers, len(seeds), setting.rounds):
        tuned = None
        if form.kind is not None and setting.tuning_steps and form.amount == setting.amounts[form.kind][0]:
            tuned = Spread.of(program(_tuned(form, learned, seeds, setting.tuning_steps)))
        found.append(replace(variant, accuracy=Spread.of(program(form.params)), tuned=tuned))
    return found


def large_variants(setting: Setting, repeats: int) -> list[Variant]:
    """The same of a model of real size: costs alone, which do not depend on the numbers in it."""
    config, t = setting.large, setting.large.transformer
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(0, 0.05, (1, *leaf.shape)), leaf.dtype),
        abstract(lambda rngs: config.build(rngs=rngs))[1],
    )
    images = jnp.asarray(rng.normal(size=(1, *config.image_size, config.channels)), jnp.float32)

    def pooled(config: VisionTransformerConfig, params: Tree) -> Array:
        only = jax.tree.map(lambda leaf: leaf[0], params)
        return merge(_definition(config), only).features(images, train=False).pooled

    equal = Importance(
        {"attention": jnp.ones((1, t.depth, t.num_heads))}, jnp.ones((1, t.depth, t.feed_forward_width))
    )
    amounts: dict[Pruned, tuple[int, ...]] = {
        kind: (amount,) for kind, amount in setting.large_amounts.items()
    }
    forms = list(_forms(config, params, equal, amounts))
    return [variant for _, variant, _ in _measured(forms, pooled, repeats, setting.rounds)]


@dataclass(frozen=True)
class _Form:
    """A config and the parameters of each seed's model on a leading axis."""

    kind: Pruned | None
    amount: int
    config: VisionTransformerConfig
    params: Tree


def _forms(
    config: VisionTransformerConfig, params: Tree, scores: Importance, amounts: dict[Pruned, tuple[int, ...]]
) -> Iterator[_Form]:
    """The whole model and what is left of it; `scores` have a leading axis of seeds too."""
    yield _Form(None, 0, config, params)
    models = jax.tree.leaves(params)[0].shape[0]
    for kind in KINDS:
        for amount in amounts[kind]:
            pruned = [
                _pruned(kind, amount, config, *jax.tree.map(lambda leaf, i=i: leaf[i], (params, scores)))
                for i in range(models)
            ]
            stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(params for _, params in pruned))
            yield _Form(kind, amount, pruned[0][0], stacked)


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
    forms: list[_Form], run: Callable[[VisionTransformerConfig, Tree], Array], repeats: int, rounds: int
) -> Iterator[tuple[_Form, Variant, Any]]:
    """Each form with its cost, and its compiled program."""
    programs: list[Any] = [jax.jit(partial(run, form.config)).lower(form.params).compile() for form in forms]
    pairs = list(zip(forms, programs, strict=True))
    times = seconds(
        {place: partial(program, form.params) for place, (form, program) in enumerate(pairs)},
        repeats,
        rounds=rounds,
    )
    for place, (form, program) in enumerate(pairs):
        memory = program.memory_analysis().temp_size_in_bytes
        operations = complexity(form.config).forward_flops
        yield form, Variant(form.kind, form.amount, operations, times[place], memory), program


def _importance(config: VisionTransformerConfig, params: Tree, learned: Examples, judged: int) -> Importance:
    """Of each seed's model."""
    definition = _definition(config)
    examples = jnp.asarray(learned.inputs[:judged]), jnp.asarray(learned.answers[:judged])

    def loss(params: Tree, example: tuple[Array, Array]) -> Array:
        image, answer = example
        logits = merge(definition, params)(image[None], train=False)[0]
        return optax.softmax_cross_entropy_with_integer_labels(logits, answer)

    @jax.jit
    def of_each(params: Tree) -> Importance:
        return jax.lax.map(lambda params: importance(params, loss, examples, batch_size=32), params)

    return of_each(params)


def _tuned(form: _Form, learned: Examples, seeds: tuple[int, ...], steps: int) -> Tree:
    """Parameters after some more training, at a tenth of the rate."""
    inputs, answers = jnp.asarray(learned.inputs), jnp.asarray(learned.answers)
    definition = _definition(form.config)

    def loss_of(model: Any, chosen: Int[Array, " B"]) -> Array:
        logits = model(inputs[chosen], train=True)
        return optax.softmax_cross_entropy_with_integer_labels(logits, answers[chosen]).mean()

    @jax.jit
    @jax.vmap
    def tune(params: Tree, batches: Int[Array, "steps B"]) -> Tree:
        return train(definition, params, {}, loss_of, batches, rate=RATE / 10)[0]

    draws = [np.random.default_rng((seed, 1)).integers(0, len(inputs), (steps, 32)) for seed in seeds]
    return tune(form.params, np.stack(draws))


def _definition(config: VisionTransformerConfig) -> nnx.GraphDef:
    return abstract(lambda rngs: config.build(rngs=rngs))[0]
