"""How a run starts from a checkpoint: which of its parameters are taken, which begin anew, and the first state."""

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from pydantic import TypeAdapter

from vitjax.data.tokenizers import Tokenizer
from vitjax.models.config import ModelConfig, image_encoder, reads_images
from vitjax.models.vit import VisionTransformerConfig
from vitjax.nn import functional
from vitjax.nn.functional import Tree, merge
from vitjax.parallel.paths import matching, named_leaves, nested
from vitjax.parallel.processes import is_primary
from vitjax.training.config import Config, InitConfig, parse
from vitjax.training.pretrained import Pretrained
from vitjax.training.reading import describe, fingerprint, read, tokenizer_of
from vitjax.training.state import Setup, TrainState, init_state
from vitjax.training.tasks import is_classifier
from vitjax.training.tokenizer_file import load_tokenizer

NAME = "init.json"


@dataclass(frozen=True)
class Selection:
    """What a run makes of a checkpoint: paths of parameters, and fields of the model.

    Attributes:
      taken: from the checkpoint; `resampled`: of them, for another image size.
      new: of the run's model, starting anew; `left`: of the checkpoint, in no use.
      changed: fields of the model with their values, here and there.
    """

    taken: tuple[str, ...]
    resampled: tuple[str, ...]
    new: tuple[str, ...]
    left: tuple[str, ...]
    changed: tuple[str, ...]


@dataclass(frozen=True)
class Start:
    """Where a run started from; `fingerprint` has 16 hexadecimal digits that tell those arrays from others.

    It is kept as `init.json` in the run's directory: nothing but the first step needs the checkpoint.
    """

    pretrained: Pretrained
    part: str
    fingerprint: str
    selection: Selection

    @property
    def origin(self) -> str:
        """The checkpoint, for people."""
        return f"{self.part} of {self.pretrained.path}" if self.part else self.pretrained.path

    def lines(self) -> list[str]:
        """What was taken and what was not, for people."""
        selection = self.selection
        lines = [f"taken: {len(selection.taken)} arrays from {self.origin} ({self.fingerprint})"]
        for word, names in (
            ("new", selection.new),
            ("left there", selection.left),
            ("resampled", selection.resampled),
            ("model", selection.changed),
        ):
            if names:
                lines.append(f"{word}: {_listed(names)}")
        return lines


_ADAPTER = TypeAdapter(Start)


def save_start(directory: Path, start: Start | None) -> None:
    """Write `init.json`; a run that started at random has none."""
    if start is None:
        (directory / NAME).unlink(missing_ok=True)
    else:
        (directory / NAME).write_bytes(_ADAPTER.dump_json(start, indent=2) + b"\n")


def load_start(directory: str | Path) -> Start | None:
    """What `save_start` wrote, or None for a run that started at random; ValueError, one line, if it is damaged."""
    file = Path(directory) / NAME
    if not file.is_file():
        return None
    return parse(_ADAPTER, file.read_text(encoding="utf-8"), str(file))


def select(config: Config, pretrained: Pretrained) -> Selection:
    """Hold a run's model against the checkpoint's; nothing is read.

    Raises:
      ValueError: one line that names the first parameter that is missing, too much or of another shape, or a pattern
        of `init.new` that matches nothing, and says what to do.
    """
    ours, our_stats = _shapes(config.model)
    theirs, their_stats = _shapes(pretrained.model)
    patterns, path = config.init.new, pretrained.path
    for pattern in patterns:
        if not matching({*ours, *theirs}, [pattern]):
            raise ValueError(
                f"init.new: no parameter matches {pattern!r}; paths look like {next(iter(ours))!r}"
            )
    new, left = matching(ours, patterns), matching(theirs, patterns)
    resampled = jax.eval_shape(partial(_resampled, pretrained.model, config.model), *_trees(pretrained.model))
    theirs |= {name: shape for name, shape in resampled.items() if name not in new}
    for name in sorted(ours.keys() - new - theirs.keys()):
        raise ValueError(
            f"{path} has no {name}, which this run's model has: change the model, or start it anew with "
            f"--init.new {name}"
        )
    for name in sorted(theirs.keys() - left - ours.keys()):
        raise ValueError(
            f"{path} has {name}, which this run's model has not: change the model, or leave it out with "
            f"--init.new {name}"
        )
    for name in sorted(ours.keys() - new):
        if ours[name].shape != theirs[name].shape:
            raise ValueError(
                f"{path}: {name} is {list(theirs[name].shape)}, this run's model has {list(ours[name].shape)}: leave "
                f"the model's sizes as they are there, or start it anew with --init.new {name}"
            )
    if our_stats != their_stats:
        raise ValueError(
            f"{path}: its running statistics are not those of this run's model: change the model"
        )
    for pattern in config.train.freeze:
        if lost := matching(new, [pattern]):
            raise ValueError(
                f"train.freeze: {min(lost)} starts at random here and must be trained; narrow {pattern!r}"
            )
    return Selection(
        taken=tuple(name for name in ours if name not in new),
        resampled=tuple(name for name in resampled if name not in new),
        new=tuple(name for name in ours if name in new),
        left=tuple(name for name in theirs if name in left),
        changed=_changed(asdict(config.model), asdict(pretrained.model)),
    )


