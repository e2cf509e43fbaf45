"""Checkpoints of the families with what the reference computes from them, and how far vitjax is from it.

The folders under tests/golden/weights are made by tests/golden/make.py; `tools/parity.py` makes more of the same form.
"""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vitjax.model import Model
from vitjax.nn.embeddings import PackedPatches
from vitjax.nn.functional import merge

WEIGHTS = Path(__file__).parents[1] / "golden" / "weights"
TOLERANCE = 1e-5


@dataclass(frozen=True)
class GoldenCase:
    """A folder as users have it, and beside it expected.npz and case.json."""

    folder: Path
    facts: dict[str, Any]
    expected: dict[str, np.ndarray]

    @classmethod
    def open(cls, folder: Path) -> "GoldenCase":
        with np.load(folder / "expected.npz", allow_pickle=False) as arrays:
            return cls(folder, json.loads((folder / "case.json").read_text()), dict(arrays))

    @property
    def path(self) -> Path:
        """What `vitjax.load` is given: the folder, or the one file of an .npz."""
        return self.folder / self.facts.get("load", "")

    @property
    def generates(self) -> dict[str, dict[str, Any]]:
        """Options of each `generated_<name>`, without those that hang on a rounding in the reference itself."""
        doubtful = self.facts.get("doubtful", ())
        options = self.facts.get("generate", {})
        return {name: each for name, each in options.items() if name not in doubtful}


def case_names() -> list[str]:
    return sorted(folder.name for folder in WEIGHTS.iterdir() if (folder / "case.json").is_file())


def errors(
    model: Model, case: GoldenCase, compiler_options: dict[str, Any] | None = None
) -> dict[str, float]:
    """Largest absolute difference of each array that the reference computed; infinite where shapes differ."""
    computed = {}
    for prefix in ("", "other_"):
        source = case.expected.get(f"{prefix}pixels", case.expected.get(f"{prefix}source"))
        if source is None:
            continue
        if model.writes:
            given = (source, case.expected["decoder_tokens"], case.expected.get(f"{prefix}source_mask"))
            program = _written.lower(model.definition, model.params, model.stats, *given)
        elif "spatial_shapes" in case.expected:
            given = (PackedPatches(source, case.expected["spatial_shapes"]),)
            program = _of_patches.lower(model.definition, model.params, model.stats, *given)
        else:
            given = (source,)
            head = "logits" in case.expected
            program = _classified.lower(model.definition, head, model.params, model.stats, *given)
        found = program.compile(compiler_options)(model.params, model.stats, *given)
        computed |= {f"{prefix}{name}": value for name, value in found.items()}
    return {
        name: difference(value, case.expected[name], case.expected)
        for name, value in computed.items()
        if name in case.expected
    }


def difference(ours: Any, theirs: np.ndarray, expected: dict[str, np.ndarray]) -> float:
    """Vectors of padded places in a source are nobody's, and not compared."""
    ours = np.asarray(ours)
    if ours.shape != theirs.shape:
        return np.inf
    distance = np.abs(ours.astype(np.float64) - theirs)
    for mask in (expected.get("source_mask"), expected.get("pixel_attention_mask")):
        if mask is not None and ours.ndim == 3 and mask.shape == ours.shape[:2]:
            distance = distance[mask]
    return float(np.nan_to_num(distance, nan=np.inf).max())


def differing_tokens(model: Model, case: GoldenCase, name: str) -> list[tuple[list[int], list[int]]]:
    """Of the sequences generated with the options of this name: those that are not the reference's, ours and theirs."""
    expected = case.expected
    out = model.generate(_source(expected), source_mask=expected.get("source_mask"), **case.generates[name])
    ours = np.asarray(out.tokens).reshape(-1, out.tokens.shape[-1])
    theirs = expected[f"generated_{name}"]
    if len(ours) != len(theirs):
        raise ValueError(f"{case.folder.name}: {len(ours)} sequences instead of {len(theirs)}")
    stops = model.generation.eos_token_id or ()
    rows = [
        tuple(without_filler(row.tolist(), stops) for row in pair) for pair in zip(ours, theirs, strict=True)
    ]
    return [row for row in rows if row[0] != row[1]]


def without_filler(tokens: list[int], stops: tuple[int, ...]) -> list[int]:
    """A sequence up to its end. transformers fills with EOS where the padding token is 0, vitjax with padding."""
    end = next((place for place, token in enumerate(tokens) if place and token in stops), len(tokens))
    return tokens[: end + 1]


def _source(expected: dict[str, np.ndarray]) -> np.ndarray:
    return expected["pixels"] if "pixels" in expected else expected["source"]


@partial(jax.jit, static_argnums=(0, 1))
def _classified(definition, head, params, stats, images) -> dict[str, Any]:
    """All in one program, where `Model.features` and `Model.logits` would be two."""
    module = merge(definition, params, stats)
    features = module.features(images, train=False)
    found = {"tokens": features.tokens, "pooled": features.pooled}
    return found | ({"logits": module(images, train=False)} if head else {})


@partial(jax.jit, static_argnums=0)
def _written(definition, params, stats, source, tokens, mask) -> dict[str, Any]:
    module = merge(definition, params, stats)
    encoded = module.encode(source, source_mask=mask, train=False)
    logits = module.decode(encoded, tokens, train=False).logits
    return {"encoder_tokens": encoded.tokens, "logits": logits}


@partial(jax.jit, static_argnums=0)
def _of_patches(definition, params, stats, patches) -> dict[str, Any]:
    """Images of any shape, cut into patches and padded (NaFlex)."""
    features = merge(definition, params, stats).features(patches, train=False)
    return {"tokens": features.tokens, "pooled": features.pooled}
