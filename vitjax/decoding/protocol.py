"""What decoding asks of a model. Any object with these methods can be decoded; nothing needs to inherit."""

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, Bool, Float, Int


@runtime_checkable
class Cache(Protocol):
    """What a decoder remembers of B rows with K beams each; an immutable pytree."""

    position: Int[Array, ""]
    """Number of positions written."""

    def reorder(self, parents: Int[Array, "B K"]) -> "Cache":
        """Let beam k continue what beam `parents[b, k]` was."""
        ...

    def mark(self) -> Any:
        """What it takes to come back here once more tokens were read: little, an array or a pytree of arrays."""
        ...

    def restore(self, mark: Any) -> "Cache":
        """Forget the tokens read since `mark()`."""
        ...

    def grow(self, max_length: int) -> "Cache":
        """Make room for `max_length` positions."""
        ...


@runtime_checkable
class SequenceModel(Protocol):
    """An encoder and a decoder that works token by token, all in evaluation mode."""

    max_source_length: int | None
    """Most source tokens it can read; None is no limit."""

    max_target_length: int | None
    """Most tokens it can write, prompt included; None is no limit."""

    def encode(self, source: Any, *, source_mask: Any = None, train: bool, key: Any = None) -> Any:
        """Read the whole source at once; a pytree whose arrays have B rows."""
        ...

    def prepared(self) -> "SequenceModel":
        """The same model with what every step would do alike done once; called before the loop over tokens."""
        ...

    def init_cache(
        self,
        encoded: Any,
        *,
        num_beams: int,
        max_length: int,
        dtype: Any = None,
        beam_axis: str | None = None,
    ) -> Any:
        """An empty cache with room for `max_length` tokens, prompt included, kept in `dtype`.

        With a `beam_axis`, a mesh axis of the enclosing `jax.shard_map`, K = `num_beams` are those of all its devices:
        each keeps k = K / devices of them, `step` takes and gives k, and `reorder` takes the parents of all K.
        """
        ...

    def prefill(
        self, cache: Any, prompt: Int[Array, "B T"], prompt_mask: Bool[Array, "B T"] | None
    ) -> tuple[Float[Array, "B V"], Any]:
        """Read a prompt shared by a row's beams (padded on the left); logits of the token after it."""
        ...

    def step(self, cache: Any, tokens: Int[Array, "B k"]) -> tuple[Float[Array, "B k V"], Any]:
        """Read one token for each beam; logits of the next."""
        ...


@runtime_checkable
class Verifier(SequenceModel, Protocol):
    """A model that reads several tokens at once, and whose cache's mark is its position."""

    def extend(self, cache: Any, tokens: Int[Array, "B K T"]) -> tuple[Float[Array, "B K T V"], Any]:
        """Read T tokens for each beam; logits of the next after each of them."""
        ...
