"""Scores of an evaluation, on the host, each share with the interval that its sample size allows."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Z_95 = 1.959963984540054


class Share(NamedTuple):
    """A part of a whole with its 95 % Wilson interval."""

    value: float
    low: float
    high: float
    hits: int
    total: int

    def __str__(self) -> str:
        return f"{self.value:.2%} [{self.low:.2%}, {self.high:.2%}] of {self.total:,}"


def share(hits: int, total: int) -> Share:
    """hits / total with the Wilson score interval, which stays inside [0, 1] and is sound for few items and near 1."""
    if not 0 <= hits <= total or total == 0:
        raise ValueError(
            f"{hits} hits of {total}; a share needs at least one item and no more hits than items"
        )
    value, z2 = hits / total, Z_95**2
    centre = (value + z2 / (2 * total)) / (1 + z2 / total)
    spread = Z_95 / (1 + z2 / total) * math.sqrt(value * (1 - value) / total + z2 / (4 * total**2))
    # Rounding must not push an end past the value it surrounds.
    low, high = max(0.0, min(value, centre - spread)), min(1.0, max(value, centre + spread))
    return Share(value, low, high, hits, total)


def accuracy(predictions: np.ndarray, labels: np.ndarray, mask: np.ndarray | None = None) -> Share:
    """Share of equal entries of two integer arrays of one shape; entries whose mask is False are fillers."""
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    if predictions.shape != labels.shape:
        raise ValueError(
            f"predictions have shape {predictions.shape}, labels {labels.shape}; they must be equal"
        )
    real = np.ones(labels.shape, bool) if mask is None else np.asarray(mask, bool)
    return share(int(np.sum((predictions == labels) & real)), int(np.sum(real)))


def exact_match(predictions: Sequence[str], references: Sequence[str]) -> Share:
    """Share of strings that are right as a whole."""
    _same_number(predictions, references)
    return share(sum(p == r for p, r in zip(predictions, references, strict=True)), len(references))


def character_error_rate(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Edits that turn the predictions into the references, over all characters of the references; may exceed 1."""
    _same_number(predictions, references)
    length = sum(map(len, references))
    if length == 0:
        raise ValueError("all references are empty; a character error rate needs at least one character")
    return sum(edit_distance(p, r) for p, r in zip(predictions, references, strict=True)) / length


def edit_distance(a: str, b: str) -> int:
    """Levenshtein distance: insertions, deletions and substitutions.

    A column of the table is kept as bits of one integer (Myers 1999, in Hyyrö's form of 2003), so that each character
    of `b` costs a dozen integer operations, however long `a` is.
    """
    if not a or not b:
        return len(a) + len(b)
    places: dict[str, int] = {}
    for i, character in enumerate(a):
        places[character] = places.get(character, 0) | (1 << i)
    full = (1 << len(a)) - 1
    last = 1 << (len(a) - 1)
    up, down, distance = full, 0, len(a)  # bit i: the column rises / falls by one at row i
    for character in b:
        match = places.get(character, 0)
        diagonal = (((match & up) + up) ^ up) | match | down
        rise = down | (full & ~(diagonal | up))
        fall = up & diagonal
        distance += bool(rise & last) - bool(fall & last)
        rise = (rise << 1 | 1) & full
        fall = (fall << 1) & full
        up = fall | (full & ~(diagonal | rise))
        down = rise & diagonal
    return distance


def _same_number(predictions: Sequence[str], references: Sequence[str]) -> None:
    if len(predictions) != len(references):
        raise ValueError(
            f"{len(predictions)} predictions for {len(references)} references; give one for each"
        )
