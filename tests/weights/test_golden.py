"""Checkpoints of every family give what transformers and timm give (golden/weights, made by golden/make.py)."""

import pytest

import vitjax
from tests.weights.golden_cases import TOLERANCE, WEIGHTS, GoldenCase, case_names, differing_tokens, errors

# Compiles in a third of the time; `make parity` measures the program as users run it.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


@pytest.mark.parametrize("name", case_names())
def test_same_numbers(name: str) -> None:
    """Hidden states and logits, at the size of the checkpoint and at another; and the family's own generation."""
    case = GoldenCase.open(WEIGHTS / name)
    model = vitjax.load(case.path)
    found = errors(model, case, QUICK)
    compared = {key for key in case.expected if key.endswith(("tokens", "pooled", "logits"))} - {
        "decoder_tokens"
    }
    assert set(found) == compared
    assert all(error <= TOLERANCE for error in found.values()), found
    if model.writes:
        assert not differing_tokens(model, case, "own")


def test_of_one_size_on_disk() -> None:
    """Golden files stay small."""
    size = sum(
        file.stat().st_size
        for file in WEIGHTS.parent.rglob("*")
        if file.suffix not in (".py", ".pyc") and file.is_file()
    )
    assert size <= 5e6
