import jax
import pytest

from tests.training.runs import classifier
from vitjax.parallel.mesh import MeshConfig, make_mesh
from vitjax.training.state import init_state, join, make_setup, partition

TREE = {"a": {"kernel": 1, "bias": 2}, "b": {"c": {"kernel": 3}}}


@pytest.mark.parametrize("patterns", [(), ("a/.*",), (".*/kernel",), ("b/c/kernel", "a/bias")])
def test_partition_and_join_are_inverse(patterns):
    trainable, frozen = partition(TREE, patterns)
    assert join(trainable, frozen) == TREE
    assert len(jax.tree.leaves(trainable)) + len(jax.tree.leaves(frozen)) == 3


def test_partition_keeps_no_empty_parts():
    assert partition(TREE, ("a/.*",)) == ({"b": {"c": {"kernel": 3}}}, {"a": {"kernel": 1, "bias": 2}})


def test_patterns_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="no parameter matches 'decoder/.*'"):
        partition(TREE, ("decoder/.*",))
    with pytest.raises(ValueError, match="nothing to train"):
        partition(TREE, (".*",))


def test_the_plan_has_the_state_s_shapes_and_places():
    mesh = make_mesh(MeshConfig.parse("data=2,fsdp=2,tensor=2"))
    setup = make_setup(classifier(ema_decay=0.9), mesh)
    state = init_state(setup)

    def facts(tree):
        return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, leaf.sharding), tree)

    assert facts(state) == facts(setup.shapes)


def test_seed_decides_the_parameters():
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    one, same, other = (init_state(make_setup(classifier(seed=s), mesh)) for s in (1, 1, 2))
    kernel = lambda state: state.params["blocks"]["feed_forward"]["up"]["kernel"]  # noqa: E731
    assert (kernel(one) == kernel(same)).all()
    assert (kernel(one) != kernel(other)).any()
