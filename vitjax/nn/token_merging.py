"""Token merging (Bolya et al. 2023, ToMe): each layer joins its most similar tokens, and the next has fewer to work on.

N tokens come in; after some layers they stand in n groups, each of them one vector. What comes out are N tokens again,
those of a group equal: whatever follows (mean or attention pooling, a decoder's cross-attention, maps of the image)
then counts a group as often as it has members, as the blocks did, and needs to know nothing of merging.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from vitjax.nn.blocks import BlockOutput, EncoderBlock, TransformerConfig
from vitjax.nn.stack import rematerialized


def merged_per_layer(patches: int, merged_tokens: int, depth: int) -> list[int]:
    """How many of the patches each layer takes away: `merged_tokens`, but at most half of those that are left."""
    counts = []
    for _ in range(depth):
        counts.append(min(merged_tokens, patches // 2))
        patches -= counts[-1]
    return counts


class Groups(NamedTuple):
    """Which tokens stand for which: `of` [B, N], the group of each token; `sizes` [B, n], how many each group has."""

    of: Int[Array, "B N"]
    sizes: Float[Array, "B n"]

    @classmethod
    def single(cls, x: Float[Array, "B N D"]) -> "Groups":
        """Each token is a group of its own."""
        return cls(jnp.broadcast_to(jnp.arange(x.shape[1]), x.shape[:2]), jnp.ones(x.shape[:2], jnp.float32))

    def bias(self) -> Float[Array, "B 1 1 n"]:
        """What to add to scores so that a group is looked at as all its members would be (proportional attention)."""
        return jnp.log(self.sizes)[:, None, None, :]

    def unmerge(self, x: Float[Array, "B n D"]) -> Float[Array, "B N D"]:
        """Each token as its group."""
        return jnp.take_along_axis(x, self.of[..., None], axis=1)

    def unmerge_weights(self, weights: Float[Array, "B H n n"]) -> Float[Array, "B H N N"]:
        """The attention between tokens: that of a query's group, a key's share of its group; each row sums to 1."""

        def one(weights: Float[Array, "H n n"], of: Int[Array, " N"]) -> Float[Array, "H N N"]:
            return weights[:, of][:, :, of]

        return jax.vmap(one)(weights / self.sizes[:, None, None, :], self.of)

    def merge_nudge(self, nudge: Float[Array, "B H N N"]) -> Float[Array, "B H n n"]:
        """What nudges of un-merged weights are to those between groups: their means over the members."""
        member = jax.nn.one_hot(self.of, self.sizes.shape[1]) / self.unmerge(self.sizes[..., None])
        return jnp.einsum("bia,bhij,bjc->bhac", member, nudge, member)


class Matching(NamedTuple):
    """Which tokens are joined: `kept` [B, m] stay, in order; `joined` [B, r] go into `partners` [B, r], kept ones."""

    kept: Int[Array, "B m"]
    joined: Int[Array, "B r"]
    partners: Int[Array, "B r"]

    @classmethod
    def of(cls, keys: Float[Array, "B n H C"], count: int, *, prefix: int) -> "Matching":
        """Bipartite soft matching: every other patch proposes to the most similar of the rest; the best `count` go.

        Args:
          keys: of the attention; what is compared is the cosine of their means over the heads.
          count: r, at most half of the patches.
          prefix: tokens before the patches, which are left alone.
        """
        patches = jax.lax.stop_gradient(keys[:, prefix:].astype(jnp.float32).mean(axis=2))
        patches = patches / jnp.maximum(jnp.linalg.norm(patches, axis=-1, keepdims=True), 1e-6)
        similarity = jnp.einsum("bic,bjc->bij", patches[:, ::2], patches[:, 1::2])
        _, proposer = jax.lax.top_k(similarity.max(axis=-1), count)
        partner = jnp.take_along_axis(similarity.argmax(axis=-1), proposer, axis=-1)
        joined, partners = prefix + 2 * proposer, prefix + 2 * partner + 1
        goes = jax.vmap(lambda joined: jnp.zeros(keys.shape[1], bool).at[joined].set(True))(joined)
        kept = jnp.argsort(goes, axis=-1, stable=True)[:, : keys.shape[1] - count]
        return cls(kept, joined, partners)

    def join(self, x: Float[Array, "B n D"], groups: Groups) -> tuple[Float[Array, "B m D"], Groups]:
        """The mean over the members of each new group, and the new groups."""

        def one(
            x: Array, sizes: Array, kept: Array, joined: Array, partners: Array
        ) -> tuple[Float[Array, "m D"], Float[Array, " m"], Int[Array, " n"]]:
            place = jnp.zeros(len(x), jnp.int32).at[kept].set(jnp.arange(len(kept)))
            place = place.at[joined].set(place[partners])  # where each of the n groups ends
            total = sizes[kept].at[place[joined]].add(sizes[joined])
            weighted = x.astype(jnp.float32) * sizes[:, None]
            merged = weighted[kept].at[place[joined]].add(weighted[joined])
            return (merged / total[:, None]).astype(x.dtype), total, place

        x, sizes, place = jax.vmap(one)(x, groups.sizes, *self)
        return x, Groups(jnp.take_along_axis(place, groups.of, axis=1), sizes)


def run_merging_blocks(
    blocks: EncoderBlock,
    x: Float[Array, "B N D"],
    *,
    merged_tokens: int,
    prefix: int,
    config: TransformerConfig,
    train: bool,
    key: Array | None,
    return_weights: bool,
    nudges: Float[Array, "L B H N N"] | None = None,
) -> BlockOutput:
    """`run_blocks` for an encoder whose every layer merges tokens between its attention and its feed-forward.

    Differences to the paper: tokens keep their order (there, those that stay are sorted by similarity), so that
    neighbours go on to be compared with each other.

    Args:
      merged_tokens: patches that each layer takes away, see `merged_per_layer`.
      prefix: tokens before the patches (class token, registers), which are never merged.
      nudges: of the un-merged weights.

    Returns:
      N tokens and weights [L, B, H, N, N] of each layer between them, un-merged.
    """
    depth = config.depth
    keys = [None] * depth if key is None else list(jax.random.split(key, depth))
    drop_rates = jnp.linspace(0.0, config.stochastic_depth, depth)

    def body(
        count: int,
        block: EncoderBlock,
        x: Array,
        groups: Groups,
        key: Array | None,
        drop_rate: Array,
        nudge: Array | None,
    ) -> tuple[Array, Groups, Any, Array | None]:
        out = block.attend(
            x,
            bias=groups.bias(),
            train=train,
            key=key,
            drop_rate=drop_rate,
            nudge=None if nudge is None else groups.merge_nudge(nudge),
            return_weights=return_weights,
        )
        weights = None if out.weights is None else groups.unmerge_weights(out.weights)
        x = out.x
        if count:
            x, groups = Matching.of(out.keys, count, prefix=prefix).join(x, groups)
        x = block.transform(x, train=train, key=key, drop_rate=drop_rate)
        return x, groups, nnx.state(block, nnx.BatchStat), weights

    groups, stats, weights = Groups.single(x), [], []
    counts = merged_per_layer(x.shape[1] - prefix, merged_tokens, depth)
    for layer, count in enumerate(counts):
        # a layer's parameters are taken when its turn comes: known beforehand, XLA would copy those of all at once
        x, turn = jax.lax.optimization_barrier((x, jnp.int32(layer)))
        block = jax.tree.map(partial(jax.lax.dynamic_index_in_dim, index=turn, keepdims=False), blocks)
        run = rematerialized(partial(body, count), config, in_loop=False)
        nudge = None if nudges is None else nudges[layer]
        x, groups, block_stats, block_weights = run(block, x, groups, keys[layer], drop_rates[layer], nudge)
        stats.append(block_stats)
        weights.append(block_weights)
    if train:
        nnx.update(blocks, jax.tree.map(lambda *leaves: jnp.stack(leaves), *stats))
    return BlockOutput(groups.unmerge(x), jnp.stack(weights) if return_weights else None)
