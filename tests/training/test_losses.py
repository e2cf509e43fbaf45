"""Losses against NumPy in float64 and against the properties that sharding and accumulation rest on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads
from scipy.special import log_softmax

from vitjax.training.losses import (
    LossSum,
    one_hot,
    sigmoid_cross_entropy,
    softmax_cross_entropy,
    token_cross_entropy,
)

B, K = 6, 5
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(B, K)).astype(np.float32) * 3
LABELS = RNG.integers(0, K, B).astype(np.int32)
SOFT = RNG.dirichlet(np.ones(K), B).astype(np.float32)


def reference_softmax(logits, targets, smoothing):
    targets = (1 - smoothing) * targets + smoothing / targets.shape[-1]
    return -np.sum(targets * log_softmax(logits.astype(np.float64), axis=-1), axis=-1)


def reference_sigmoid(logits, targets):
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    return -np.mean(targets * np.log(p) + (1 - targets) * np.log1p(-p), axis=-1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_softmax_equals_the_formula(smoothing):
    hard = softmax_cross_entropy(jnp.array(LOGITS), jnp.array(LABELS), label_smoothing=smoothing)
    expected = reference_softmax(LOGITS, np.eye(K)[LABELS], smoothing).sum()
    np.testing.assert_allclose(hard.total, expected, rtol=1e-6)
    assert (hard.count, hard.bad_labels) == (B, 0)

    soft = softmax_cross_entropy(jnp.array(LOGITS), jnp.array(SOFT), label_smoothing=smoothing)
    np.testing.assert_allclose(soft.total, reference_softmax(LOGITS, SOFT, smoothing).sum(), rtol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_sigmoid_equals_the_formula(smoothing):
    def smooth(targets):
        return (1 - smoothing) * targets + smoothing / K

    hard = sigmoid_cross_entropy(jnp.array(LOGITS), jnp.array(LABELS), label_smoothing=smoothing)
    expected = reference_sigmoid(LOGITS, smooth(np.eye(K)[LABELS])).sum()
    np.testing.assert_allclose(hard.total, expected, rtol=1e-6)
    soft = sigmoid_cross_entropy(jnp.array(LOGITS), jnp.array(SOFT), label_smoothing=smoothing)
    np.testing.assert_allclose(soft.total, reference_sigmoid(LOGITS, smooth(SOFT)).sum(), rtol=1e-6)


def test_sigmoid_multi_hot_counts_each_mixed_class_as_present():
    mixed = 0.3 * np.eye(K, dtype=np.float32)[[1]] + 0.7 * np.eye(K, dtype=np.float32)[[4]]
    loss = sigmoid_cross_entropy(jnp.array(LOGITS[:1]), jnp.array(mixed), multi_hot=True)
    np.testing.assert_allclose(loss.total, reference_sigmoid(LOGITS[:1], mixed > 0).sum(), rtol=1e-6)


def test_large_logits_stay_finite():
    logits = jnp.array([[1e4, -1e4, 0.0]])
    for loss in (softmax_cross_entropy, sigmoid_cross_entropy):
        assert np.isfinite(loss(logits, jnp.array([1])).total)
    np.testing.assert_allclose(softmax_cross_entropy(logits, jnp.array([1])).total, 2e4)


def test_bfloat16_logits_are_reduced_in_float32():
    logits = jnp.array(LOGITS, jnp.bfloat16)
    expected = reference_softmax(np.asarray(logits, np.float32), np.eye(K)[LABELS], 0).sum()
    result = softmax_cross_entropy(logits, jnp.array(LABELS))
    assert result.total.dtype == jnp.float32
    np.testing.assert_allclose(result.total, expected, rtol=1e-6)


@pytest.mark.parametrize("loss", [softmax_cross_entropy, sigmoid_cross_entropy])
@pytest.mark.parametrize("bad", [-1, -100, K, 2**31 - 1])
def test_labels_outside_the_classes_are_counted_and_never_trained(loss, bad):
    labels = LABELS.copy()
    labels[2] = bad
    keep = np.arange(B) != 2
    others = loss(jnp.array(LOGITS[keep]), jnp.array(LABELS[keep]))

    def total(logits, labels):
        return loss(logits, labels).total

    for given_labels in (jnp.array(labels), one_hot(jnp.array(labels), K)):
        result = jax.jit(loss)(jnp.array(LOGITS), given_labels)
        np.testing.assert_allclose(result.total, others.total, rtol=1e-6)
        assert (result.count, result.bad_labels) == (B - 1, 1)
        gradient = np.asarray(jax.jit(jax.grad(total))(jnp.array(LOGITS), given_labels))
        assert np.all(gradient[2] == 0) and np.all(np.isfinite(gradient)) and np.any(gradient[3] != 0)


@pytest.mark.parametrize("row", [[np.nan, 0, 0, 0, 0], [-0.5, 1.5, 0, 0, 0], [np.inf, 0, 0, 0, 0]])
def test_soft_labels_that_are_no_shares_are_bad(row):
    soft = SOFT.copy()
    soft[1] = row
    for loss in (softmax_cross_entropy, sigmoid_cross_entropy):
        result = loss(jnp.array(LOGITS), jnp.array(soft))
        assert (result.count, result.bad_labels) == (B - 1, 1)
        assert np.isfinite(result.total)


def test_fillers_do_not_count_whatever_they_hold():
    logits, labels = LOGITS.copy(), LABELS.copy()
    logits[4:] = np.nan
    labels[4:] = -1
    mask = jnp.arange(B) < 4
    result = softmax_cross_entropy(jnp.array(logits), jnp.array(labels), weights=mask)
    whole = softmax_cross_entropy(jnp.array(LOGITS[:4]), jnp.array(LABELS[:4]))
    np.testing.assert_allclose(result.total, whole.total, rtol=1e-6)
    assert (result.count, result.bad_labels) == (4, 0)


def test_weights_scale_items():
    weights = RNG.uniform(0, 2, B).astype(np.float32)
    result = softmax_cross_entropy(jnp.array(LOGITS), jnp.array(LABELS), weights=jnp.array(weights))
    each = reference_softmax(LOGITS, np.eye(K)[LABELS], 0)
    np.testing.assert_allclose(result.total, np.sum(weights * each), rtol=1e-6)
    np.testing.assert_allclose(result.mean, np.sum(weights * each) / np.sum(weights), rtol=1e-6)


def test_mean_of_nothing_is_zero():
    nothing = softmax_cross_entropy(jnp.array(LOGITS), jnp.array(LABELS), weights=jnp.zeros(B))
    assert nothing.mean == 0


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_tokens_ignore_padding(smoothing):
    logits = RNG.normal(size=(3, 4, 7)).astype(np.float32)
    labels = np.array([[3, 2, 0, 0], [6, 5, 4, 2], [1, 0, 0, 0]], np.int32)
    each = reference_softmax(logits, np.eye(7)[labels], smoothing)
    result = token_cross_entropy(jnp.array(logits), jnp.array(labels), label_smoothing=smoothing)
    np.testing.assert_allclose(result.total, each[labels != 0].sum(), rtol=1e-6)
    assert (result.count, result.bad_labels) == (7, 0)

    changed = logits.copy()
    changed[labels == 0] = 1e3
    again = token_cross_entropy(jnp.array(changed), jnp.array(labels), label_smoothing=smoothing)
    assert again.total == result.total

    masked = token_cross_entropy(jnp.array(logits), jnp.array(labels), weights=jnp.array([True, False, True]))
    assert masked.count == 3


def test_tokens_outside_the_vocabulary_are_counted():
    labels = jnp.array([[3, -1, 7, 0]])
    result = token_cross_entropy(jnp.zeros((1, 4, 7)), labels)
    assert (result.count, result.bad_labels) == (1, 2)
    np.testing.assert_allclose(result.total, np.log(7), rtol=1e-6)


def test_a_sequence_ends_with_its_first_stop_token():
    """Padding may be the stop token, and 0 a token like others."""
    logits = RNG.normal(size=(3, 4, 7)).astype(np.float32)
    labels = np.array([[3, 5, 5, 5], [0, 6, 4, 2], [5, 0, 1, 6]], np.int32)
    real = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0]], bool)
    each = reference_softmax(logits, np.eye(7)[labels], 0.1)
    result = token_cross_entropy(jnp.array(logits), jnp.array(labels), stop_ids=(5, 6), label_smoothing=0.1)
    np.testing.assert_allclose(result.total, each[real].sum(), rtol=1e-6)
    assert (result.count, result.bad_labels) == (5, 0)


def test_pad_id_is_the_callers():
    result = token_cross_entropy(jnp.zeros((1, 3, 7)), jnp.array([[0, 6, 6]]), pad_id=6)
    assert result.count == 1


@settings(max_examples=10)
@given(split=st.integers(0, B), smoothing=st.sampled_from([0.0, 0.2]), soft=st.booleans())
def test_sums_of_parts_are_the_sum_of_the_whole(split, smoothing, soft):
    labels = jnp.array(SOFT if soft else LABELS)
    for loss in (softmax_cross_entropy, sigmoid_cross_entropy):
        whole = loss(jnp.array(LOGITS), labels, label_smoothing=smoothing)
        parts = [
            loss(jnp.array(LOGITS)[part], labels[part], label_smoothing=smoothing)
            for part in (slice(None, split), slice(split, None))
        ]
        merged = jax.tree.map(jnp.add, *parts)
        assert isinstance(merged, LossSum)
        np.testing.assert_allclose(merged.total, whole.total, rtol=2e-6)
        assert merged.count == whole.count


@pytest.mark.parametrize("loss", [softmax_cross_entropy, sigmoid_cross_entropy])
@pytest.mark.parametrize("labels", [LABELS, SOFT], ids=["hard", "soft"])
def test_gradients(loss, labels):
    def total(logits):
        return loss(jnp.asarray(logits), jnp.array(labels), label_smoothing=0.1).total

    check_grads(total, (jnp.array(LOGITS),), order=1, modes=["rev"], rtol=1e-2, atol=1e-2)
    if loss is softmax_cross_entropy:
        targets = np.eye(K)[labels] if labels is LABELS else labels
        expected = np.exp(log_softmax(LOGITS.astype(np.float64), axis=-1)) - (0.9 * targets + 0.1 / K)
        np.testing.assert_allclose(jax.grad(total)(jnp.array(LOGITS)), expected, atol=1e-6)


def test_one_hot_marks_bad_labels():
    rows = np.asarray(one_hot(jnp.array([0, 2, 3, -1]), 3))
    np.testing.assert_array_equal(rows[:2], [[1, 0, 0], [0, 0, 1]])
    assert np.all(np.isnan(rows[2:]))
