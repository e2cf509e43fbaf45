import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.nn.trees import normal
from vitjax.nn import functional
from vitjax.nn.norms import make_norm


class Tiny(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.linear = nnx.Linear(4, 3, rngs=rngs)
        self.norm = make_norm("batch", 3, rngs=rngs)

    def __call__(self, x, *, train):
        return self.norm(self.linear(x), train=train)


def test_split_gives_plain_dicts_of_arrays() -> None:
    definition, params, stats = functional.split(Tiny(nnx.Rngs(0)))
    assert set(params) == {"linear", "norm"}
    assert set(params["linear"]) == {"kernel", "bias"} and set(params["norm"]) == {"scale", "bias"}
    assert set(stats) == {"norm"} and set(stats["norm"]) == {"mean", "var"}
    for tree in (params, stats):
        for leaf in jax.tree.leaves(tree):
            assert type(leaf) is type(jnp.zeros(1)) and leaf.dtype == jnp.float32
    assert isinstance(hash(definition), int)


def test_merge_is_the_inverse_of_split() -> None:
    module = Tiny(nnx.Rngs(0))
    x = normal(5, 4)
    rebuilt = functional.merge(*functional.split(module))
    np.testing.assert_array_equal(rebuilt(x, train=False), module(x, train=False))
    assert functional.split(nnx.Linear(2, 2, rngs=nnx.Rngs(0)))[2] == {}
    linear = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
    definition, params, _ = functional.split(linear)
    np.testing.assert_array_equal(functional.merge(definition, params)(x[:, :2]), linear(x[:, :2]))


def test_stats_of_sees_the_update_and_leaves_the_given_trees_alone() -> None:
    definition, params, stats = functional.split(Tiny(nnx.Rngs(0)))

    @jax.jit
    def step(params, stats, x):
        module = functional.merge(definition, params, stats)
        return module(x, train=True), functional.stats_of(module)

    x = normal(50, 4)
    _, updated = step(params, stats, x)
    hidden = x @ np.asarray(params["linear"]["kernel"]) + np.asarray(params["linear"]["bias"])
    np.testing.assert_allclose(updated["norm"]["mean"], 0.1 * hidden.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(stats["norm"]["mean"], np.zeros(3))
    assert jax.tree.structure(updated) == jax.tree.structure(stats)


def test_definition_is_stable_and_a_static_argument() -> None:
    """Two builds are one program: that is what "compiled once" rests on."""
    traces = 0

    @partial(jax.jit, static_argnums=0)
    def forward(definition, params, stats, x):
        nonlocal traces
        traces += 1
        return functional.merge(definition, params, stats)(x, train=False)

    for seed in (0, 1):
        forward(*functional.split(Tiny(nnx.Rngs(seed))), normal(2, 4))
    assert traces == 1
    definition = functional.abstract(Tiny)[0]
    assert definition == functional.split(Tiny(nnx.Rngs(0)))[0]


def test_abstract_and_initialize_agree_and_nothing_is_computed() -> None:
    definition, params, stats = functional.abstract(Tiny)
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves((params, stats)))
    real = functional.initialize(Tiny, jax.random.key(3))
    assert jax.tree.map(lambda a: (a.shape, a.dtype), real) == jax.tree.map(
        lambda a: (a.shape, a.dtype), (params, stats)
    )
    huge = functional.abstract(lambda rngs: nnx.Linear(10**6, 10**6, rngs=rngs))[1]  # 4 TB
    assert huge["kernel"].shape == (10**6, 10**6)
    assert functional.merge(definition, *real)(normal(2, 4), train=False).shape == (2, 3)


def test_initialize_depends_on_the_key_alone() -> None:
    first, again, other = (functional.initialize(Tiny, jax.random.key(k))[0] for k in (0, 0, 1))
    np.testing.assert_array_equal(first["linear"]["kernel"], again["linear"]["kernel"])
    assert not np.array_equal(first["linear"]["kernel"], other["linear"]["kernel"])


GRAPH_MODE = """
import hashlib, jax, numpy as np
import vitjax
from vitjax.nn import functional
from vitjax.nn.blocks import TransformerConfig
from vitjax.models.vit import VisionTransformerConfig
from vitjax.models.decoder import DecoderConfig
from vitjax.models.encoder_decoder import EncoderDecoderConfig

t = TransformerConfig(8, 2, 2, 16, norm="batch", dropout=0.1, layer_scale=0.1)
encoder = VisionTransformerConfig(t, (8, 8), (4, 4), pooling="none", registers=1)
config = EncoderDecoderConfig(encoder, DecoderConfig(t, vocabulary_size=5, max_length=6))
build = lambda rngs: config.build(rngs=rngs)
definition = functional.abstract(build)[0]
params, stats = jax.jit(lambda key: functional.initialize(build, key))(jax.random.key(0))
images, tokens = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("f"), np.ones((2, 4), "i")

@jax.jit
def step(params, stats, key):
    def loss(params):
        module = functional.merge(definition, params, stats)
        logits = module(images, tokens, train=True, key=key)
        return (logits**2).mean(), functional.stats_of(module)
    return jax.value_and_grad(loss, has_aux=True)(params)

@jax.jit
def decode(params, stats):
    module = functional.merge(definition, params, stats)
    cache = module.init_cache(module.encode(images, train=False), num_beams=2, max_length=4)
    first, cache = module.prefill(cache, tokens[:, :2])
    return first, module.step(cache, tokens[:, :2])

digest = hashlib.sha256()
paths = []
for path, leaf in jax.tree_util.tree_leaves_with_path((step(params, stats, jax.random.key(1)), decode(params, stats))):
    digest.update(np.asarray(leaf).tobytes())
    paths.append(jax.tree_util.keystr(path))
print(len(paths), digest.hexdigest(), hashlib.sha256("".join(paths).encode()).hexdigest())
"""


def test_graph_mode_changes_nothing() -> None:
    """NNX is to change its default (FLIP 5310): outputs, gradients and running statistics are the same bits."""
    children = [
        subprocess.Popen(
            [sys.executable, "-c", GRAPH_MODE],
            cwd=Path(__file__).parents[2],
            env={**os.environ, "NNX_GRAPH_MODE": mode},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for mode in ("true", "false")
    ]
    said = [child.communicate() for child in children]
    for child, (_, errors) in zip(children, said, strict=True):
        assert child.returncode == 0, errors
    (true, _), (false, _) = said
    assert true == false
    assert int(true.split()[0]) > 40


def test_wrong_params_are_refused() -> None:
    definition, params, _ = functional.split(nnx.Linear(2, 2, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError):
        functional.merge(definition, {"kernel": params["kernel"]})
