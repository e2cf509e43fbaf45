"""Output restricted to a given set of sequences (De Cao et al. 2021, Autoregressive Entity Retrieval).

What transformers asks a host function for at every token (`prefix_allowed_tokens_fn`) is here a prefix tree in three
arrays that go into the program with the parameters: another set of about the same size compiles nothing.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

ROOT, END = 0, 1
CHUNK = 64  # children looked at together


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class AllowedSequences:
    """A prefix tree. The children of node i are the edges from `first[i]` to `first[i + 1]`, sorted by token.

    At node 1 a sequence is complete and only EOS goes on; so it does where a token led out of the tree.
    """

    first: Any  # int32 [size]
    tokens: Any  # int32 [size]
    children: Any  # int32 [size]

    @classmethod
    def of(
        cls, sequences: Iterable[Sequence[int]], *, eos_token_id: int | Sequence[int]
    ) -> "AllowedSequences":
        """The tree of these sequences, without decoder prompt; an EOS at their end may be left out.

        Its arrays have a power of two as size, so that few programs are compiled.

        Raises:
          ValueError: no sequence, one without tokens, an EOS inside one, or a negative id.
        """
        stops = (eos_token_id,) if isinstance(eos_token_id, int) else tuple(eos_token_id)
        nodes: list[dict[int, int]] = [{}, dict.fromkeys(stops, END)]
        for sequence in sequences:
            tokens = tuple(sequence)
            tokens = tokens[:-1] if tokens and tokens[-1] in stops else tokens
            if not tokens or min(tokens) < 0 or set(tokens) & set(stops):
                raise ValueError(
                    f"the allowed sequence {list(sequence)} is not one of ids, 0 or more, with an EOS id of {stops} at "
                    "its end at most"
                )
            node = ROOT
            for token in tokens:
                if token not in nodes[node]:
                    nodes[node][token] = len(nodes)
                    nodes.append({})
                node = nodes[node][token]
            nodes[node] |= nodes[END]
        if not nodes[ROOT] or not stops:
            raise ValueError(
                f"{len(nodes[ROOT])} allowed sequences and {len(stops)} EOS ids: expected one of each at least"
            )
        edges = [(token, child) for node in nodes for token, child in sorted(node.items())]
        ends = np.cumsum([0, *map(len, nodes)])
        size = 2 ** (max(len(ends), len(edges)) - 1).bit_length()
        first = np.pad(ends, (0, size - len(ends)), mode="edge").astype(np.int32)
        table = np.zeros((size, 2), np.int32)
        table[: len(edges)] = edges
        return cls(*jax.device_put((first, table[:, 0].copy(), table[:, 1].copy())))

    def mask(self, nodes: Int[Array, "B K"], vocabulary: int) -> Bool[Array, "B K V"]:
        """True at the tokens that may follow."""
        first, count = self._children(nodes)

        def mark(i: Array, marked: Bool[Array, "B K V"]) -> Bool[Array, "B K V"]:
            places = i * CHUNK + jnp.arange(CHUNK)
            edges = jnp.minimum(first[:, :, None] + places, self.tokens.shape[0] - 1)
            tokens = jnp.where(places < count[:, :, None], self.tokens[edges], vocabulary)
            put = jax.vmap(jax.vmap(lambda row, token: row.at[token].set(True, mode="drop")))
            return put(marked, tokens)

        # As many rounds as the widest of these nodes needs: seldom more than one behind the first token.
        rounds = (jnp.max(count) + CHUNK - 1) // CHUNK
        return jax.lax.fori_loop(0, rounds, mark, jnp.zeros((*nodes.shape, vocabulary), bool))

    def follow(self, nodes: Int[Array, "B K"], tokens: Int[Array, "B K"]) -> Int[Array, "B K"]:
        """The nodes behind these tokens."""
        first, count = self._children(nodes)
        table = self.tokens

        def halve(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = bounds
            middle = (low + high) // 2
            right = (table[jnp.minimum(middle, table.size - 1)] < tokens) & (low < high)
            return jnp.where(right, middle + 1, low), jnp.where(right | (low >= high), high, middle)

        steps = int(table.size).bit_length()
        place, _ = jax.lax.fori_loop(0, steps, halve, (first, first + count))
        place = jnp.minimum(place, table.size - 1)
        found = (place < first + count) & (table[place] == tokens)
        return jnp.where(found, self.children[place], END)

    def _children(self, nodes: Int[Array, "B K"]) -> tuple[Int[Array, "B K"], Int[Array, "B K"]]:
        first = self.first[nodes]
        return first, self.first[nodes + 1] - first