def require_same_start(stored: Start | None, init: InitConfig) -> None:
    """A resumed run must say what it started from."""
    was = "" if stored is None else stored.pretrained.path
    if was != init.checkpoint:
        raise ValueError(
            f"the run started from {was or 'random numbers'}, not from {init.checkpoint or 'random numbers'}: resume "
            "it with its --directory and without --init, or start a new run"
        )


def tokenizer_to_keep(config: Config, run: Path | None) -> Tokenizer | None:
    """The tokenizer that a model goes on with: its checkpoint's, or None for the dataset's own.

    Args:
      run: directory of a run that is resumed, which keeps it.
    """
    if not config.init.checkpoint or is_classifier(config):
        return None
    if run is not None:
        return load_tokenizer(run)
    tokenizer = tokenizer_of(describe(config.init.checkpoint))
    if tokenizer is None:
        raise ValueError(
            f"{config.init.checkpoint} has no tokenizer, without which its tokens mean nothing: put the files of its "
            "tokenizer beside its weights"
        )
    return tokenizer


def first_state(setup: Setup, mesh: Mesh) -> tuple[TrainState, Start | None]:
    """The state before the first step: at random, or of `init.checkpoint`, read straight to its places on the mesh."""
    config = setup.config
    if not config.init.checkpoint:
        return init_state(setup), None
    whole = describe(config.init.checkpoint)
    pretrained = whole.only(config.init.part)
    selection = select(config, pretrained)
    params, stats, step = read(pretrained, mesh)
    arrays = named_leaves(params)
    if selection.resampled:
        arrays |= jax.jit(_resampled, static_argnums=(0, 1))(pretrained.model, config.model, params, stats)
    state = init_state(setup, nested({name: arrays[name] for name in selection.taken}), stats)
    digits = fingerprint(whole, step) if is_primary() else ""
    return state, Start(whole, config.init.part, digits, selection)


def _resampled(source: ModelConfig, target: ModelConfig, params: Tree, stats: Tree) -> dict[str, jax.Array]:
    """Parameters of the source that depend on the image size, made for the target's, by path."""
    if not (reads_images(source) and reads_images(target)):
        return {}
    size = image_encoder(target)
    if not isinstance(image_encoder(source), VisionTransformerConfig) or not isinstance(
        size, VisionTransformerConfig
    ):
        return {}
    definition = functional.abstract(lambda rngs: source.build(rngs=rngs))[0]
    model = merge(definition, params, stats)
    if isinstance(source, VisionTransformerConfig):
        return model.resampled(size.image_size)
    tables = model.encoder.resampled(size.image_size)
    return {f"encoder/{name}": table for name, table in tables.items()}


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names) if len(names) <= 8 else f"{', '.join(names[:4])} and {len(names) - 4} more"


def _changed(ours: dict[str, Any], theirs: dict[str, Any], prefix: str = "") -> tuple[str, ...]:
    """Fields of two models of one kind that differ."""
    lines: list[str] = []
    for name, value in ours.items():
        there = theirs.get(name)
        if isinstance(value, dict) and isinstance(there, dict):
            lines += _changed(value, there, f"{prefix}{name}.")
        elif value != there:
            lines.append(f"{prefix}{name} {value} (there {there})")
    return tuple(lines)


def _trees(model: ModelConfig) -> tuple[Tree, Tree]:
    """Shapes of `params` and `stats`."""
    return functional.abstract(lambda rngs: model.build(rngs=rngs))[1:]


def _shapes(model: ModelConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    params, stats = _trees(model)
    return named_leaves(params), named_leaves(stats)
