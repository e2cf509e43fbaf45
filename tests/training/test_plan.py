import dataclasses

import jax
import pytest
from jax.sharding import PartitionSpec

from tests.prepared import with_data
from tests.training.runs import classifier, noise, translator
from vitjax.analysis.complexity import complexity
from vitjax.parallel.mesh import MeshConfig, make_mesh
from vitjax.parallel.paths import named_leaves
from vitjax.training import plan as planning
from vitjax.training.plan import make_plan
from vitjax.training.state import init_state, make_setup


def mesh_of(text: str):
    config = MeshConfig.parse(text)
    return make_mesh(config, jax.devices()[: config.devices_needed])


def numbers(tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("family", [classifier, translator])
def test_a_plan_says_what_a_run_holds(family):
    config = with_data(family(ema_decay=0.9), "/nowhere")  # no data is touched
    mesh = mesh_of("data=1")
    plan = make_plan(config, mesh)
    state = init_state(make_setup(config, mesh))
    assert plan.parameters == plan.trainable == numbers(state.params)
    keyless = [leaf for leaf in jax.tree.leaves(state) if leaf is not state.key]
    assert plan.state_bytes == sum(leaf.nbytes for leaf in keyless) + 8
    batch = noise(config)
    expected = plan.state_bytes + sum(leaf.nbytes for leaf in batch.values())
    assert plan.argument_bytes == pytest.approx(expected, rel=0.05)
    assert plan.temporary_bytes > 0
    assert [array.path for array in plan.arrays] == list(named_leaves(state.params))


def test_flops():
    config = classifier()
    plan = make_plan(config, mesh_of("data=1"))
    cost = complexity(config.model, image_size=(8, 8), source_length=None, target_length=31)
    assert plan.analytic_flops == 16 * cost.training_flops
    # Two layers of width 32: what is no matrix product still weighs.
    assert plan.xla_flops == pytest.approx(plan.analytic_flops, rel=0.35)
    parts = make_plan(classifier(accumulate=4), mesh_of("data=1"))
    assert parts.analytic_flops == plan.analytic_flops
    assert parts.xla_flops == plan.xla_flops
    deeper = make_plan(classifier(dataclasses.replace(config.model.transformer, depth=4)), mesh_of("data=1"))
    assert deeper.xla_flops > 1.7 * plan.xla_flops  # every layer of a loop is counted


def test_more_devices_hold_less_each():
    config = classifier()
    alone, split = (make_plan(config, mesh_of(text)) for text in ("data=1", "data=1,fsdp=2,tensor=2"))
    assert split.parameters == alone.parameters
    assert split.state_bytes == alone.state_bytes
    assert split.argument_bytes < 0.5 * alone.argument_bytes
    kernel = next(array for array in split.arrays if array.path == "blocks/feed_forward/up/kernel")
    assert kernel.spec == PartitionSpec(None, "fsdp", "tensor")
    assert "hidden over tensor" in kernel.reason


def test_frozen_parameters_are_counted_and_not_trained():
    plan = make_plan(classifier(freeze=("blocks/.*",)), mesh_of("data=1"))
    whole = make_plan(classifier(), mesh_of("data=1"))
    assert plan.parameters == whole.parameters
    blocks = sum(numbers_of(array.shape) for array in plan.arrays if array.path.startswith("blocks/"))
    assert plan.trainable == plan.parameters - blocks
    assert plan.state_bytes == whole.state_bytes - 2 * 4 * blocks  # two moments less


def numbers_of(shape: tuple[int, ...]) -> int:
    size = 1
    for dim in shape:
        size *= dim
    return size


def test_nothing_is_allocated():
    before = len(jax.live_arrays())
    make_plan(classifier(), mesh_of("data=2"))
    assert len(jax.live_arrays()) <= before + 2  # a key and a constant, not a state


def test_a_batch_that_does_not_split_is_refused():
    with pytest.raises(ValueError, match="batch size 16 is not a multiple of 3"):
        make_plan(classifier(), mesh_of("data=3"))


def test_where_xla_does_not_say(monkeypatch):
    monkeypatch.setattr(planning, "_counted_by_xla", lambda *_: None)
    assert make_plan(classifier(), mesh_of("data=1")).xla_flops is None
