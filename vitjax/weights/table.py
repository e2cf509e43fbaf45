"""A family's table: which array on disk is which of our parameters. Read and written by the same lines."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import Mesh

from vitjax.nn.functional import Tree
from vitjax.parallel.paths import named_leaves
from vitjax.parallel.sharding import shardings
from vitjax.weights.layout import Index, Layout, parse_layout
from vitjax.weights.stored import MAX_TENSORS
from vitjax.weights.tensors import Tensors, TensorSpec

LAYER = "{layer}"


@dataclass(frozen=True)
class Entry:
    """One array of theirs, or with `{layer}` in its name one of each layer, and what it is of ours.

    theirs: its name on disk.
    ours: path of our parameter, stacked over the layers where theirs has a `{layer}`; or several paths, which theirs
      holds one behind the other along `axis`.
    layout: see `vitjax.weights.layout`.
    """

    theirs: str
    ours: str | tuple[str, ...]
    layout: str = ""
    axis: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.ours, str):
            object.__setattr__(self, "ours", (self.ours,))


@dataclass(frozen=True)
class Ignored:
    """Arrays of theirs that nothing of ours needs: a regular expression for the whole name, and the reason."""

    pattern: str
    reason: str


@dataclass(frozen=True)
class _Piece:
    """Where one of our arrays is found: of `names` on disk, one a layer, `offset` along `axis` with this layout."""

    names: tuple[str, ...]
    stacked: bool
    shape: tuple[int, ...]
    layout: Layout
    axis: int
    offset: int

    def read(self, tensors: Tensors, index: Index) -> np.ndarray:
        """`index` of our array; nothing else is read, as far as the layout allows."""
        layers, inner = (index[0], index[1:]) if self.stacked else (slice(None), index)
        read = list(self.layout.their_index(self.shape, inner))
        at = read[self.axis] if read else slice(0, 0)
        if read:
            read[self.axis] = slice(at.start + self.offset, at.stop + self.offset)
        found = [
            self.layout.to_ours(tensors.read(name, tuple(read)), self.shape, inner)
            for name in self.names[layers]
        ]
        return np.stack(found) if self.stacked else np.asarray(found[0], order="C")


class Table:
    """The entries of a family for one model, matched with the shapes of that model's arrays.

    Args:
      arrays: every parameter and running statistic of the model, by path (arrays or ShapeDtypeStructs).

    Raises ValueError where an array of ours has no entry or two, or an entry is about no array.
    """

    def __init__(self, entries: Sequence[Entry], arrays: Mapping[str, jax.ShapeDtypeStruct]):
        self.entry_of: dict[str, Entry] = {}
        self.expected: dict[str, tuple[int, ...]] = {}
        self.pieces: dict[str, _Piece] = {}
        for entry in entries:
            self._add(entry, arrays)
        if missing := set(arrays) - set(self.pieces):
            raise ValueError(f"no entry of the table fills {min(missing)}")

    def _add(self, entry: Entry, arrays: Mapping[str, jax.ShapeDtypeStruct]) -> None:
        stacked, offset = LAYER in entry.theirs, 0
        for path in entry.ours:
            if path not in arrays or path in self.pieces:
                why = "twice in the table" if path in self.pieces else "not in the model"
                raise ValueError(f"{entry.theirs} is for {path}, which is {why}")
            full = tuple(arrays[path].shape)
            depth, shape = (full[0], full[1:]) if stacked else (1, full)
            if depth > MAX_TENSORS:
                raise ValueError(f"{depth} layers: expected at most {MAX_TENSORS}")
            layout = parse_layout(entry.layout, len(shape))
            theirs = layout.their_shape(shape)
            names = tuple(entry.theirs.replace(LAYER, str(layer)) for layer in range(depth))
            self.pieces[path] = _Piece(names, stacked, shape, layout, entry.axis, offset)
            offset += theirs[entry.axis] if theirs else 0
        whole = (*theirs[: entry.axis], offset, *theirs[entry.axis + 1 :]) if theirs else ()
        self.expected |= dict.fromkeys(names, whole)
        self.entry_of |= dict.fromkeys(names, entry)

    def check(self, specs: Mapping[str, TensorSpec], ignored: Sequence[Ignored], where: str) -> None:
        """Raise one line for the first array that is missing, of another shape, or that nobody needs."""
        for name, shape in self.expected.items():
            if name not in specs:
                raise ValueError(f"{where}: {name} is missing: expected {list(shape)}")
            spec = specs[name]
            if spec.shape != shape:
                raise ValueError(
                    f"{spec.file}: {name} is {spec.dtype}{list(spec.shape)}: expected {list(shape)}"
                )
        for name, spec in specs.items():
            if name not in self.expected and not any(re.fullmatch(i.pattern, name) for i in ignored):
                raise ValueError(f"{spec.file}: {name} {list(spec.shape)} is not part of this model")

    def read(self, tensors: Tensors, arrays: Tree, mesh: Mesh | None) -> Tree:
        """Our tree of arrays like `arrays`, straight onto the mesh: each process reads what its devices hold."""
        places = named_leaves(shardings(arrays, mesh)) if mesh is not None else {}
        default = jax.sharding.SingleDeviceSharding(jax.devices()[0])

        def load(path: str, leaf: jax.ShapeDtypeStruct) -> jax.Array:
            read: dict[tuple[tuple[int, int], ...], np.ndarray] = {}

            def part(index: Index | None) -> np.ndarray:
                assert index is not None
                bounds = tuple((axis.start, axis.stop) for axis in index)
                if bounds not in read:  # JAX asks anew for each device that holds the same part
                    read[bounds] = self.pieces[path].read(tensors, index).astype(leaf.dtype, copy=False)
                return read[bounds]

            return jax.make_array_from_callback(leaf.shape, places.get(path, default), part, leaf.dtype)

        named = named_leaves(arrays)
        leaves = [load(path, leaf) for path, leaf in named.items()]
        return jax.tree.unflatten(jax.tree.structure(arrays), leaves)

    def written(self, theirs: str, arrays: Mapping[str, jax.Array]) -> np.ndarray:
        """One array of theirs as it is on disk, contiguous, of our arrays by path."""
        entry = self.entry_of[theirs]
        pieces = [(self.pieces[path], arrays[path]) for path in entry.ours]
        layer = pieces[0][0].names.index(theirs)
        parts = [
            piece.layout.to_theirs(np.asarray(array[layer] if piece.stacked else array))
            for piece, array in pieces
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=entry.axis)
