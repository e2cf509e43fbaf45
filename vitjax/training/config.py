"""What a run is: one frozen dataclass, which a file in `configs/` returns and a run keeps as JSON."""

import difflib
import json
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from vitjax.data.config import DataConfig
from vitjax.decoding.config import GenerationConfig
from vitjax.models.config import CLASSIFIERS, ModelConfig, image_encoder, reads_images
from vitjax.models.encoder_decoder import EncoderDecoderConfig
from vitjax.parallel.mesh import MeshConfig
from vitjax.training.lora import LoraConfig
from vitjax.training.mixing import MixingConfig
from vitjax.training.optimizer import OptimizerConfig


@dataclass(frozen=True)
class InitConfig:
    """The checkpoint that a run starts from instead of from random numbers."""

    checkpoint: str = ""
    """A run of `vitjax train`, or whatever `vitjax.load` reads; empty for none. `--init DIR` sets it. It is read once:
    a run that is resumed does not need it."""
    part: str = ""
    """The part of the checkpoint's parameters that is the whole of this model: `encoder`; empty for all of them."""
    new: tuple[str, ...] = ()
    """Patterns of parameter paths that start anew, whether the checkpoint has them or not: `head/.*`. All others must
    be there, in the model's shapes, and nothing may be left over."""


@dataclass(frozen=True)
class TrainConfig:
    """How long, how much at once, and what is kept."""

    steps: int
    """Updates of the parameters."""
    batch_size: int
    """Examples an update sees, over all devices and processes."""
    seed: int = 0
    """Of the parameters, the order of the data, augmentation and dropout."""
    loss: Literal["softmax", "sigmoid"] = "softmax"
    """Of classifiers; `sigmoid` is one yes or no for each class (DeiT-III)."""
    label_smoothing: float = 0.0
    """Share of the target spread over all classes or tokens."""
    parallel_fraction: float = 0.0
    """Share of the examples, drawn at each step, whose tokens are predicted all at once from the source alone (CapPa,
    Tschannen et al. 2023: 0.75). The others, and every evaluation, read the tokens before. Needs a decoder with
    `parallel_prediction`."""
    accumulate: int = 1
    """Parts a batch is cut into, one after the other, where it does not fit into memory."""
    ema_decay: float = 0.0
    """Of the average of the parameters that is evaluated and decoded with; 0 keeps none."""
    freeze: tuple[str, ...] = ()
    """Patterns of parameter paths that stay as they are: `encoder/.*`, `.*/blocks/.*`."""
    log_every: int = 50
    """Steps between two lines of the metrics."""
    eval_every: int = 1000
    """Steps between two evaluations; there is always one at the end."""
    save_every: int = 1000
    """Steps between two checkpoints; there is always one at the end."""
    keep: int = 3
    """Checkpoints kept."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulate", "log_every", "eval_every", "save_every", "keep"):
            if getattr(self, name) < 1:
                raise ValueError(f"train.{name} is {getattr(self, name)}: expected at least 1")
        for name in ("label_smoothing", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"train.{name} is {getattr(self, name)}: expected 0 <= {name} < 1")
        if not 0 <= self.parallel_fraction <= 1:
            raise ValueError(
                f"train.parallel_fraction is {self.parallel_fraction}: expected 0 <= parallel_fraction <= 1"
            )
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"train.batch_size {self.batch_size} is not a multiple of train.accumulate {self.accumulate}"
            )


@dataclass(frozen=True)
class Config:
    """A whole run."""

    name: str
    """Where it is written: `runs/<name>`."""
    model: Annotated[ModelConfig, Field(discriminator="kind")]
    data: DataConfig
    train: TrainConfig
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    mixing: MixingConfig = field(default_factory=MixingConfig)
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    """How a sequence model is decoded when it is evaluated."""
    mesh: MeshConfig = field(default_factory=MeshConfig)
    init: InitConfig = field(default_factory=InitConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)

    def __post_init__(self) -> None:
        if self.mesh.beam != 1:
            raise ValueError(
                f"mesh beam={self.mesh.beam}: a run has no beams to split while it trains; give its devices to data, "
                "fsdp or tensor, and split beams with vitjax evaluate --mesh"
            )
        if self.mixing.active and not isinstance(self.model, CLASSIFIERS):
            raise ValueError("mixing blends classes: it needs a classifier, this model writes sequences")
        if self.lora.rank and not self.init.checkpoint:
            raise ValueError("lora.rank adapts a checkpoint, and this run starts from none: give --init DIR")
        if self.lora.rank and self.train.freeze:
            raise ValueError(
                "train.freeze has nothing to say under LoRA, which freezes all but its factors, new parameters and "
                "lora.whole: leave it out, or set lora.rank 0"
            )
        if self.train.parallel_fraction:
            _require_parallel(self.model)
        if reads_images(self.model):
            encoder = image_encoder(self.model)
            if encoder.channels != self.data.channels:
                raise ValueError(
                    f"the model reads images of {encoder.channels} channels, data.channels is {self.data.channels}: "
                    "set both to 1 (grey) or 3 (RGB)"
                )
            encoder.grid(self.data.image_size)  # raises if the patches do not divide it


def _require_parallel(model: ModelConfig) -> None:
    if not isinstance(model, EncoderDecoderConfig):
        why = "names classes" if isinstance(model, CLASSIFIERS) else "must read each token before the next"
        raise ValueError(
            f"train.parallel_fraction predicts all tokens of a text at once, but the model {model.kind} {why}: "
            "set it to 0, or use an encoder_decoder"
        )
    if not model.decoder.parallel_prediction:
        raise ValueError(
            "train.parallel_fraction needs a decoder with a mask token: set model.decoder.parallel_prediction"
        )


_ADAPTER = TypeAdapter(Config)


def to_json(config: Config) -> str:
    """The config as readable JSON."""
    return _ADAPTER.dump_json(config, indent=2).decode() + "\n"


def from_json(text: str, *, where: str) -> Config:
    """The inverse of `to_json`; ValueError names `where` and the first field that does not fit."""
    return parse(_ADAPTER, text, where)


def parse(adapter: TypeAdapter, text: str, where: str) -> Any:
    """A dataclass out of JSON; ValueError names `where` and the first field that does not fit or does not exist."""
    try:
        value = adapter.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ValueError(f"{where}: {path}: {first['msg']}") from None
    _refuse_unknown(json.loads(text), json.loads(adapter.dump_json(value)), where)
    return value


def _refuse_unknown(given: Any, known: Any, where: str, prefix: str = "") -> None:
    """pydantic passes over the keys a dataclass does not have."""
    if not (isinstance(given, dict) and isinstance(known, dict)):
        return
    for name, value in given.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0)[0]
            raise ValueError(f"{where}: no key {prefix}{name}; did you mean {prefix}{near}?")
        _refuse_unknown(value, known[name], where, f"{prefix}{name}.")
