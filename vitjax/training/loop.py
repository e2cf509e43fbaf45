"""The story of a run: plan, restore or start, step, log, evaluate, save."""

import math
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from vitjax.data.pipeline import EvalBatches
from vitjax.data.tokenizers import Tokenizer
from vitjax.parallel.mesh import make_mesh
from vitjax.parallel.processes import any_process, is_primary, process_count
from vitjax.parallel.sharding import batch_sharding
from vitjax.training.checkpoints import Checkpointer, SaveFailed, steps
from vitjax.training.config import Config, to_json
from vitjax.training.evaluation import Evaluation, evaluate
from vitjax.training.logging import MetricsLogger
from vitjax.training.signals import StopFlag
from vitjax.training.start import first_state, load_start, require_same_start, save_start, tokenizer_to_keep
from vitjax.training.state import Setup, TrainState, evaluated, make_setup
from vitjax.training.step import make_train_step
from vitjax.training.streams import RunData, eval_set, eval_stream, open_data, require_same_data, train_stream
from vitjax.training.tokenizer_file import save_tokenizer


@dataclass(frozen=True)
class Result:
    """How a run ended.

    Attributes:
      state: the last state, on the mesh.
      evaluation: of the last step; None if the run was stopped before it, or had been there already.
      train_seconds: of the whole run, evaluations and interruptions left out.
      stopped: the signal that stopped the run early (SIGTERM where another process got it), or None.
    """

    state: TrainState
    setup: Setup
    evaluation: Evaluation | None
    train_seconds: float
    stopped: signal.Signals | None


def fit(config: Config, directory: str | Path, *, resume: bool = False) -> Result:
    """Train as `config` says and write `config.json`, `metrics.jsonl`, TensorBoard and `checkpoints/` to `directory`.

    Every process of a multi-process run calls it with the same arguments.

    Args:
      resume: go on from the newest good checkpoint, bit for bit as if the run had not been interrupted.

    Raises:
      ValueError: the directory holds a run and `resume` is False; config, data and checkpoint do not fit together; a
        label is outside the classes.
      FloatingPointError: the loss is no longer finite.
    """
    directory = Path(directory)
    refuse_overwrite(directory, resume)
    mesh = make_mesh(config.mesh)
    check_batch(config, mesh)
    resuming = resume and any((directory / "checkpoints").glob("step_*"))
    data = open_data(config, tokenizer_to_keep(config, directory if resuming else None))
    setup = make_setup(config, mesh)
    with Checkpointer(directory / "checkpoints", keep=config.train.keep) as checkpoints:
        if resuming:
            start = load_start(directory)
            require_same_start(start, config.init)
            state, metadata = checkpoints.restore(setup.shapes)
            require_same_data(metadata["data"], data.fingerprint)
        else:
            state, start = first_state(setup, mesh)
            metadata = {"data": data.fingerprint, "train_seconds": 0.0}
        if is_primary():
            (directory / "config.json").write_text(to_json(config))
            save_start(directory, start)
            if data.tokenizer is not None:
                save_tokenizer(directory, data.tokenizer)
        lines = [] if resuming or start is None else start.lines()
        return _run(setup, state, mesh, data, directory, checkpoints, metadata, lines)


