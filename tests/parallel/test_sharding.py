import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from vitjax.models.decoder import DecoderConfig
from vitjax.models.encoder_decoder import EncoderDecoderConfig
from vitjax.models.vit import VisionTransformerConfig
from vitjax.nn import functional
from vitjax.nn.blocks import TransformerConfig
from vitjax.parallel.mesh import MeshConfig, make_mesh
from vitjax.parallel.paths import named_leaves
from vitjax.parallel.sharding import (
    TENSOR_DIMS,
    Rule,
    batch_sharding,
    explain,
    replicated,
    shardings,
    state_shardings,
)

D, H, C, F, V, L = 16, 4, 4, 32, 24, 3
SPLITS = ["data=8", "fsdp=8", "tensor=8", "data=2,fsdp=2,tensor=2", "fsdp=2,tensor=4", "data=4,tensor=2"]


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def attention():
    projection = {"kernel": shape(L, D, H, C), "bias": shape(L, H, C)}
    return {
        "query": projection,
        "key": projection,
        "value": projection,
        "out": {"kernel": shape(L, H, C, D), "bias": shape(L, D)},
    }


def parameters():
    """The paths and shapes the models promise."""
    return {
        "embedding": {"tokens": {"embedding": shape(V, D)}, "positions": {"embedding": shape(6, D)}},
        "blocks": {
            "attention": attention(),
            "cross_attention": attention(),
            "feed_forward": {
                "up": {"kernel": shape(L, D, F), "bias": shape(L, F)},
                "down": {"kernel": shape(L, F, D), "bias": shape(L, D)},
            },
            "norm": {"scale": shape(L, D)},
        },
        "head": {"kernel": shape(D, V), "bias": shape(V)},
    }


def specs(params, split):
    places = explain(params, make_mesh(MeshConfig.parse(split)))
    return {place.path: place.spec for place in places}, {place.path: place.reason for place in places}


def test_the_table_splits_heads_hidden_and_vocabulary_over_tensor_and_width_over_fsdp():
    found, _ = specs(parameters(), "data=2,fsdp=2,tensor=2")
    for module in ("attention", "cross_attention"):
        assert found[f"blocks/{module}/query/kernel"] == P(None, "fsdp", "tensor")
        assert found[f"blocks/{module}/key/bias"] == P(None, "tensor")
        assert found[f"blocks/{module}/out/kernel"] == P(None, "tensor", None, "fsdp")
        assert found[f"blocks/{module}/out/bias"] == P()
    assert found["blocks/feed_forward/up/kernel"] == P(None, "fsdp", "tensor")
    assert found["blocks/feed_forward/up/bias"] == P(None, "tensor")
    assert found["blocks/feed_forward/down/kernel"] == P(None, "tensor", "fsdp")
    assert found["blocks/norm/scale"] == P()
    assert found["embedding/tokens/embedding"] == P("tensor", "fsdp")
    assert found["embedding/positions/embedding"] == P(None, "fsdp")
    assert found["head/kernel"] == P("fsdp", "tensor")
    assert found["head/bias"] == P("tensor")


def test_without_a_tensor_axis_fsdp_still_takes_the_width():
    found, _ = specs(parameters(), "fsdp=8")
    assert found["blocks/attention/query/kernel"] == P(None, "fsdp")
    assert found["embedding/tokens/embedding"] == P(None, "fsdp")
    assert found["blocks/feed_forward/down/kernel"] == P(None, None, "fsdp")


def test_fsdp_takes_a_tensor_dimension_only_when_no_other_divides():
    found, _ = specs({"tokens": {"embedding": shape(24, 6)}}, "fsdp=8")
    assert found["tokens/embedding"] == P("fsdp")


def test_a_dimension_that_does_not_divide_stays_whole_and_says_so():
    found, reasons = specs(
        {"head": {"kernel": shape(D, 13)}, "x": {"kernel": shape(3, 5)}}, "fsdp=2,tensor=4"
    )
    assert found["head/kernel"] == P("fsdp")
    assert "vocabulary 13 not divisible by tensor=4: replicated" in reasons["head/kernel"]
    assert found["x/kernel"] == P()
    assert "dim 1 5 not divisible by fsdp=2: replicated" in reasons["x/kernel"]


