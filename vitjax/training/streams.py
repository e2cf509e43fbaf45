"""What a run reads: its data opened once and held against the model, as batches on the mesh."""

from dataclasses import dataclass
from typing import Any

from jax.sharding import Mesh

from vitjax.data.pipeline import EvalBatches, eval_batches, fingerprint, train_batches
from vitjax.data.prefetch import DevicePrefetch, prefetch_to_device, process_share
from vitjax.data.sources import Source, SourceInfo, build_source, tokenizer_for
from vitjax.data.tokenizers import CharacterTokenizer, Tokenizer
from vitjax.models.config import CLASSIFIERS, reads_images
from vitjax.models.encoder_decoder import EncoderDecoderConfig
from vitjax.models.text_encoder import TextEncoderConfig
from vitjax.parallel.sharding import batch_sharding
from vitjax.training.config import Config
from vitjax.training.tasks import is_classifier


@dataclass(frozen=True)
class RunData:
    """The training split of a run, the tokenizer of its texts (None for classes), and the data's fingerprint."""

    source: Source
    tokenizer: Tokenizer | None
    fingerprint: dict[str, Any]


def open_data(config: Config, tokenizer: Tokenizer | None = None) -> RunData:
    """Open the training data; ValueError, one line, if the model cannot learn from it.

    Args:
      tokenizer: of the model, where it has learned with one; None is the dataset's own.
    """
    source = build_source(config.data, config.data.train_split)
    check_task(config, source.info)
    if is_classifier(config):
        tokenizer = None
    elif tokenizer is None:
        tokenizer = tokenizer_for(config.data)
    if tokenizer is not None:
        check_texts(config, tokenizer)
    train = config.train
    data = fingerprint(config.data, batch_size=train.batch_size, seed=train.seed, source=source)
    return RunData(source, tokenizer, data)


def train_stream(config: Config, mesh: Mesh, start_step: int, data: RunData) -> DevicePrefetch:
    """Device batches from step `start_step` on, a function of (seed, step) alone, each process reading its part."""
    size = config.train.batch_size
    sharding = batch_sharding(mesh, size)
    index, count = process_share(sharding, size)
    batches = train_batches(
        config.data,
        batch_size=size,
        seed=config.train.seed,
        tokenizer=data.tokenizer,
        num_classes=_classes(config),
        process_index=index,
        process_count=count,
        start_step=start_step,
        source=data.source,
    )
    return prefetch_to_device(batches, sharding)


def eval_set(config: Config, mesh: Mesh, tokenizer: Tokenizer | None = None) -> EvalBatches:
    """This process's part of the evaluation split, to be read again by each `eval_stream`.

    Args:
      tokenizer: the model's; None is the dataset's own.
    """
    size = config.train.batch_size
    index, count = process_share(batch_sharding(mesh, size), size)
    return eval_batches(
        config.data,
        batch_size=size,
        tokenizer=tokenizer,
        num_classes=_classes(config),
        process_index=index,
        process_count=count,
    )


def eval_stream(
    config: Config,
    mesh: Mesh,
    batches: EvalBatches | None = None,
    *,
    tokenizer: Tokenizer | None = None,
) -> DevicePrefetch:
    """Device batches of the evaluation split, once, in order; `mask` is False where the last one is filled up.

    Args:
      batches: of `eval_set`, where the split is read several times.
      tokenizer: as in `eval_set`.
    """
    batches = eval_set(config, mesh, tokenizer) if batches is None else batches
    return prefetch_to_device(batches, batch_sharding(mesh, config.train.batch_size))


def check_task(config: Config, info: SourceInfo) -> None:
    """The model must read what the data gives and write what it asks for."""
    given = "image" if reads_images(config.model) else "text"
    task = f"{given}_to_{'label' if is_classifier(config) else 'text'}"
    if task != info.task:
        raise ValueError(
            f"the model {config.model.kind} does {task.replace('_', ' ')}, {info.dataset} is "
            f"{info.task.replace('_', ' ')}: choose another data.name or another model"
        )
    classes = _classes(config)
    if classes is not None and info.num_classes is not None and classes < info.num_classes:
        raise ValueError(
            f"model.num_classes is {classes}, but {info.dataset} has {info.num_classes} classes: "
            f"set model.num_classes {info.num_classes}"
        )


def check_texts(config: Config, tokenizer: Tokenizer) -> None:
    """The model's vocabularies must be the data's, its positions enough, and its way of decoding complete.

    A checkpoint's vocabulary may have room for more tokens than its tokenizer has.
    """
    model, generation, words = config.model, config.generation, tokenizer.vocab_size
    assert not isinstance(model, CLASSIFIERS)
    sizes = {"the model's vocabulary_size": model.vocabulary_size}
    if isinstance(model, EncoderDecoderConfig) and isinstance(model.encoder, TextEncoderConfig):
        sizes["the encoder's vocabulary_size"] = model.encoder.vocabulary_size
    for name, size in sizes.items():
        if size < words or (size > words and isinstance(tokenizer, CharacterTokenizer)):
            raise ValueError(
                f"{name} is {size}, but {config.data.name} has {words} tokens: set it to {words}"
            )
    if generation.start_id != tokenizer.bos:  # an evaluation begins with it, hours from now
        raise ValueError(
            f"generation begins with token {generation.start_id}, but texts are learned from token {tokenizer.bos} on: "
            f"set generation.decoder_start_token_id to {tokenizer.bos}"
        )
    if generation.stop_ids and tokenizer.eos not in generation.stop_ids:
        raise ValueError(
            f"generation ends with token {generation.stop_ids[0]}, but texts end with token {tokenizer.eos}: set "
            f"generation.eos_token_id to {tokenizer.eos}"
        )
    longest = max(generation.limits(1).maximum, config.data.max_length - 1)
    decoder = model.decoder if isinstance(model, EncoderDecoderConfig) else None
    if decoder is not None and decoder.positions == "learned" and longest > decoder.max_length:
        raise ValueError(
            f"the decoder's learned positions end at max_length {decoder.max_length}, but data.max_length "
            f"{config.data.max_length} and generation go up to {longest}: raise model.decoder.max_length"
        )


def _classes(config: Config) -> int | None:
    return config.model.num_classes if isinstance(config.model, CLASSIFIERS) else None


def require_same_data(stored: dict[str, Any], now: dict[str, Any]) -> None:
    """A resumed run must see the data it would have seen."""
    for name in sorted({*stored, *now}):
        if stored.get(name) != now.get(name):
            raise ValueError(
                f"the checkpoint was trained with data {name}={stored.get(name)!r}, now it is {now.get(name)!r}: "
                "resume with the same data, or start a new run"
            )
