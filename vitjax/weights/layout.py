"""How one array is laid out in a file and in our parameters: a reversible rearrangement, read slice by slice.

A layout is written as in einops, theirs first: "(H C) D -> D H C" is a torch matrix of queries, [H * C, D], as our
kernel [D, H, C]; "1 N D -> N D" drops an axis of one. The empty layout leaves an array as it is.
"""

import math
import re
from dataclasses import dataclass
from functools import cache

import numpy as np

Shape = tuple[int, ...]
Index = tuple[slice, ...]


@dataclass(frozen=True)
class Layout:
    """Names of our axes, and the groups of them that theirs are; an empty group is an axis of one."""

    theirs: tuple[tuple[str, ...], ...]
    ours: tuple[str, ...]

    def their_shape(self, ours: Shape) -> Shape:
        """The shape on disk of what becomes an array of shape `ours`."""
        sizes = self._sizes(ours)
        return tuple(math.prod(sizes[name] for name in group) for group in self.theirs)

    def their_index(self, ours: Shape, index: Index) -> Index:
        """What to read of theirs for `index` of ours: an axis in part where the part is contiguous, else whole."""
        sizes, read = self._sizes(ours), self._read(ours, index)
        steps = [math.prod(sizes[name] for name in group[1:]) for group in self.theirs]
        firsts = [read[group[0]] if group else range(1) for group in self.theirs]
        return tuple(slice(r.start * step, r.stop * step) for r, step in zip(firsts, steps, strict=True))

    def to_ours(self, array: np.ndarray, ours: Shape, index: Index) -> np.ndarray:
        """`index` of our array of shape `ours`, from `their_index` of theirs."""
        wanted, read = self._wanted(ours, index), self._read(ours, index)
        apart = array.reshape([len(read[name]) for name in self._names])
        rest = (
            slice(None) if read[name] == wanted[name] else slice(wanted[name].start, wanted[name].stop)
            for name in self._names
        )
        return apart[(*rest, ...)].transpose([self._names.index(name) for name in self.ours])

    def to_theirs(self, array: np.ndarray) -> np.ndarray:
        """The whole array as it is on disk, contiguous."""
        moved = array.transpose([self.ours.index(name) for name in self._names])
        return np.ascontiguousarray(moved).reshape(self.their_shape(array.shape))

    @property
    def _names(self) -> list[str]:
        return [name for group in self.theirs for name in group]

    def _sizes(self, ours: Shape) -> dict[str, int]:
        return dict(zip(self.ours, ours, strict=True))

    def _wanted(self, ours: Shape, index: Index) -> dict[str, range]:
        return {name: range(size)[part] for name, size, part in zip(self.ours, ours, index, strict=True)}

    def _read(self, ours: Shape, index: Index) -> dict[str, range]:
        """What is read of each of our axes: what is wanted, where those behind it in its group are wanted whole."""
        sizes, wanted = self._sizes(ours), self._wanted(ours, index)
        read = {name: range(size) for name, size in sizes.items()}
        for group in self.theirs:
            if group and all(len(wanted[name]) == sizes[name] for name in group[1:]):
                read[group[0]] = wanted[group[0]]
        return read


@cache
def parse_layout(text: str, rank: int) -> Layout:
    """The layout behind its notation; `rank` is that of our array, for the empty one.

    Raises ValueError where the two sides do not hold the same axes, once each.
    """
    if not text:
        names = tuple(f"axis{i}" for i in range(rank))
        return Layout(tuple((name,) for name in names), names)
    left, _, right = text.partition("->")
    theirs = tuple(
        tuple(name for name in (several or one).split() if name != "1")
        for several, one in re.findall(r"\(([^()]*)\)|(\S+)", left)
    )
    layout = Layout(theirs, tuple(right.split()))
    if sorted(layout._names) != sorted(layout.ours) or len(set(layout.ours)) != len(layout.ours):
        raise ValueError(f"layout {text!r} does not hold the same axes on both sides, once each")
    return layout
