"""What counts as equal to the reference."""

import numpy as np
import pytest

from tests.weights.golden_cases import difference, without_filler
from tools.parity import SAME, Line, largest

GOOD = Line("vit", "transformers", 1e-6, None, 1e-5, same=3, sequences=3, written=SAME)


def test_a_good_line() -> None:
    assert GOOD.good
    assert GOOD.cells() == ("vit", "1.0e-06", "", "1.0e-05", "3 of 3", SAME, "transformers")


@pytest.mark.parametrize(
    "change", ({"hidden": 1.1e-5}, {"other": np.inf}, {"same": 2}, {"written": "other logits"})
)
def test_a_bad_line(change: dict) -> None:
    assert not Line(**(vars(GOOD) | change)).good


def test_difference() -> None:
    theirs = np.zeros((1, 3, 2), np.float32)
    ours = np.zeros((1, 3, 2), np.float32)
    ours[0, 2] = 4
    assert difference(ours, theirs, {}) == 4
    assert difference(ours, theirs, {"source_mask": np.array([[True, True, False]])}) == 0
    assert difference(ours[:, :2], theirs, {}) == np.inf
    assert difference(np.full_like(ours, np.nan), theirs, {}) == np.inf
    assert largest({"tokens": 1.0, "logits": 2.0}, "tokens", "pooled") == 1.0
    assert largest({"logits": 2.0}, "tokens") is None


def test_filler_is_not_compared() -> None:
    assert without_filler([2, 5, 2, 1, 1], (2,)) == [2, 5, 2]  # the first token is the prompt
    assert without_filler([2, 5, 6], (2,)) == [2, 5, 6]
