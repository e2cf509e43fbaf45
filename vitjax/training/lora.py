"""LoRA (Hu et al. 2021): kernels stay as they are and are used as W + alpha / rank * A B, and only A and B are trained.

The sum is made inside the compiled step, before the model runs, which then is the same model: any kernel of any model
can have factors, its sharding holds, and what is merged for evaluation and export is what was trained.

The paper's form, x W + alpha / rank * (x A) B on the activations, never makes the gradient of W; here it is made,
reduced over the mesh, and shrunk to those of A and B. That saves two thin products with every token. On CPU (ViT-S/16,
8 images) the two take the same time, and beside the state 3 % (query and value) to 13 % (all kernels) more memory here.
On accelerators it is not measured: with all kernels of a large model adapted, the other form has up to 30 % less to
multiply. Either way the optimizer keeps moments of the factors alone.
"""

import math
import re
import zlib
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vitjax.nn.functional import Tree
from vitjax.parallel.paths import is_stacked, matching, named_leaves, nested

LORA = "lora"
"""Where the factors are among what is trained; no model has a part of that name."""


@dataclass(frozen=True)
class LoraConfig:
    """Which kernels get factors, and how large those are."""

    rank: int = 0
    """r, the width of the factors; 0 turns LoRA off."""
    alpha: float = 16.0
    """The product of the factors counts alpha / rank times, so that another rank needs no other learning rate."""
    patterns: tuple[str, ...] = (r".*attention/(query|value)/kernel",)
    """Of the paths of the kernels to adapt: `.*/feed_forward/.*`. What else they match stays as it is."""
    whole: tuple[str, ...] = ()
    """Patterns of parameters that are trained whole beside the factors, such as norms; new ones (`init.new`) always
    are. All the rest is frozen."""

    def __post_init__(self) -> None:
        if self.rank < 0:
            raise ValueError(f"lora.rank is {self.rank}: expected 0 (off) or more")
        if not self.alpha > 0:
            raise ValueError(f"lora.alpha is {self.alpha}: expected a number above 0")

    @property
    def scale(self) -> float:
        """What the product of the factors is multiplied by."""
        return self.alpha / self.rank


class _Axes(NamedTuple):
    """The axes of a kernel: [L] if it is one of a stack, then inputs, then outputs."""

    layers: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def new_factors(config: LoraConfig, params: Tree, key: Array) -> Tree:
    """Fresh `a` [(L,) inputs..., r] and `b` [(L,) r, outputs...] at the path of each kernel, float32.

    A is drawn evenly from +- 1 / sqrt(inputs), as the authors' code does, B is zero: W + A B is W bit for bit.

    Args:
      params: arrays or ShapeDtypeStructs; only shapes are looked at.

    Raises:
      ValueError: a pattern matches no kernel, or the rank is not below a kernel's own.
    """
    factors: dict[str, Array] = {}
    for name, axes in _kernels(config, params).items():
        inputs = math.prod(axes.inputs)
        if config.rank >= min(inputs, math.prod(axes.outputs)):
            raise ValueError(
                f"lora.rank {config.rank}: {name} is a matrix of {inputs} by {math.prod(axes.outputs)}, whose factors "
                "of that rank would be no smaller; lower lora.rank, or leave it out of lora.patterns"
            )
        # By name, so that a kernel's factors start alike whatever else is adapted.
        own = jax.random.fold_in(key, zlib.crc32(name.encode()))
        bound = inputs**-0.5
        shape = (*axes.layers, *axes.inputs, config.rank)
        factors[f"{name}/a"] = jax.random.uniform(own, shape, minval=-bound, maxval=bound)
        factors[f"{name}/b"] = jnp.zeros((*axes.layers, config.rank, *axes.outputs))
    return nested(factors)


def add_factors(config: LoraConfig, params: Tree, factors: Tree) -> Tree:
    """`params` with W + alpha / rank * A B in the place of each kernel W that has factors."""
    sums = dict(named_leaves(params))
    products = named_leaves(factors)
    for name in (name.removesuffix("/a") for name in products if name.endswith("/a")):
        kernel = sums[name]
        product = _product(products[f"{name}/a"], products[f"{name}/b"], stacked=is_stacked(name))
        sums[name] = kernel + config.scale * product.astype(kernel.dtype)
    return nested(sums)


def adapted(config: LoraConfig, params: Tree) -> list[str]:
    """Paths of the kernels that get factors."""
    return list(_kernels(config, params))


def _product(a: Float[Array, "..."], b: Float[Array, "..."], *, stacked: bool) -> Float[Array, "..."]:
    def one(a: Array, b: Array) -> Array:
        return jnp.tensordot(a, b, axes=1, precision="highest")

    return jax.vmap(one)(a, b) if stacked else one(a, b)


def _kernels(config: LoraConfig, params: Tree) -> dict[str, _Axes]:
    shapes = {name: leaf.shape for name, leaf in named_leaves(params).items()}
    kernels = [name for name in shapes if name.endswith("/kernel")]
    for pattern in config.patterns:
        if not matching(kernels, [pattern]):
            raise ValueError(
                f"lora.patterns: no kernel matches {pattern!r}; kernels are called like {kernels[-1]!r}"
            )
    chosen = matching(kernels, config.patterns)
    return {name: _axes(name, shapes[name]) for name in kernels if name in chosen}


def _axes(name: str, shape: tuple[int, ...]) -> _Axes:
    first = int(is_stacked(name))
    # A projection to heads is [D, H, C]; of everything else, convolutions too, the last axis alone is the output.
    last = first + 1 if re.search(r"(^|/)(query|key|value)/kernel$", name) else len(shape) - 1
    return _Axes(shape[:first], shape[first:last], shape[last:])
