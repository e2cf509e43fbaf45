import jax
import numpy as np
import pytest

from vitjax.weights.table import Entry, Ignored, Table
from vitjax.weights.tensors import TensorSpec

SHAPES = {
    "blocks/query/kernel": (2, 5, 2, 3),
    "blocks/key/kernel": (2, 5, 2, 3),
    "positions/prefix": (1, 5),
    "positions/embedding": (4, 5),
    "scale": (),
}
ENTRIES = [
    Entry("layer.{layer}.qk", ("blocks/query/kernel", "blocks/key/kernel"), "(H C) D -> D H C"),
    Entry("pos", ("positions/prefix", "positions/embedding"), "1 N D -> N D", axis=1),
    Entry("logit_scale", "scale"),
]


class InMemory:
    """Tensors that remember what was read of them."""

    def __init__(self, arrays):
        self.arrays, self.reads = arrays, []
        self.specs = {name: TensorSpec(a.shape, str(a.dtype), "file") for name, a in arrays.items()}

    def read(self, name, index=None):
        self.reads.append((name, index))
        return np.asarray(self.arrays[name][() if index is None else index])


def abstract(shapes):
    return {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in shapes.items()}


def stored():
    draw = np.random.default_rng(0)
    shapes = {"layer.0.qk": (12, 5), "layer.1.qk": (12, 5), "pos": (1, 5, 5), "logit_scale": ()}
    return {name: draw.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def nested(flat):
    tree: dict = {}
    for path, leaf in flat.items():
        *above, last = path.split("/")
        inner = tree
        for name in above:
            inner = inner.setdefault(name, {})
        inner[last] = leaf
    return tree


@pytest.fixture
def table():
    return Table(ENTRIES, abstract(SHAPES))


def test_read_and_written_again(table):
    arrays = stored()
    tree = table.read(InMemory(arrays), nested(abstract(SHAPES)), None)
    query, key = tree["blocks"]["query"]["kernel"], tree["blocks"]["key"]["kernel"]
    np.testing.assert_array_equal(query[1], arrays["layer.1.qk"][:6].T.reshape(5, 2, 3))
    np.testing.assert_array_equal(key[0], arrays["layer.0.qk"][6:].T.reshape(5, 2, 3))
    np.testing.assert_array_equal(tree["positions"]["prefix"], arrays["pos"][0, :1])
    np.testing.assert_array_equal(tree["positions"]["embedding"], arrays["pos"][0, 1:])
    ours = {
        "blocks/query/kernel": query,
        "blocks/key/kernel": key,
        "scale": tree["scale"],
        **{f"positions/{name}": leaf for name, leaf in tree["positions"].items()},
    }
    assert set(table.expected) == set(arrays)
    for name, array in arrays.items():
        again = table.written(name, ours)
        np.testing.assert_array_equal(again, array)
        assert again.flags.c_contiguous


def test_a_part_of_an_array_reads_that_part_of_the_file(table):
    tensors = InMemory(stored())
    whole = slice(None)
    part = table.pieces["blocks/key/kernel"].read(tensors, (whole, whole, slice(1, 2), whole))
    assert tensors.reads == [(f"layer.{i}.qk", (slice(9, 12), slice(0, 5))) for i in range(2)]
    np.testing.assert_array_equal(part[0], tensors.arrays["layer.0.qk"][9:12].T.reshape(5, 1, 3))


def test_strict_both_ways(table):
    def refused(change, match, ignored=()):
        specs = InMemory(stored()).specs
        change(specs)
        with pytest.raises(ValueError, match=match):
            table.check(specs, ignored, "folder")

    refused(lambda s: s.pop("pos"), r"folder: pos is missing: expected \[1, 5, 5\]")
    refused(
        lambda s: s.update(pos=TensorSpec((1, 9, 5), "float32", "a.safetensors")),
        r"a.safetensors: pos is float32\[1, 9, 5\]: expected \[1, 5, 5\]",
    )
    extra = {"layer.2.qk": TensorSpec((12, 5), "float32", "a.safetensors")}
    refused(lambda s: s.update(extra), r"a.safetensors: layer.2.qk \[12, 5\] is not part of this model")
    table.check({**InMemory(stored()).specs, **extra}, [Ignored(r"layer\.2\..*", "for the test")], "folder")


@pytest.mark.parametrize(
    ("entries", "match"),
    [
        (ENTRIES[:-1], "no entry of the table fills scale"),
        ([*ENTRIES, Entry("other", "scale")], "other is for scale, which is twice in the table"),
        ([*ENTRIES, Entry("other", "nothing")], "other is for nothing, which is not in the model"),
    ],
)
def test_a_table_that_does_not_fit_the_model(entries, match):
    with pytest.raises(ValueError, match=match):
        Table(entries, abstract(SHAPES))
