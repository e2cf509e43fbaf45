"""Scores of a model on a held-out split."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from vitjax.data.tokenizers import Tokenizer
from vitjax.decoding.config import GenerationConfig
from vitjax.decoding.generate import generate
from vitjax.decoding.spread import place_params
from vitjax.nn.functional import Tree, merge
from vitjax.parallel.sharding import replicated
from vitjax.training.config import Config
from vitjax.training.losses import LossSum
from vitjax.training.metrics import Share, accuracy, character_error_rate, exact_match
from vitjax.training.tasks import is_classifier, loss_function, predict_classes, source_of

Batch = dict[str, Any]


@dataclass(frozen=True)
class Evaluation:
    """What a model scored.

    Attributes:
      loss: mean over examples (classes) or tokens (sequences), without label smoothing.
      accuracy: of classes, or None.
      exact_match, character_error_rate: of sequences, or None.
      predictions, references: text of every example, or class numbers.
    """

    loss: float
    accuracy: Share | None = None
    exact_match: Share | None = None
    character_error_rate: float | None = None
    predictions: list[Any] = field(default_factory=list)
    references: list[Any] = field(default_factory=list)

    def scalars(self) -> dict[str, float]:
        """The scores as numbers, for a log."""
        scores: dict[str, float] = {"loss": self.loss}
        if self.accuracy is not None:
            scores["accuracy"] = self.accuracy.value
        if self.exact_match is not None:
            scores["exact_match"] = self.exact_match.value
        if self.character_error_rate is not None:
            scores["character_error_rate"] = self.character_error_rate
        return scores


def evaluate(
    config: Config,
    definition: nnx.GraphDef,
    params: Tree,
    stats: Tree,
    batches: Iterable[Batch],
    *,
    mesh: Mesh,
    tokenizer: Tokenizer | None = None,
    generation: GenerationConfig | None = None,
) -> Evaluation:
    """Score a classifier by its likeliest class, a sequence model by what it writes without being told the past.

    Args:
      batches: device batches with a `mask` [B] that is False for fillers.
      tokenizer: of the sequences; needed for sequence models.
      generation: how to decode; `config.generation` if None.
    """
    loss = _Loss()
    if is_classifier(config):
        predicted, expected, real = [], [], []
        for batch in batches:
            sums, classes = _classify(config, definition, mesh, params, stats, batch)
            loss.add(sums)
            predicted.append(np.asarray(classes))
            expected.append(_on_host(batch["label"], mesh))
            real.append(_on_host(batch["mask"], mesh))
        kept = np.concatenate(real)
        p, e = np.concatenate(predicted)[kept], np.concatenate(expected)[kept]
        return Evaluation(loss.mean, accuracy=accuracy(p, e), predictions=p.tolist(), references=e.tolist())
    if tokenizer is None:
        raise ValueError("evaluating a sequence model needs its tokenizer")
    predictions, references = [], []
    whole, whole_stats = place_params(params, mesh), place_params(stats, mesh)
    for batch in batches:
        loss.add(_teacher_forced(config, definition, mesh, params, stats, batch))
        source, source_mask = _source(config, mesh, batch)
        sequences = generate(
            definition,
            whole,
            source,
            source_mask=source_mask,
            stats=whole_stats,
            config=generation or config.generation,
            mesh=mesh,
        )
        kept = _on_host(batch["mask"], mesh)
        predictions += tokenizer.decode_batch(_on_host(sequences.tokens, mesh)[:, 0][kept])
        references += tokenizer.decode_batch(_on_host(batch["tokens"], mesh)[kept])
    return Evaluation(
        loss.mean,
        exact_match=exact_match(predictions, references),
        character_error_rate=character_error_rate(predictions, references),
        predictions=predictions,
        references=references,
    )


def make_generation(config: GenerationConfig, num_beams: int | None) -> GenerationConfig:
    """The run's way of decoding with another number of beams; None leaves it."""
    return config if num_beams is None else replace(config, num_beams=num_beams)


class _Loss:
    """Sums over batches; read once at the end, so that no batch waits for the host."""

    def __init__(self) -> None:
        self.sums: list[LossSum] = []

    def add(self, sums: LossSum) -> None:
        self.sums.append(sums)

    @property
    def mean(self) -> float:
        total = sum(float(s.total) for s in self.sums)
        return total / max(sum(float(s.count) for s in self.sums), 1.0)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _classify(config: Config, definition: nnx.GraphDef, mesh: Mesh, params: Tree, stats: Tree, batch: Batch):
    model = merge(definition, params, stats)
    sums = loss_function(config, model, batch, train=False, key=None)
    return _everywhere((sums, predict_classes(config, model, batch)), mesh)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _teacher_forced(
    config: Config, definition: nnx.GraphDef, mesh: Mesh, params: Tree, stats: Tree, batch: Batch
):
    model = merge(definition, params, stats)
    return _everywhere(loss_function(config, model, batch, train=False, key=None), mesh)


@partial(jax.jit, static_argnums=(0, 1))
def _source(config: Config, mesh: Mesh, batch: Batch):
    return source_of(config, batch)


def _everywhere(tree: Any, mesh: Mesh) -> Any:
    return jax.lax.with_sharding_constraint(tree, replicated(mesh))


def _on_host(x: jax.Array, mesh: Mesh) -> np.ndarray:
    """The whole of a sharded array, in every process."""
    if not isinstance(x, jax.Array) or x.is_fully_addressable:
        return np.asarray(x)
    gather: Callable[[jax.Array], jax.Array] = jax.jit(lambda a: a, out_shardings=replicated(mesh))
    return np.asarray(gather(x))
