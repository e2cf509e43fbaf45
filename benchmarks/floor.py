"""The least time a decoding step can take: bytes it must read, operations it must do, over speeds measured meanwhile.

    bytes = weights of the decoder + 2 L B K t D b (its own keys and values) + 2 L B S D b (the image's, for all beams)

with t the mean length over the timed steps and b the bytes of a number. On a CPU whose last cache holds part of the
weights a step can be faster than its bytes over the bandwidth of memory.
"""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from vitjax.models.encoder_decoder import EncoderDecoderConfig
from vitjax.nn.blocks import TransformerConfig

PRODUCTS = 50


@dataclass(frozen=True)
class Work:
    """What one step of all rows reads and computes."""

    bytes: float
    operations: float


def step_work(config: EncoderDecoderConfig, *, batch: int, beams: int, length: float) -> Work:
    """A step that reads `length` positions of its own; the model's embeddings are tied."""
    t = config.decoder.transformer
    rows, columns = config.encoder.grid(config.encoder.image_size)
    sources = config.encoder.prefix + rows * columns
    # self-attention has four matrices; of cross-attention's, those of keys and values are used before the first step
    matrices = t.depth * (6 * t.width**2 + 2 * t.width * t.feed_forward_width)
    weights = matrices + config.decoder.vocabulary_size * t.width
    cache = 2 * t.depth * t.width * (batch * beams * length + batch * sources)
    attention = 4 * t.depth * t.width * batch * beams * (length + sources)
    return Work(jnp.dtype(t.dtype).itemsize * (weights + cache), 2 * batch * beams * weights + attention)


class Probes:
    """What tells the machine's speeds: a sum over far more than the caches hold, products of the decoder's shapes.

    Of JAX and torch, where that is there, the faster counts: the floor is the machine's, not a library's.

    Attributes:
      calls: name -> call, to be timed beside what the floor is for.
    """

    def __init__(self, transformer: TransformerConfig, rows: list[int], torch: Any = None):
        self.bytes = 2**30 if jax.default_backend() == "gpu" else 2**28
        self.operations = {
            count: 4 * PRODUCTS * count * transformer.width * transformer.feed_forward_width for count in rows
        }
        self.calls: dict[str, Callable[[], Any]] = _jax_probes(transformer, rows, self.bytes)
        if torch is not None:
            self.calls |= _torch_probes(torch, transformer, rows, self.bytes)

    def bandwidth(self, times: Mapping[str, list[float]]) -> float:
        """Bytes read in a second, given milliseconds of each call."""
        return 1e3 * self.bytes / self._median(times, "read")

    def speed(self, times: Mapping[str, list[float]], rows: int) -> float:
        """Operations in a second in products with this many rows."""
        return 1e3 * self.operations[rows] / self._median(times, f"product {rows}")

    def _median(self, times: Mapping[str, list[float]], probe: str) -> float:
        names = [name for name in self.calls if name.partition(" ")[2] == probe]
        return min(statistics.median(times[name]) for name in names)


def _jax_probes(t: TransformerConfig, rows: list[int], size: int) -> dict[str, Callable[[], Any]]:
    dtype = jnp.dtype(t.dtype)
    numbers = jnp.ones(size // dtype.itemsize, dtype)
    total = jax.jit(lambda x: jnp.sum(x, dtype=jnp.float32))
    up = jax.random.normal(jax.random.key(0), (t.width, t.feed_forward_width)).astype(dtype) / t.width**0.5
    down = up.T * (t.width / t.feed_forward_width)  # so that the numbers stay as large as they are

    @jax.jit
    def products(x: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, PRODUCTS, lambda _, x: ((x @ up) @ down).astype(dtype), x)

    calls: dict[str, Callable[[], Any]] = {"jax read": lambda: total(numbers)}
    for count in rows:
        calls[f"jax product {count}"] = partial(products, jnp.ones((count, t.width), dtype))
    return calls


def _torch_probes(
    torch: Any, t: TransformerConfig, rows: list[int], size: int
) -> dict[str, Callable[[], Any]]:
    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    options = dict(dtype=getattr(torch, t.dtype), device=device)
    numbers = torch.ones(size // jnp.dtype(t.dtype).itemsize, **options)
    up = torch.randn(t.width, t.feed_forward_width, **options) / t.width**0.5
    down = up.T.contiguous() * (t.width / t.feed_forward_width)

    def finish() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    def read() -> None:
        numbers.sum(dtype=torch.float32)
        finish()

    def products(x: Any) -> None:
        for _ in range(PRODUCTS):
            x = (x @ up) @ down
        finish()

    calls: dict[str, Callable[[], Any]] = {"torch read": read}
    for count in rows:
        calls[f"torch product {count}"] = partial(products, torch.ones(count, t.width, **options))
    return calls
