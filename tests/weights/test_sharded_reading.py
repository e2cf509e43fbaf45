"""A checkpoint of several files onto a mesh: the same numbers wherever they go, and each of them read once."""

import json
from collections import Counter

import numpy as np
import pytest

from tests.parallel.together import run_together
from vitjax.nn import functional
from vitjax.parallel.mesh import MeshConfig, make_mesh
from vitjax.parallel.paths import named_leaves
from vitjax.weights.folder import INDEX, open_tensors, write_tensors
from vitjax.weights.table import Table
from vitjax.weights.vit import VIT

FIELDS = {
    **{"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 32},
    **{"image_size": 16, "patch_size": 4},
}


def model():
    config = VIT.read_config(FIELDS, {})
    _, params, _ = functional.abstract(lambda rngs: config.build(rngs=rngs))
    return params, Table(VIT.entries(config), named_leaves(params))


def total(array):
    return float(np.asarray(array, np.float64).sum())


class Counting:
    """Tensors that count how many of their numbers are asked for, by name."""

    def __init__(self, tensors):
        self.specs, self._tensors, self.numbers = tensors.specs, tensors, Counter()

    def read(self, name, index=None):
        found = self._tensors.read(name, index)
        self.numbers[name] += found.size
        return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("sharded")
    random = np.random.default_rng(0)
    arrays = {
        name: random.normal(size=shape).astype(np.float32) for name, shape in model()[1].expected.items()
    }
    write_tensors(path, arrays, file_bytes=10_000)
    assert (path / INDEX).exists() and len(list(path.iterdir())) > 3
    return path


@pytest.mark.parametrize(
    "axes", ["fsdp=8", "data=2,fsdp=4", "fsdp=2,tensor=4", "data=2,fsdp=2,tensor=2", "data=8"]
)
def test_each_number_is_read_once(folder, axes):
    """Also where several devices hold the same part."""
    params, table = model()
    mesh = make_mesh(MeshConfig.parse(f"data=1,{axes}" if "data" not in axes else axes))
    tensors = Counting(open_tensors(folder))
    found = named_leaves(table.read(tensors, params, mesh))
    assert tensors.numbers == {name: np.prod(shape) for name, shape in table.expected.items()}
    for path, whole in named_leaves(table.read(open_tensors(folder), params, None)).items():
        np.testing.assert_array_equal(found[path], whole)
    split = sum(not array.is_fully_replicated for array in found.values())
    assert split > 6 if axes != "data=8" else split == 0


TOGETHER = """
import json, sys
from vitjax.parallel import processes
processes.initialize()
import numpy as np
from tests.weights.test_sharded_reading import Counting, MeshConfig, make_mesh, model, named_leaves, open_tensors, total
params, table = model()
tensors = Counting(open_tensors(sys.argv[1]))
arrays = named_leaves(table.read(tensors, params, make_mesh(MeshConfig(data=1, fsdp=4))))
sums = {path: sum(total(piece.data) for piece in array.addressable_shards if not piece.replica_id)
        for path, array in arrays.items()}
whole = [path for path, array in arrays.items() if array.is_fully_replicated]
print(json.dumps([sum(tensors.numbers.values()), whole, sums]))
"""


def test_each_process_reads_only_what_its_devices_hold(folder):
    params, table = model()
    arrays = named_leaves(table.read(open_tensors(folder), params, None))
    reports = [json.loads(line) for line in run_together(TOGETHER, 2, str(folder), devices=2)]
    for numbers, whole, _ in reports:
        vectors = sum(arrays[path].size for path in whole)
        assert numbers == vectors + (sum(array.size for array in arrays.values()) - vectors) / 2
        assert vectors < numbers / 4
    for path, array in arrays.items():
        together = sum(sums[path] for _, _, sums in reports)
        assert together == pytest.approx(total(array), abs=1e-12)
