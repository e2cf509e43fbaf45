from dataclasses import replace
from functools import partial
from math import prod

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.nn import residual
from tests.nn.trees import normal, parts
from vitjax.models.resnet import ResNetConfig
from vitjax.nn import functional

SMALL = ResNetConfig((1, 2), (3, 4), stem="small", channels=2, num_classes=5)
DEEP = ResNetConfig((2, 1), (2, 3), block="bottleneck", num_classes=5)
PAPER = replace(DEEP, stride_first=True, halve_first_stage=True, stem_width=6)


def build(config):
    definition, params, stats = parts(lambda rngs: config.build(rngs=rngs))
    return definition, params, jax.tree.map(lambda s: s * (1 + 0.3 * normal(*s.shape)) + 0.1, stats)


@partial(jax.jit, static_argnums=0, static_argnames="train")
def run(definition, params, stats, images, *, train):
    model = functional.merge(definition, params, stats)
    return model(images, train=train), functional.stats_of(model)


@partial(jax.jit, static_argnums=0)
def features(definition, params, stats, images):
    return functional.merge(definition, params, stats).features(images, train=False)


# torchvision's and timm's figures
@pytest.mark.parametrize(
    ("variant", "count"),
    {"18": 11_689_512, "34": 21_797_672, "50": 25_557_032, "101": 44_549_160, "152": 60_192_808}.items(),
)
def test_standard_sizes_have_the_known_number_of_parameters(variant, count):
    config = ResNetConfig.standard(variant, num_classes=1000)
    _, params, _ = functional.abstract(lambda rngs: config.build(rngs=rngs))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count
    assert params["head"]["kernel"].shape == (config.output_width, 1000)


def test_imagenet_form_is_the_formula():
    definition, params, stats = build(DEEP)
    images = normal(2, 12, 14, 3)
    x = residual.convolve(np.asarray(images), params["conv_stem"]["kernel"], 2)
    x = residual.relu(residual.batch_norm(x, params["norm_stem"], stats["norm_stem"], train=False))
    x = residual.max_pool(x)
    for name, strides in {
        "stage1_block0": (1, 1, 1),
        "stage1_block1": (1, 1, 1),
        "stage2_block0": (1, 2, 1),
    }.items():
        x = residual.block(x, params[name], stats[name], strides)
    assert x.shape == (2, 2, 2, 12) and np.mean(x > 0) > 0.2
    out = features(definition, params, stats, images)
    np.testing.assert_allclose(out.tokens, x.reshape(2, 4, 12), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(out.pooled, x.mean((1, 2)), rtol=1e-4, atol=1e-5)
    logits, _ = run(definition, params, stats, images, train=False)
    want = x.mean((1, 2)) @ np.asarray(params["head"]["kernel"], float) + params["head"]["bias"]
    np.testing.assert_allclose(logits, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("config", [SMALL, DEEP, PAPER], ids=["small", "imagenet", "as in the paper"])
@pytest.mark.parametrize("size", [(8, 8), (16, 64), (9, 31), (33, 7)])
def test_grid_and_width_foretell_the_tokens(config, size):
    definition, params, stats = functional.abstract(lambda rngs: config.build(rngs=rngs))
    images = jax.ShapeDtypeStruct((2, *size, config.channels), jnp.float32)
    out = jax.eval_shape(partial(features, definition), params, stats, images)
    assert out.tokens.shape == (2, prod(config.grid(size)), config.output_width)
    assert out.pooled.shape == (2, config.output_width)


def test_tokens_are_the_cells_row_by_row():
    definition, params, stats = build(replace(SMALL, depths=(1,), widths=(3,)))
    images = normal(1, 12, 9, 2)
    changed = images.at[0, 7, 2].add(1.0)  # the network sees 3 pixels far
    before, after = (features(definition, params, stats, x).tokens for x in (images, changed))
    rows, columns = np.nonzero(np.abs(np.asarray(before - after)).max(-1).reshape(12, 9) > 1e-6)
    assert rows.min() >= 4 and rows.max() <= 10 and columns.max() <= 5
    assert abs(np.median(rows) - 7) <= 1 and abs(np.median(columns) - 2) <= 1


def test_encode_gives_the_tokens_and_refuses_a_mask():
    definition, params, stats = build(SMALL)
    images = normal(2, 8, 8, 2)
    model = functional.merge(definition, params, stats)
    tokens, mask = jax.jit(lambda x: model.encode(x, train=False))(images)
    assert mask is None
    np.testing.assert_allclose(
        tokens, features(definition, params, stats, images).tokens, rtol=1e-5, atol=1e-6
    )
    with pytest.raises(ValueError, match="source_mask"):
        model.encode(images, source_mask=jnp.ones((2, 16), bool), train=False)


def test_train_mode_moves_every_statistic_and_does_not_use_it():
    definition, params, stats = build(SMALL)
    images = normal(4, 8, 8, 2)
    logits, updated = run(definition, params, stats, images, train=True)
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool(jnp.all(a != b)), stats, updated)))
    again, _ = run(definition, params, jax.tree.map(jnp.zeros_like, stats), images, train=True)
    np.testing.assert_array_equal(logits, again)
    _, same = run(definition, params, stats, images, train=False)
    jax.tree.map(np.testing.assert_array_equal, same, stats)


