"""Optimizers, learning-rate schedules, layer-wise decay and the weight average.

Layers are stacked ([L, ...] under `.../blocks/...`), so the number of dimensions says nothing about what an array is:
everything here is decided by the array's path.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree

from vitjax.parallel.paths import path_name
from vitjax.training.lora import LORA

Schedule = Callable[[Any], Any]

EMBEDDING_NAMES = ("embedding", "embedding_norm", "patch_embedding", "positions")
PREFIX_NAMES = ("class_token", "distillation_token", "registers")
DECAYED_NAMES = ("kernel", "score_kernel")


@dataclass(frozen=True)
class OptimizerConfig:
    """How the parameters move.

    Weight decay follows PyTorch: it is multiplied by the learning rate. AdamW, Lion and Adafactor decay apart from the
    gradient; SGD adds it to the gradient before the momentum, as torch and timm do.
    """

    name: Literal["adamw", "lion", "sgd", "adafactor"] = "adamw"
    learning_rate: float = 1e-3
    """The peak."""
    schedule: Literal["constant", "cosine", "rsqrt"] = "cosine"
    warmup_steps: int = 0
    """Linear rise; the first update already moves, and update number `warmup_steps` is the first at the peak."""
    cooldown_steps: int = 0
    """Linear fall to zero at the end of a constant or rsqrt schedule."""
    rsqrt_timescale: int = 10_000
    """After the warm-up the rate is peak / sqrt(1 + t / timescale)."""
    final_fraction: float = 0.0
    """Where the cosine ends, as a part of the peak."""
    weight_decay: float = 0.0
    """Applied to kernels and LoRA's factors only: not to biases, norms, layer scales, embeddings, positions, class
    token or registers."""
    layer_decay: float = 1.0
    """Each layer's rate is this times that of the layer above it (BEiT); 1 turns it off."""
    clip_norm: float = 0.0
    """Global norm to which gradients are clipped; 0 turns it off."""
    beta1: float = 0.9
    """First moment of AdamW, Lion and Adafactor (0: Adafactor keeps none)."""
    beta2: float | None = None
    """Second moment; None is 0.999 for AdamW and Adafactor (there the cap of a growing rate), 0.99 for Lion."""
    eps: float = 1e-8
    """AdamW only."""
    momentum: float = 0.9
    """SGD only."""
    nesterov: bool = False
    """SGD only."""
    moment_dtype: Literal["float32", "bfloat16"] = "float32"
    """First moment or momentum; the second moment stays float32."""

    def __post_init__(self):
        def demand(good: bool, field: str, expected: str) -> None:
            if not good:
                raise ValueError(f"optimizer.{field} is {getattr(self, field)!r}; it must be {expected}")

        demand(self.learning_rate > 0, "learning_rate", "above 0")
        demand(self.warmup_steps >= 0, "warmup_steps", "0 or more")
        demand(self.cooldown_steps >= 0, "cooldown_steps", "0 or more")
        demand(
            self.cooldown_steps == 0 or self.schedule != "cosine",
            "cooldown_steps",
            "0 with the cosine schedule",
        )
        demand(self.rsqrt_timescale > 0, "rsqrt_timescale", "above 0")
        demand(0 <= self.final_fraction <= 1, "final_fraction", "between 0 and 1")
        demand(self.weight_decay >= 0, "weight_decay", "0 or more")
        demand(0 < self.layer_decay <= 1, "layer_decay", "above 0 and at most 1")
        demand(self.clip_norm >= 0, "clip_norm", "0 (off) or more")
        demand(0 <= self.beta1 < 1, "beta1", "at least 0 and below 1")
        demand(self.beta2 is None or 0 <= self.beta2 < 1, "beta2", "at least 0 and below 1")
        demand(self.eps >= 0, "eps", "0 or more")
        demand(0 <= self.momentum < 1, "momentum", "at least 0 and below 1")


