"""What choosing a token costs inside a compiled loop: greedy, each rule of sampling, and the plain ways to do the same.

    python -m benchmarks.sampling              8 rows of 8,000 tokens

Each way runs 100 times in one `while_loop` on logits that change a little from step to step.
"""

import argparse
from collections.abc import Callable

import jax
import jax.numpy as jnp

import vitjax  # noqa: F401  (its guard against miscompiling jaxlib releases comes first)
from benchmarks.measure import alternately, machine, write
from vitjax.decoding.config import GenerationConfig
from vitjax.decoding.sample import row_keys, uniform
from vitjax.decoding.top_k import argmax
from vitjax.decoding.warpers import Warpers, draw, warp

STEPS = 100
RULES = {
    "top-k 50": {"top_k": 50},
    "top-p 0.9": {"top_p": 0.9},
    "min-p 0.05": {"min_p": 0.05},
    "typical 0.9": {"typical_p": 0.9},
    "top-k 50, top-p 0.9": {"top_k": 50, "top_p": 0.9},
}
Choice = Callable[[jax.Array, jax.Array], jax.Array]


def top_p_by_sort(logits: jax.Array, top_p: float) -> jax.Array:
    """Nucleus filtering as it is usually written."""
    order = jnp.argsort(logits, axis=-1)
    removed = jnp.cumsum(jax.nn.softmax(jnp.take_along_axis(logits, order, axis=-1)), axis=-1) <= 1 - top_p
    removed = jnp.take_along_axis(removed.at[:, -1].set(False), jnp.argsort(order, axis=-1), axis=-1)
    return jnp.where(removed, -jnp.inf, logits)


def ways() -> dict[str, Choice]:
    """Tokens [B] from logits [B, V] and a key."""

    def drawn(logits: jax.Array, key: jax.Array) -> jax.Array:
        numbers = uniform(row_keys(key, logits.shape[0], 1)[:, 0], jnp.int32(0))
        return draw(jax.nn.softmax(logits), numbers)

    def by_rule(options: dict[str, float]) -> Choice:
        warpers = Warpers.of(GenerationConfig(do_sample=True, **{"top_k": 0, **options}))
        return lambda logits, key: drawn(warp(logits, warpers), key)

    return {
        "greedy: jnp.argmax": lambda logits, key: jnp.argmax(logits, axis=-1),
        "greedy": lambda logits, key: argmax(logits),
        "draw: jax.random.categorical": lambda logits, key: jax.random.categorical(key, logits),
        "draw": drawn,
        **{f"{name}, draw": by_rule(options) for name, options in RULES.items()},
        "top-p 0.9 by argsort, draw": lambda logits, key: drawn(top_p_by_sort(logits, 0.9), key),
    }


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--vocabulary", type=int, default=8000)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    logits = 3 * jax.random.normal(jax.random.key(1), (options.rows, options.vocabulary))

    def looped(choose: Choice) -> Callable[[], jax.Array]:
        @jax.jit
        def run(logits: jax.Array, key: jax.Array) -> jax.Array:
            def body(n: jax.Array, total: jax.Array) -> jax.Array:
                return total + choose(logits + 1e-6 * n, jax.random.fold_in(key, n))

            return jax.lax.fori_loop(0, STEPS, body, jnp.zeros(options.rows, jnp.int32))

        return lambda: run(logits, jax.random.key(0))

    times = alternately({name: looped(choose) for name, choose in ways().items()}, options.rounds)
    steps = {name: time / STEPS for name, time in times.items()}
    record = {
        "machine": machine(),
        "rows": options.rows,
        "vocabulary": options.vocabulary,
        "choice_ms": steps,
    }
    for name, time in steps.items():
        print(f"{name:30} {time:8.3f} ms")
    print(f"written to {write('sampling', record)}")


if __name__ == "__main__":
    main()
