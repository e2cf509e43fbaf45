"""Low-rank factors against NumPy, and their gradients against differences of the loss."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from tests.training.runs import classifier, noise
from vitjax.nn.functional import merge
from vitjax.parallel.mesh import MeshConfig, make_mesh
from vitjax.parallel.paths import named_leaves, nested
from vitjax.parallel.sharding import explain
from vitjax.training.config import InitConfig
from vitjax.training.lora import LORA, LoraConfig, add_factors, new_factors
from vitjax.training.state import make_setup, merged
from vitjax.training.tasks import loss_function

L, D, H, C, F = 3, 8, 2, 4, 12
KERNELS = {
    "encoder/blocks/attention/query/kernel": ((L, D, H, C), (L, D, 2), (L, 2, H, C)),
    "encoder/blocks/attention/out/kernel": ((L, H, C, D), (L, H, C, 2), (L, 2, D)),
    "encoder/blocks/feed_forward/up/kernel": ((L, D, F), (L, D, 2), (L, 2, F)),
    "encoder/patch_embedding/projection/kernel": ((4, 4, 3, D), (4, 4, 3, 2), (2, D)),
    "stage1_block0/conv1/kernel": ((3, 3, D, D), (3, 3, D, 2), (2, D)),
    "pool/attention/query/kernel": ((D, H, C), (D, 2), (2, H, C)),
}


def kernels(seed=0):
    rng = np.random.default_rng(seed)
    tree = {name: rng.normal(size=shape).astype(np.float32) for name, (shape, _, _) in KERNELS.items()}
    tree["encoder/blocks/feed_forward/up/bias"] = rng.normal(size=(L, F)).astype(np.float32)
    return nested(tree)


def random_factors(config, params):
    """Factors as after some training: neither is zero."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(lambda: new_factors(config, params, jax.random.key(1)))
    return jax.tree.map(lambda x: jax.device_put(rng.normal(0, 0.3, x.shape).astype(np.float32)), shapes)


def test_every_kernel_becomes_a_matrix_of_inputs_by_outputs():
    config = LoraConfig(rank=2, alpha=3.0, patterns=(".*",))
    params = kernels()
    factors = named_leaves(new_factors(config, params, jax.random.key(0)))
    assert {name.rsplit("/", 1)[0] for name in factors} == set(KERNELS)
    for name, (_, a, b) in KERNELS.items():
        assert (factors[f"{name}/a"].shape, factors[f"{name}/b"].shape) == (a, b), name
        bound = 1 / math.sqrt(np.prod(a[1:-1] if "blocks" in name else a[:-1]))
        drawn = np.abs(factors[f"{name}/a"])
        assert 0.5 * bound < drawn.max() <= bound and not factors[f"{name}/b"].any()

    trained = random_factors(config, params)
    sums, small = named_leaves(add_factors(config, params, trained)), named_leaves(trained)
    for name, kernel in named_leaves(params).items():
        if name not in KERNELS:
            assert sums[name] is kernel
            continue
        stacked = "blocks" in name
        a, b = (np.asarray(small[f"{name}/{letter}"], np.float64) for letter in "ab")
        pairs = zip(a, b, strict=True) if stacked else [(a, b)]
        products = [x.reshape(-1, 2) @ y.reshape(2, -1) for x, y in pairs]
        expected = kernel + 1.5 * np.reshape(products, kernel.shape)
        np.testing.assert_allclose(sums[name], expected, rtol=0, atol=1e-6, err_msg=name)


def test_fresh_factors_change_no_bit_and_depend_on_the_name_alone():
    params = kernels()
    some = LoraConfig(rank=2, patterns=(".*/query/kernel",))
    more = LoraConfig(rank=2, patterns=(".*/attention/.*", ".*/feed_forward/.*"))
    few, many = (new_factors(config, params, jax.random.key(5)) for config in (some, more))
    for name, leaf in named_leaves(few).items():
        assert np.asarray(leaf).tobytes() == np.asarray(named_leaves(many)[name]).tobytes()
    for name, leaf in named_leaves(add_factors(more, params, many)).items():
        assert np.asarray(leaf).tobytes() == named_leaves(params)[name].tobytes(), name


def test_gradients_are_those_of_differences():
    """Of the training loss of a real model, along a random direction of all factors at once."""
    lora = LoraConfig(rank=3, alpha=6.0, patterns=(".*/attention/.*", ".*/feed_forward/.*"))
    init = InitConfig("somewhere", new=("head/.*",))
    config = dataclasses.replace(classifier(), lora=lora, init=init)
    setup = make_setup(config, make_mesh(MeshConfig(), jax.devices()[:1]))
    rng = np.random.default_rng(0)

    def random(tree):
        return jax.tree.map(lambda leaf: 0.3 * rng.normal(size=leaf.shape).astype(np.float32), tree)

    trained, frozen, direction = map(
        random, (setup.shapes.params, setup.shapes.frozen, setup.shapes.params[LORA])
    )
    batch = jax.device_put(noise(config))

    @jax.jit
    @jax.value_and_grad
    def loss(trained, frozen):
        model = merge(setup.definition, merged(config, trained, frozen))
        return loss_function(config, model, batch, train=False, key=None).mean

    def moved(step):
        factors = jax.tree.map(lambda x, d: np.float32(x + step * d), trained[LORA], direction)
        return {**trained, LORA: factors}

    step = 2e-3
    difference = (loss(moved(step), frozen)[0] - loss(moved(-step), frozen)[0]) / (2 * step)
    gradient = loss(trained, frozen)[1][LORA]
    slope = sum(jax.tree.leaves(jax.tree.map(np.vdot, gradient, direction)))
    assert abs(slope) > 0.05
    np.testing.assert_allclose(slope, difference, rtol=5e-3)


def test_places_on_a_mesh_follow_the_kernel_s():
    config = LoraConfig(rank=2, patterns=(".*/attention/.*", ".*/feed_forward/.*"))
    mesh = make_mesh(MeshConfig.parse("fsdp=2,tensor=2"), jax.devices()[:4])
    factors = {LORA: new_factors(config, kernels(), jax.random.key(0))}
    places = {
        place.path.removeprefix("lora/encoder/blocks/"): tuple(place.spec) for place in explain(factors, mesh)
    }
    assert places["attention/query/kernel/a"] == (None, "fsdp")
    assert places["attention/query/kernel/b"] == (None, None, "tensor", "fsdp")
    assert places["attention/out/kernel/a"][1] == "tensor"
    assert places["feed_forward/up/kernel/b"][2] == "tensor"


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"rank": -1}, "lora.rank is -1: expected 0"),
        ({"alpha": 0.0}, "lora.alpha is 0.0: expected a number above 0"),
    ],
)
def test_values_that_make_no_sense(fields, line):
    with pytest.raises(ValueError, match=line):
        LoraConfig(**fields)


@pytest.mark.parametrize(
    ("config", "line"),
    [
        (LoraConfig(2, patterns=("decoder/.*",)), "no kernel matches 'decoder/.*'; kernels are called like"),
        (LoraConfig(2, patterns=(".*/up/bias",)), "no kernel matches '.*/up/bias'"),
        (LoraConfig(8, patterns=(".*/up/kernel",)), r"lora.rank 8: .*/up/kernel is a matrix of 8 by 12"),
    ],
)
def test_patterns_that_make_no_sense(config, line):
    with pytest.raises(ValueError, match=line):
        new_factors(config, kernels(), jax.random.key(0))
