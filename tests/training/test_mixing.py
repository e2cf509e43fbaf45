"""Mixup and CutMix: pixels against NumPy, labels against the pixels that were really taken."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax.training.losses import softmax_cross_entropy
from vitjax.training.mixing import MixingConfig, blend, cutmix_mask, mix, mixup_mask

B, H, W, K = 4, 6, 10, 3
LABELS = jnp.array([0, 1, 2, 1])
# Image i holds 10 * (i + 1) everywhere, so that a mixed pixel tells how it was made.
IMAGES = jnp.broadcast_to(10.0 * jnp.arange(1, B + 1)[:, None, None, None], (B, H, W, 2))


def run(seed, config, images=IMAGES, labels=LABELS):
    mixed, targets = jax.jit(mix, static_argnums=(3, 4))(jax.random.key(seed), images, labels, K, config)
    return np.asarray(mixed), np.asarray(targets)


def share_of(targets):
    """Weight of the own image, read from row 0 (class 0, neighbour class 1)."""
    np.testing.assert_allclose(targets[0, 0] + targets[0, 1], 1, rtol=1e-6)
    return targets[0, 0]


@pytest.mark.parametrize("seed", range(5))
def test_mixup_mixes_pixels_and_labels_in_one_proportion(seed):
    mixed, targets = run(seed, MixingConfig(mixup=0.8))
    share = share_of(targets)
    own, previous = np.asarray(IMAGES), np.roll(np.asarray(IMAGES), 1, axis=0)
    np.testing.assert_allclose(mixed, share * own + (1 - share) * previous, rtol=1e-5)
    hot = np.eye(K)[np.asarray(LABELS)]
    np.testing.assert_allclose(targets, share * hot + (1 - share) * np.roll(hot, 1, axis=0), rtol=1e-5)


@pytest.mark.parametrize("seed", range(8))
def test_cutmix_pastes_one_box_and_weighs_labels_by_its_area(seed):
    mixed, targets = run(seed, MixingConfig(cutmix=1.0))
    own, previous = np.asarray(IMAGES), np.roll(np.asarray(IMAGES), 1, axis=0)
    assert np.all((mixed == own) | (mixed == previous))
    pasted = (mixed != own)[0, :, :, 0]
    np.testing.assert_array_equal(np.broadcast_to(pasted[None, :, :, None], mixed.shape), mixed != own)
    rows, columns = np.any(pasted, axis=1), np.any(pasted, axis=0)
    np.testing.assert_array_equal(pasted, rows[:, None] & columns[None, :])
    for line in (rows, columns):
        assert np.count_nonzero(np.diff(line.astype(int))) <= 2, "a box is one run of rows and columns"
    np.testing.assert_allclose(share_of(targets), 1 - pasted.mean(), rtol=1e-5)


def test_cutmix_box_has_the_drawn_area_and_the_images_proportions():
    """Restates timm's rand_bbox; the box is centred anywhere, so only uncut ones show the size."""
    height, width = 40, 100
    keys = jax.random.split(jax.random.key(0), 400)
    masks = np.asarray(jax.jit(jax.vmap(lambda key: cutmix_mask(key, 1.0, height, width)))(keys))
    shares = jax.jit(jax.vmap(lambda key: jax.random.beta(jax.random.split(key, 3)[0], 1.0, 1.0)))(keys)
    centres = []
    for share, mask in zip(np.asarray(shares), masks, strict=True):
        ratio = np.sqrt(1 - share)
        rows, columns = np.flatnonzero(mask.min(axis=1) == 0), np.flatnonzero(mask.min(axis=0) == 0)
        if len(rows) and rows[0] > 0 and rows[-1] < height - 1 and columns[0] > 0 and columns[-1] < width - 1:
            centres.append((rows.mean(), columns.mean()))
            assert len(rows) == int(height * ratio) // 2 * 2
            assert len(columns) == int(width * ratio) // 2 * 2
    assert len(centres) > 50
    assert abs(np.corrcoef(np.transpose(centres))[0, 1]) < 0.4, "rows and columns are drawn apart"


