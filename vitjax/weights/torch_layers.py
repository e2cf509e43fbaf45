"""Layers as torch names and lays them out: the lines that the tables of its families are made of."""

from vitjax.weights.table import Entry


def linear(theirs: str, ours: str, *, use_bias: bool = True) -> list[Entry]:
    """A torch linear layer, [out, in], and ours, [in, out]."""
    entries = [Entry(f"{theirs}.weight", f"{ours}/kernel", "out in -> in out")]
    return [*entries, Entry(f"{theirs}.bias", f"{ours}/bias")] if use_bias else entries


def norm(theirs: str, ours: str) -> list[Entry]:
    """A LayerNorm."""
    return [Entry(f"{theirs}.weight", f"{ours}/scale"), Entry(f"{theirs}.bias", f"{ours}/bias")]


def heads(theirs: str, ours: str, *, use_bias: bool = True) -> list[Entry]:
    """A torch projection to queries, keys or values: [H * C, D], and ours, [D, H, C]."""
    entries = [Entry(f"{theirs}.weight", f"{ours}/kernel", "(H C) D -> D H C")]
    return [*entries, Entry(f"{theirs}.bias", f"{ours}/bias", "(H C) -> H C")] if use_bias else entries


def from_heads(theirs: str, ours: str, *, use_bias: bool = True) -> list[Entry]:
    """A torch projection of what heads found: [D, H * C], and ours, [H, C, D]."""
    entries = [Entry(f"{theirs}.weight", f"{ours}/kernel", "D (H C) -> H C D")]
    return [*entries, Entry(f"{theirs}.bias", f"{ours}/bias")] if use_bias else entries


def patches(theirs: str, *, use_bias: bool = True) -> list[Entry]:
    """The convolution that makes patches: [out, in, h, w], and ours, [h, w, in, out]."""
    ours = "patch_embedding/projection"
    entries = [Entry(f"{theirs}.weight", f"{ours}/kernel", "out in h w -> h w in out")]
    return [*entries, Entry(f"{theirs}.bias", f"{ours}/bias")] if use_bias else entries