def test_an_array_without_a_rule_splits_its_largest_dividing_dimension_but_never_the_layers():
    params = {
        "stem": {"conv0": {"kernel": shape(3, 3, 8, 16)}},
        "cell": {"input": {"kernel": shape(D, 4 * D)}},
        "blocks": {"other": {"kernel": shape(64, 6, 16)}},  # 64 layers: the largest, and not to be touched
        "stages": {"blocks": {"0": {"conv": {"kernel": shape(64, 16)}}}},  # not stacked: numbered
        "class_token": shape(1, 1, D),
    }
    found, reasons = specs(params, "data=4,fsdp=2")
    assert found["stem/conv0/kernel"] == P(None, None, None, "fsdp")
    assert found["cell/input/kernel"] == P(None, "fsdp")
    assert found["blocks/other/kernel"] == P(None, None, "fsdp")
    assert found["stages/blocks/0/conv/kernel"] == P("fsdp")
    assert found["class_token"] == P()
    assert "a vector" in reasons["class_token"]


def test_a_rule_about_another_rank_replicates_and_says_so():
    found, reasons = specs({"head": {"kernel": shape(2, 2, D, V)}}, "fsdp=8")
    assert found["head/kernel"] == P()
    assert "found 4 dimensions: replicated" in reasons["head/kernel"]


def test_rules_match_whole_components_only():
    assert Rule(r"head/kernel", None).matches("decoder/head/kernel")
    assert Rule(r"head/kernel", None).matches("head/kernel")
    assert not Rule(r"head/kernel", None).matches("overhead/kernel")
    assert not Rule(r"head/kernel", None).matches("head/kernel/x")


@pytest.mark.parametrize("split", SPLITS)
def test_every_array_of_the_real_models_has_a_place_it_can_take(split):
    t = TransformerConfig(width=16, depth=2, num_heads=8, feed_forward_width=32, layer_scale=0.1)
    text = DecoderConfig(t, vocabulary_size=13, max_length=8)
    image = VisionTransformerConfig(t, (8, 8), (4, 4), pooling="none")
    _, params, _ = functional.abstract(
        lambda rngs: EncoderDecoderConfig(encoder=image, decoder=text).build(rngs=rngs)
    )
    mesh = make_mesh(MeshConfig.parse(split))
    for place in explain(params, mesh):
        assert "is about" not in place.reason, place  # no rule was written for another rank
    for leaf, sharding in zip(jax.tree.leaves(params), jax.tree.leaves(shardings(params, mesh)), strict=True):
        sharding.shard_shape(leaf.shape)  # raises where a dimension does not divide
    tensor = mesh.shape["tensor"]
    split_over_tensor = [place.path for place in explain(params, mesh) if "tensor" in place.spec]
    kernels = [
        path for path in named_leaves(params) if path.endswith(("query/kernel", "out/kernel", "up/kernel"))
    ]
    assert (set(kernels) <= set(split_over_tensor)) == (tensor > 1)


@pytest.mark.parametrize("make", [optax.adamw, optax.lion, optax.adafactor, optax.sgd])
def test_optimizer_state_and_average_mirror_the_parameters(make):
    params = jax.tree.map(lambda s: jnp.zeros(s.shape), parameters())
    chain = optax.chain(optax.clip_by_global_norm(1.0), make(1e-3))
    state = jax.eval_shape(
        lambda p: {
            "params": p,
            "opt_state": chain.init(p),
            "ema": p,
            "step": jnp.int32(0),
            "key": jax.random.key(0),
        },
        params,
    )
    mesh = make_mesh(MeshConfig.parse("data=2,fsdp=2,tensor=2"))
    expected = {place.path: place for place in explain(params, mesh)}
    found = named_leaves(state_shardings(state, params, mesh))
    mirrored = 0
    for path, leaf in named_leaves(state).items():
        parameter = next((p for p in expected if path.endswith("/" + p)), None)
        if parameter is not None and leaf.shape == expected[parameter].shape:
            assert found[path].spec == expected[parameter].spec, path
            mirrored += path.startswith("opt_state")
        else:
            assert found[path].spec == P(), path
    if make in (optax.adamw, optax.lion):
        assert mirrored == len(expected) * (2 if make is optax.adamw else 1)