def make_optimizer(
    config: OptimizerConfig, params_shapes: PyTree, total_steps: int
) -> tuple[optax.GradientTransformation, Schedule]:
    """The transformation and its schedule; `schedule(step)` is the rate of update number `step`, counted from 0.

    `params_shapes` holds anything with a shape (arrays or ShapeDtypeStruct); only the trainable parameters.
    Raises ValueError where the schedule does not fit into `total_steps`, or layer decay finds no stacked blocks.
    """
    schedule = make_schedule(config, total_steps)
    moment_dtype = jnp.dtype(config.moment_dtype)
    decay = []
    if config.weight_decay:
        decay = [optax.add_decayed_weights(config.weight_decay, mask=decay_mask(params_shapes))]

    match config.name:
        case "adamw":
            adam = optax.scale_by_adam(
                b1=config.beta1, b2=_or(config.beta2, 0.999), eps=config.eps, mu_dtype=moment_dtype
            )
            direction = [adam, *decay]
        case "lion":
            direction = [optax.scale_by_lion(config.beta1, _or(config.beta2, 0.99), moment_dtype), *decay]
        case "sgd":
            momentum = (
                [optax.trace(config.momentum, config.nesterov, moment_dtype)] if config.momentum else []
            )
            direction = [*decay, *momentum]
        case "adafactor":
            direction = [_adafactor(config, params_shapes, moment_dtype), *decay]

    parts = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    parts += direction
    if config.layer_decay != 1:
        parts.append(_scale_by(layer_multipliers(params_shapes, config.layer_decay)))
    return optax.chain(*parts, optax.scale_by_learning_rate(schedule)), schedule


def make_schedule(config: OptimizerConfig, total_steps: int) -> Schedule:
    """Learning rate of update number `step` (0 .. total_steps - 1); takes a Python int, an array or a tracer."""
    warmup, cooldown = config.warmup_steps, config.cooldown_steps
    if total_steps < 1:
        raise ValueError(f"total_steps is {total_steps}; a schedule needs at least 1")
    if warmup + cooldown > total_steps:
        raise ValueError(
            f"{warmup} warm-up and {cooldown} cool-down steps do not fit into {total_steps} steps; "
            "lower optimizer.warmup_steps or optimizer.cooldown_steps, or train longer"
        )

    def schedule(step):
        step = jnp.asarray(step, jnp.float32)
        after_warmup = jnp.maximum(step - warmup, 0)
        match config.schedule:
            case "constant":
                factor = jnp.ones_like(step)
            case "cosine":
                progress = jnp.minimum(after_warmup / max(total_steps - warmup, 1), 1)
                wave = 0.5 * (1 + jnp.cos(jnp.pi * progress))
                factor = config.final_fraction + (1 - config.final_fraction) * wave
            case "rsqrt":
                factor = jax.lax.rsqrt(1 + after_warmup / config.rsqrt_timescale)
        if warmup:
            factor *= jnp.minimum(1, (step + 1) / warmup)
        if cooldown:
            factor *= jnp.clip((total_steps - step) / cooldown, 0, 1)
        return config.learning_rate * factor

    return schedule


def decay_mask(params_shapes: PyTree) -> PyTree:
    """True for the arrays that weight decay shrinks: the kernels (big_vision's rule), and what is added to them."""

    def decayed(path, _):
        return path_name(path).startswith(f"{LORA}/") or _names(path)[-1] in DECAYED_NAMES

    return jax.tree_util.tree_map_with_path(decayed, params_shapes)