def test_shares_follow_the_beta_distribution():
    keys = jax.random.split(jax.random.key(1), 4000)
    shares = np.asarray(jax.jit(jax.vmap(lambda key: mixup_mask(key, 0.8, 2, 3)[0, 0]))(keys))
    # Beta(a, a): mean 1/2, variance 1 / (4 (2a + 1)); the tolerances are about five standard errors.
    assert abs(shares.mean() - 0.5) < 0.025
    assert abs(shares.var() - 1 / (4 * 2.6)) < 0.008


def test_choice_between_both_and_probability():
    both = MixingConfig(mixup=0.8, cutmix=1.0, switch_probability=0.25, probability=0.6)
    kinds = {"none": 0, "box": 0, "mixup": 0}
    keys = jax.random.split(jax.random.key(0), 300)
    batches = jax.jit(jax.vmap(lambda key: mix(key, IMAGES, LABELS, K, both)[0]))(keys)
    for mixed in np.asarray(batches):
        levels = np.unique(mixed[1])
        if np.array_equal(mixed, np.asarray(IMAGES)):
            kinds["none"] += 1  # so do boxes without a pixel
        elif set(levels) <= {10.0, 20.0}:
            kinds["box"] += 1
        else:
            kinds["mixup"] += 1
    assert 100 <= kinds["none"] <= 160  # 120 expected, and some empty boxes
    assert 105 <= kinds["mixup"] <= 165  # 135 expected
    assert 20 <= kinds["box"] <= 60  # 45 expected


@pytest.mark.parametrize("config", [MixingConfig(), MixingConfig(mixup=0.8, cutmix=1.0, probability=0.0)])
def test_off_changes_nothing(config):
    mixed, targets = run(0, config)
    np.testing.assert_array_equal(mixed, IMAGES)
    np.testing.assert_array_equal(targets, np.eye(K)[np.asarray(LABELS)])


@pytest.mark.parametrize("dtype", ["uint8", "bfloat16", "float32"])
def test_dtype_is_kept(dtype):
    mixed, targets = run(3, MixingConfig(mixup=0.8), images=IMAGES.astype(dtype))
    assert mixed.dtype == jnp.dtype(dtype) and targets.dtype == np.float32


def test_uint8_is_rounded_to_nearest():
    images = jnp.array([0, 255], jnp.uint8).reshape(2, 1, 1, 1)
    mixed = blend(images, jnp.full((1, 1), 0.6))
    np.testing.assert_array_equal(np.asarray(mixed).ravel(), [102, 153])
    nearest = blend(jnp.array([0, 3], jnp.uint8).reshape(2, 1, 1, 1), jnp.full((1, 1), 0.4))
    np.testing.assert_array_equal(np.asarray(nearest).ravel(), [2, 1])  # 1.8 and 1.2


def test_one_key_one_result_another_key_another():
    config = MixingConfig(mixup=0.8, cutmix=1.0)
    np.testing.assert_array_equal(run(5, config)[0], run(5, config)[0])
    assert not np.array_equal(run(5, config)[1], run(6, config)[1])


@pytest.mark.parametrize("config", [MixingConfig(mixup=0.8), MixingConfig(cutmix=1.0), MixingConfig()])
def test_a_bad_label_is_not_hidden_by_mixing(config):
    _, targets = run(1, config, labels=jnp.array([0, 1, 5, 1]))
    result = softmax_cross_entropy(jnp.zeros((B, K)), jnp.array(targets))
    assert result.bad_labels == (2 if config.active else 1)  # its own row, and the row it was mixed into
    assert np.isfinite(result.total)


@pytest.mark.parametrize(
    "fields", [{"mixup": -1.0}, {"cutmix": -0.1}, {"probability": 1.5}, {"switch_probability": -1.0}]
)
def test_bad_config_is_refused(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        MixingConfig(**fields)