def _run(
    setup: Setup,
    state: TrainState,
    mesh: Mesh,
    data: RunData,
    directory: Path,
    checkpoints: Checkpointer,
    metadata: dict[str, Any],
    said_first: list[str],
) -> Result:
    train = setup.config.train
    start = int(state.step)
    update = make_train_step(setup, mesh)
    held_out = eval_set(setup.config, mesh, data.tokenizer)
    evaluation, stopped, seconds = None, None, metadata["train_seconds"]
    clock, bad_labels = time.perf_counter(), 0
    with (
        StopFlag() as stop,
        MetricsLogger(directory, train.steps, examples_per_step=train.batch_size, start_step=start) as logger,
        train_stream(setup.config, mesh, start, data) as batches,
    ):
        for line in said_first:
            logger.message(line)
        for step in range(start + 1, train.steps + 1):
            state, metrics = update(state, next(batches))
            bad_labels += metrics["bad_labels"]
            logger.advance(step)
            last = step == train.steps
            stopping = not last and _stops(stop, step, train.log_every)
            logging = last or step % train.log_every == 0
            saving = last or stopping or step % train.save_every == 0
            if logging or saving:  # what is saved has been looked at
                metrics = jax.device_get({**metrics, "bad_labels": bad_labels})
                refuse_bad(metrics, step, setup.config)
            if logging:
                logger.log(step, metrics)
            if last or (step % train.eval_every == 0 and not stopping):
                jax.block_until_ready(state)
                seconds += time.perf_counter() - clock
                with logger.paused("evaluating"):
                    evaluation = evaluate_state(setup, state, mesh, data.tokenizer, held_out)
                logger.log(step, evaluation.scalars(), phase="eval")
                clock = time.perf_counter()
            if saving:
                spent = seconds + time.perf_counter() - clock
                save(checkpoints, step, state, {"data": metadata["data"], "train_seconds": spent}, logger)
            if stopping:
                stopped, evaluation = stop.signal or signal.SIGTERM, None
                break
        seconds += time.perf_counter() - clock
    checkpoints.wait()
    return Result(state, setup, evaluation, seconds, stopped)


def save(
    checkpoints: Checkpointer, step: int, state: TrainState, metadata: dict[str, Any], logger: MetricsLogger
) -> None:
    """Save in the background. A save before this one that failed is told of and does not end the run."""
    try:
        checkpoints.save(step, state, metadata)
    except SaveFailed as failure:
        logger.message(str(failure))
        checkpoints.save(step, state, metadata)


def evaluate_state(
    setup: Setup,
    state: TrainState,
    mesh: Mesh,
    tokenizer: Tokenizer | None,
    held_out: EvalBatches | None = None,
) -> Evaluation:
    """Score the averaged parameters (or the trained ones if no average is kept) on the evaluation split."""
    config = setup.config
    params = evaluated(config, state)
    with eval_stream(config, mesh, held_out, tokenizer=tokenizer) as stream:
        return evaluate(config, setup.definition, params, state.stats, stream, mesh=mesh, tokenizer=tokenizer)


def _stops(stop: StopFlag, step: int, every: int) -> bool:
    """Whether to stop; processes agree every `every` steps, a single one looks at each."""
    if process_count() == 1:
        return bool(stop)
    return step % every == 0 and any_process(bool(stop))


def refuse_overwrite(directory: Path, resume: bool) -> None:
    """A run is never written over another one."""
    if not resume and (found := steps(directory / "checkpoints")):
        raise ValueError(
            f"{directory} already holds a run at step {max(found)}: continue it with --resume, "
            "or give another --name"
        )


def check_batch(config: Config, mesh: Mesh) -> None:
    """The batch, and each of its accumulated parts, must split over the mesh and the processes."""
    batch_sharding(mesh, config.train.batch_size // config.train.accumulate)
    if config.train.batch_size % process_count():
        raise ValueError(
            f"train.batch_size {config.train.batch_size} is not a multiple of {process_count()} processes"
        )


def refuse_bad(metrics: dict[str, Any], step: int, config: Config) -> None:
    """Stop at a label outside the classes, or at a loss or gradient that is no number."""
    if int(metrics["bad_labels"]):
        raise ValueError(
            f"step {step}: {int(metrics['bad_labels'])} labels of {config.data.name} are outside the model's classes"
        )
    for name in ("loss", "gradient_norm"):
        if not math.isfinite(metrics[name]):
            raise FloatingPointError(
                f"step {step}: the {name.replace('_', ' ')} is {float(metrics[name])}; earlier checkpoints are intact. "
                "Lower optimizer.learning_rate, set optimizer.clip_norm, or lengthen optimizer.warmup_steps"
            )