def layer_multipliers(params_shapes: PyTree, layer_decay: float) -> PyTree:
    """A factor on the learning rate for each array, numpy float32; [L, 1, ...] for stacked blocks, else a scalar.

    As in BEiT: block i of L gets layer_decay ** (L - i), the embeddings below it layer_decay ** (L + 1), and all that
    is above or beside the blocks (last norm, head, relative bias, a decoder without blocks) 1. An encoder and a decoder
    each count their own depth.
    """
    depths: dict[tuple[str, ...], int] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params_shapes):
        if (stack := _stack(path)) is not None:
            depths[stack] = leaf.shape[0]
    if not depths:
        raise ValueError(
            f"optimizer.layer_decay is {layer_decay}, but no trained parameter lies in stacked `blocks`; set it to 1"
        )

    def multiplier(path, leaf):
        names, stack = _names(path), _stack(path)
        if stack is not None:
            depth = depths[stack]
            exponent = depth - np.arange(depth)
            return np.float32(layer_decay**exponent).reshape(depth, *[1] * (len(leaf.shape) - 1))
        # The last name alone says nothing: a relative bias is an `embedding` too.
        if not any(name in EMBEDDING_NAMES for name in names[:-1]) and names[-1] not in PREFIX_NAMES:
            return np.float32(1)
        below = [depth for stack, depth in depths.items() if names[: len(stack) - 1] == stack[:-1]]
        return np.float32(layer_decay ** (1 + below[0]) if below else 1)

    return jax.tree_util.tree_map_with_path(multiplier, params_shapes)


def ema_update(ema: PyTree, params: PyTree, decay: float, step: Int[Array, ""] | int) -> PyTree:
    """Exponential moving average after `step` finished updates (the first call comes with step 1 or 0).

    The decay warms up as 1 - (1 + step) ** (-2/3), so that the average forgets its random start (timm's ModelEmaV3).
    Keep `ema` in float32: in bfloat16 a step of 1e-4 would vanish.
    """
    keep = ema_decay(decay, step)
    return jax.tree.map(
        lambda average, new: average + (1 - keep) * (new.astype(average.dtype) - average), ema, params
    )


def ema_decay(decay: float, step: Int[Array, ""] | int) -> Float[Array, ""]:
    """The decay that `ema_update` uses after `step` updates."""
    return jnp.minimum(decay, 1 - (1 + jnp.asarray(step, jnp.float32)) ** (-2 / 3))


def _adafactor(config: OptimizerConfig, params_shapes: PyTree, moment_dtype) -> optax.GradientTransformation:
    """Adafactor as Zhai et al. 2021 train ViTs: no parameter scaling, so that Adam's learning rates carry over.

    optax would factor the two largest axes, which in a stacked bias [L, D] are layers and width: each stack is mapped
    over its layers instead.
    """
    cap = _or(config.beta2, 0.999)
    one = optax.chain(
        optax.scale_by_factored_rms(
            min_dim_size_to_factor=32,
            decay_rate_fn=lambda step, exponent: jnp.minimum(cap, 1 - (step + 1.0) ** -exponent),
        ),
        optax.clip_by_block_rms(1.0),
        *([optax.ema(config.beta1, debias=False, accumulator_dtype=moment_dtype)] if config.beta1 else []),
    )
    layerwise = optax.GradientTransformation(jax.vmap(one.init), jax.vmap(one.update))
    labels = jax.tree_util.tree_map_with_path(lambda path, _: "/".join(_stack(path) or ()), params_shapes)
    used = set(jax.tree.leaves(labels))
    return optax.partition({label: layerwise if label else one for label in used}, labels)


def _scale_by(multipliers: PyTree) -> optax.GradientTransformation:
    def update(updates, params=None):
        return jax.tree.map(lambda u, m: u * jnp.asarray(m, u.dtype), updates, multipliers)

    return optax.stateless(update)


def _names(path) -> tuple[str, ...]:
    """The components of a parameter's path; of LoRA's factors, from that of their kernel on."""
    return tuple(path_name(path).removeprefix(f"{LORA}/").split("/"))


def _stack(path) -> tuple[str, ...] | None:
    """Path of the stack of blocks in which an array lies, `("encoder", "blocks")`; None outside of any."""
    names = _names(path)
    if "blocks" not in names:
        return None
    return names[: names.index("blocks") + 1]


def _or(value: float | None, default: float) -> float:
    return default if value is None else value