def test_the_longest_path_decides_which_parameter_is_mirrored():
    params = {"kernel": shape(16, 24), "x": {"head": {"kernel": shape(24, 16)}}}
    mesh = make_mesh(MeshConfig.parse("fsdp=2,tensor=4"))
    state = {"mu": params}
    found = named_leaves(state_shardings(state, params, mesh))
    assert found["mu/x/head/kernel"].spec == P("fsdp", "tensor")
    assert found["mu/kernel"].spec == P(None, "fsdp")


def block(params, x):
    """One attention and one feed-forward, as in the models: x [B, N, D]."""
    a, f = params["attention"], params["feed_forward"]
    query, key, value = (
        jnp.einsum("bnd,dhc->bnhc", x, a[name]["kernel"]) + a[name]["bias"]
        for name in ("query", "key", "value")
    )
    weights = jax.nn.softmax(jnp.einsum("bnhc,bmhc->bhnm", query, key))
    mixed = jnp.einsum("bhnm,bmhc->bnhc", weights, value)
    x = x + jnp.einsum("bnhc,hcd->bnd", mixed, a["out"]["kernel"]) + a["out"]["bias"]
    hidden = jax.nn.relu(jnp.einsum("bnd,df->bnf", x, f["up"]["kernel"]) + f["up"]["bias"])
    return x + jnp.einsum("bnf,fd->bnd", hidden, f["down"]["kernel"]) + f["down"]["bias"]


def concrete_block():
    keys = iter(jax.random.split(jax.random.key(0), 100))
    blocks = parameters()["blocks"]
    abstract = {"attention": blocks["attention"], "feed_forward": blocks["feed_forward"]}
    return jax.tree.map(lambda s: 0.3 * jax.random.normal(next(keys), s.shape[1:]), abstract)


def loss(params, x):
    return jnp.mean(block(params, x) ** 2)


@pytest.mark.parametrize("split", ["data=2,fsdp=2,tensor=2", "fsdp=8", "data=2,tensor=4"])
def test_a_sharded_step_is_the_unsharded_step(split):
    params = concrete_block()
    x = jax.random.normal(jax.random.key(0), (8, 5, D))
    mesh = make_mesh(MeshConfig.parse(split))
    places = shardings(params, mesh)
    step = jax.jit(jax.value_and_grad(loss), out_shardings=(replicated(mesh), places))
    value, grads = step(jax.device_put(params, places), jax.device_put(x, batch_sharding(mesh, 8)))
    expected, expected_grads = jax.jit(jax.value_and_grad(loss))(params, x)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), grads, expected_grads)


def test_tensor_parallel_needs_two_reductions_a_block():
    """Megatron's point: one all-reduce after attention, one after the feed-forward, nothing else."""
    params = concrete_block()
    mesh = make_mesh(MeshConfig(tensor=4), jax.devices()[:4])
    places = shardings(params, mesh)
    forward = jax.jit(block, in_shardings=(places, replicated(mesh)), out_shardings=replicated(mesh))
    program = forward.lower(params, jnp.zeros((8, 5, D))).compile().as_text()
    assert program.count(" all-reduce(") == 2
    assert not any(f" {other}(" in program for other in ("all-gather", "all-to-all", "reduce-scatter"))


def test_batch_sharding_counts_data_and_fsdp():
    mesh = make_mesh(MeshConfig.parse("data=2,fsdp=2,tensor=2"))
    assert batch_sharding(mesh, 8).shard_shape((8, 3)) == (2, 3)
    with pytest.raises(ValueError, match=r"batch size 10 is not a multiple of 4 .* choose 8 or another mesh"):
        batch_sharding(mesh, 10)


def test_the_table_names_only_dimensions_it_can_split():
    mesh = make_mesh(MeshConfig(tensor=8))
    arrays = {
        "query": {"kernel": shape(D, 8, C)},
        "up": {"kernel": shape(D, F)},
        "tokens": {"embedding": shape(V, D)},
    }
    used = {
        dim for place in explain(arrays, mesh) for dim in TENSOR_DIMS if f"{dim} over tensor" in place.reason
    }
    assert used == set(TENSOR_DIMS)
