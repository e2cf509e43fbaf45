"""Scores against brute force: the interval by solving its definition, distances by the full table."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq

from vitjax.training.metrics import accuracy, character_error_rate, edit_distance, exact_match, share


def table_distance(a, b):
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1]


@pytest.mark.parametrize(("hits", "total"), [(1, 3), (90, 100), (351, 360), (1950, 2000), (5, 10_000)])
def test_interval_ends_are_where_the_observed_share_is_just_significant(hits, total):
    """Wilson's interval is the set of p whose score test |p_hat - p| / sqrt(p (1 - p) / n) does not reject."""
    result = share(hits, total)
    observed = hits / total

    def distance(p):
        return abs(observed - p) - 1.959963984540054 * np.sqrt(p * (1 - p) / total)

    assert result.value == observed
    np.testing.assert_allclose(result.low, brentq(distance, 1e-12, observed), atol=1e-9)
    np.testing.assert_allclose(result.high, brentq(distance, observed, 1 - 1e-12), atol=1e-9)


def test_interval_at_the_ends_and_published_value():
    assert share(0, 10).low == 0 and share(10, 10).high == 1
    assert 0.27 < share(0, 10).high < 0.28  # Brown, Cai, DasGupta 2001: 0.278
    assert str(share(90, 100)) == "90.00% [82.56%, 94.48%] of 100"


@given(total=st.integers(1, 10**6), data=st.data())
def test_interval_surrounds_the_value_and_mirrors(total, data):
    hits = data.draw(st.integers(0, total))
    result, mirrored = share(hits, total), share(total - hits, total)
    assert 0 <= result.low <= result.value <= result.high <= 1
    assert abs(result.low - (1 - mirrored.high)) < 1e-9


@pytest.mark.parametrize(("hits", "total"), [(0, 0), (3, 2), (-1, 2)])
def test_impossible_counts_are_refused(hits, total):
    with pytest.raises(ValueError, match="share needs"):
        share(hits, total)


def test_accuracy_leaves_fillers_out():
    predictions, labels = np.array([1, 2, 3, 4]), np.array([1, 2, 0, 4])
    assert accuracy(predictions, labels)[3:] == (3, 4)
    assert accuracy(predictions, labels, np.array([True, False, True, False]))[3:] == (1, 2)
    with pytest.raises(ValueError, match="shape"):
        accuracy(predictions, labels[:3])


def test_exact_match_and_error_rate():
    predictions, references = ["123", "", "99"], ["123", "4", "9"]
    assert exact_match(predictions, references)[3:] == (1, 3)
    assert character_error_rate(predictions, references) == pytest.approx(2 / 5)
    assert character_error_rate(["abcdef"], ["x"]) == 6
    with pytest.raises(ValueError, match="3 predictions for 2 references"):
        exact_match(predictions, references[:2])
    with pytest.raises(ValueError, match="empty"):
        character_error_rate(["a"], [""])


@given(st.text("abc", max_size=12), st.text("abc", max_size=12))
def test_distance_equals_the_table(a, b):
    assert edit_distance(a, b) == table_distance(a, b)


@given(st.text(max_size=150), st.text(max_size=150))
def test_distance_equals_the_table_for_long_unicode(a, b):
    assert edit_distance(a, b) == table_distance(a, b)


def test_two_thousand_lines_take_no_time():
    rng = np.random.default_rng(0)
    lines = ["".join(rng.choice(list("abcdefgh "), 80)) for _ in range(4000)]
    start = time.perf_counter()
    character_error_rate(lines[:2000], lines[2000:])
    assert time.perf_counter() - start < 2  # 0.15 s alone; the full table takes 20 s
