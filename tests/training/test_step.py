import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.training.runs import TRANSFORMER, classifier, noise, residual, train, transcriber, translator
from vitjax.parallel.mesh import MeshConfig, make_mesh
from vitjax.training.mixing import MixingConfig
from vitjax.training.optimizer import OptimizerConfig
from vitjax.training.state import evaluated, init_state, make_setup
from vitjax.training.step import make_train_step

FAMILIES = [classifier, residual, transcriber, translator]


def distance(a, b) -> float:
    return max(
        float(jnp.max(jnp.abs(x - y))) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_is_learned_by_heart(family):
    config = family(steps=60)
    rate = 2e-2 if family is residual else 3e-3
    config = dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, learning_rate=rate))
    _, metrics = train(config, steps=60, batch=noise(config))
    assert metrics[-1]["loss"] < 0.6 * metrics[0]["loss"]


@pytest.mark.parametrize(
    ("family", "mesh"),
    [
        (classifier, "data=8"),
        (classifier, "fsdp=8,data=1"),
        (classifier, "tensor=8,data=1"),
        (transcriber, "tensor=8,data=1"),
        (transcriber, "data=2,fsdp=2,tensor=2"),
    ],
)
def test_same_loss_on_any_mesh(family, mesh):
    _, alone = train(family(), "data=1")
    state, split = train(family(), mesh)
    np.testing.assert_allclose([m["loss"] for m in split], [m["loss"] for m in alone], rtol=0, atol=1e-5)
    spread = {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(state.params)}
    assert spread == {8}
    if mesh != "data=8":
        kernel = next(
            x for x in jax.tree.leaves(state.params) if x.ndim == 4 and x.shape[0] == TRANSFORMER.depth
        )
        assert kernel.addressable_shards[0].data.size < kernel.size


@pytest.mark.parametrize(("family", "mesh"), [(classifier, "data=1"), (transcriber, "data=2")])
def test_accumulated_parts_equal_one_batch(family, mesh):
    # plain SGD: Adam magnifies rounding where gradients vanish, as those of key biases do
    sgd = OptimizerConfig("sgd", learning_rate=0.1)
    whole, one = train(dataclasses.replace(family(), optimizer=sgd), mesh)
    parts, four = train(dataclasses.replace(family(accumulate=4), optimizer=sgd), mesh)
    np.testing.assert_allclose([m["loss"] for m in four], [m["loss"] for m in one], atol=1e-5)
    np.testing.assert_allclose(
        [m["gradient_norm"] for m in four], [m["gradient_norm"] for m in one], rtol=1e-4
    )
    assert distance(parts.params, whole.params) < 1e-6


def test_accumulated_batch_norm_sees_every_part():
    whole, _ = train(residual(), steps=1)
    parts, _ = train(residual(accumulate=4), steps=1)
    fresh = init_state(make_setup(residual(), make_mesh(MeshConfig(), jax.devices()[:1])))
    assert distance(whole.stats, fresh.stats) > 1e-3
    # four updates of momentum 0.9 move further than one
    moved = [distance(state.stats, fresh.stats) for state in (whole, parts)]
    assert moved[1] > 2 * moved[0]


def test_frozen_parts_stay_and_have_no_optimizer_state():
    config = classifier(freeze=("patch_embedding/.*", "blocks/.*"), ema_decay=0.9)
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    fresh = init_state(make_setup(config, mesh))
    before = jax.tree.map(np.asarray, fresh.frozen)
    state, _ = train(config)
    assert set(state.params) == {"head", "norm", "positions"}
    assert set(state.frozen) == {"blocks", "patch_embedding"}
    assert set(state.ema) == set(state.params)
    assert distance(state.frozen, before) == 0
    names = {jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state.opt_state)}
    assert not any("blocks" in name for name in names)
    assert set(evaluated(config, state)) == {"blocks", "head", "norm", "patch_embedding", "positions"}


def test_average_lags_behind():
    config = classifier(ema_decay=0.99)
    state, _ = train(config, steps=5)
    fresh, _ = train(classifier(ema_decay=0.99), steps=0)
    toward = distance(state.ema, fresh.params)
    assert 0 < toward < distance(state.params, fresh.params)
    assert evaluated(config, state)["head"]["kernel"] is state.ema["head"]["kernel"]


def test_state_is_donated_and_compiled_once():
    config = classifier()
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    setup = make_setup(config, mesh)
    update = make_train_step(setup, mesh)
    first = init_state(setup)
    second, _ = update(first, noise(config))
    update(second, noise(config, 1))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(first.params))
    assert update._cache_size() == 1


def test_labels_outside_the_classes_are_counted_not_trained():
    config = classifier()
    good = noise(config)
    for bad_label in (-1, 10):
        bad = {**good, "label": good["label"].copy()}
        bad["label"][3] = bad_label
        _, metrics = train(config, steps=1, batch=bad)
        assert metrics[0]["bad_labels"] == 1
        assert np.isfinite(metrics[0]["loss"])
    _, metrics = train(config, steps=1, batch=good)
    assert metrics[0]["bad_labels"] == 0


def test_bfloat16_computes_but_parameters_stay_float32():
    t = dataclasses.replace(TRANSFORMER, dtype="bfloat16")
    state, low = train(classifier(t))
    _, full = train(classifier())
    assert {leaf.dtype for leaf in jax.tree.leaves((state.params, state.stats))} == {jnp.dtype("float32")}
    np.testing.assert_allclose([m["loss"] for m in low], [m["loss"] for m in full], rtol=0.02)
    assert [m["loss"] for m in low] != [m["loss"] for m in full]


@pytest.mark.parametrize("remat", ["full", "dots"])
def test_recomputing_changes_nothing(remat):
    _, kept = train(transcriber())
    _, recomputed = train(transcriber(dataclasses.replace(TRANSFORMER, remat=remat)))
    np.testing.assert_allclose([m["loss"] for m in recomputed], [m["loss"] for m in kept], atol=1e-5)


def test_dropout_differs_by_step_and_repeats_by_seed():
    t = dataclasses.replace(TRANSFORMER, dropout=0.3, attention_dropout=0.1, stochastic_depth=0.2)
    config = classifier(t)
    still = dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, learning_rate=1e-12))
    # the head starts at zero, so its loss says nothing of dropout; the gradient norm does
    _, a = train(still, batch=noise(config))
    _, b = train(still, batch=noise(config))
    norms = [m["gradient_norm"] for m in a]
    assert len(set(map(float, norms))) == 3
    assert norms == [m["gradient_norm"] for m in b]


def test_mixing_and_sigmoid_loss_train():
    config = classifier(loss="sigmoid")
    config = dataclasses.replace(config, mixing=MixingConfig(mixup=0.8, cutmix=1.0))
    plain = dataclasses.replace(config, mixing=MixingConfig())
    _, mixed = train(config)
    _, unmixed = train(plain)
    assert np.isfinite([m["loss"] for m in mixed]).all()
    assert mixed[0]["gradient_norm"] != unmixed[0]["gradient_norm"]