def test_evaluation_does_not_depend_on_the_batch():
    definition, params, stats = build(SMALL)
    images = normal(4, 8, 8, 2)
    together, _ = run(definition, params, stats, images, train=False)
    alone, _ = run(definition, params, stats, images[2:3], train=False)
    np.testing.assert_allclose(together[2:3], alone, rtol=1e-5, atol=1e-6)


def test_every_parameter_gets_a_gradient():
    definition, params, stats = build(SMALL)
    images = normal(4, 8, 8, 2)

    @jax.jit
    def gradient(params):
        return jax.grad(lambda p: jnp.sum(run(definition, p, stats, images, train=True)[0] ** 2))(params)

    assert all(jnp.abs(leaf).max() > 1e-4 for leaf in jax.tree.leaves(gradient(params)))


def test_bfloat16_gives_float32_logits():
    definition, params, stats = build(SMALL)
    half = functional.abstract(lambda rngs: replace(SMALL, dtype="bfloat16").build(rngs=rngs))[0]
    images = normal(2, 8, 8, 2)
    assert features(half, params, stats, images).tokens.dtype == jnp.bfloat16
    logits, updated = run(half, params, stats, images, train=True)
    assert logits.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(updated)} == {jnp.dtype("float32")}
    np.testing.assert_allclose(logits, run(definition, params, stats, images, train=True)[0], atol=0.2)


@pytest.mark.parametrize("graph", [False, True])
def test_graph_mode_changes_nothing(graph):
    images = normal(2, 8, 8, 2)

    @jax.jit
    def initial(key):
        return functional.initialize(lambda rngs: SMALL.build(rngs=rngs), key)

    with nnx.set_graph_mode(graph):
        definition, _, _ = functional.abstract(lambda rngs: SMALL.build(rngs=rngs))
        params, stats = initial(jax.random.key(0))
        params = jax.tree.map(lambda leaf: leaf + 0.1, params)
        logits, updated = run(definition, params, stats, images, train=True)
    definition, *_ = functional.abstract(lambda rngs: SMALL.build(rngs=rngs))
    want, stats = run(definition, params, stats, images, train=True)
    np.testing.assert_allclose(logits, want, rtol=1e-5, atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, updated, stats)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="no variant '51': write one of 18, 34, 50, 101, 152"):
        ResNetConfig.standard("51")
    for depths, widths in [((1, 2), (3,)), ((), ()), ((1, 0), (3, 4))]:
        with pytest.raises(ValueError, match="each stage needs a depth >= 1 and a width"):
            ResNetConfig(depths, widths)
    model = functional.merge(
        *functional.abstract(lambda rngs: replace(SMALL, num_classes=0).build(rngs=rngs))
    )
    with pytest.raises(ValueError, match="no head"):
        model(normal(1, 8, 8, 2), train=False)
