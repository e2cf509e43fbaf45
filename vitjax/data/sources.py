"""Datasets as random-access sources of examples: prepared if they are ours, found on disk if they are not."""

import fcntl
import io
import logging
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from jaxtyping import Int64

from vitjax.data.config import DataConfig
from vitjax.data.datasets import OWN, own_builder
from vitjax.data.images import decode_record
from vitjax.data.tokenizers import CharacterTokenizer

Task = Literal["image_to_label", "image_to_text", "text_to_text"]
CACHE_BYTES = 512 * 2**20
"""A split whose decoded examples take less than this is kept in memory once decoded."""
BLOCK = 1_024

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SourceInfo:
    """What a source holds."""

    dataset: str
    """Name, config and version: `digit_strings/16x64/1.0.0`."""
    split: str
    examples: int
    size: int
    """Bytes of the split's records before any slicing: tells two datasets of one name apart."""
    task: Task
    """What is given and what is asked for."""
    num_classes: int | None = None
    class_names: tuple[str, ...] | None = None
    alphabet: str | None = None


@runtime_checkable
class Source(Protocol):
    """Random access to examples.

    An example is a dict of `image` (uint8 [h, w, c]) or `source` (str), and `label` (int) or `text` (str), with
    whatever else the dataset has under its own names. The user's own folder of images can be one of these too.
    """

    info: SourceInfo
    in_memory: bool

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...


class RecordSource:
    """A split of a prepared TFDS dataset. Small ones are decoded once and then kept in memory."""

    def __init__(self, builder: tfds.core.DatasetBuilder, split: str) -> None:
        check_complete(builder)
        input_key, target_key = _supervised(builder)
        features = builder.info.features
        try:
            raw = tfds.decode.DeserializeMethod.RAW_BYTES
            self._records = builder.as_data_source(split=split, deserialize_method=raw)
        except ValueError as error:
            known = ", ".join(builder.info.splits)
            name = builder.info.full_name
            raise ValueError(f"{name} has no split {split!r}: expected one of {known}, or a slice") from error
        self._features = features
        # TFDS's own decoding leaves grey images of an RGB dataset without their three channels.
        self._skip = {key: tfds.decode.SkipDecoding() for key in features if _is_image(features[key])}
        self._rename = {input_key: "image" if _is_image(features[input_key]) else "source"}
        self._rename[target_key] = "text" if isinstance(features[target_key], tfds.features.Text) else "label"
        self._images = tuple(self._rename.get(key, key) for key in self._skip)
        self._texts = tuple(
            self._rename.get(key, key) for key in features if isinstance(features[key], tfds.features.Text)
        )
        self.info = _info(builder, split, len(self._records), self._rename[input_key], features[target_key])
        self.in_memory = _decoded_size(features, len(self)) <= CACHE_BYTES
        self._forget()

    def _forget(self) -> None:
        # Of small splits: record bytes, read a block at a time (20 times faster than one by one), until decoded.
        self._cache: list[bytes | dict[str, Any] | None] = [None] * len(self) if self.in_memory else []

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not self.in_memory:
            return self._decode(self._records[index], index)
        found = self._cache[index]
        if isinstance(found, dict):
            return dict(found)
        if found is None:
            found = self._read_block(index)
        example = self._cache[index] = self._decode(found, index)
        return dict(example)

    def _read_block(self, index: int) -> bytes:
        first = index - index % BLOCK
        block = list(range(first, min(first + BLOCK, len(self))))
        records = self._records.__getitems__(block)
        for place, record in zip(block, records, strict=True):
            if self._cache[place] is None:
                self._cache[place] = record
        return records[index - first]

    def text_lengths(self) -> Int64[np.ndarray, " N"]:
        """Characters of every text, without decoding anything else."""
        key = next(stored for stored, name in self._rename.items() if name == "text")
        text = tfds.features.FeaturesDict({key: self._features[key]})
        lengths = []
        for first in range(0, len(self), BLOCK):
            records = self._records.__getitems__(list(range(first, min(first + BLOCK, len(self)))))
            lengths += [len(text.deserialize_example_np(record)[key].decode()) for record in records]
        return np.array(lengths, np.int64)

    def __getstate__(self) -> dict[str, Any]:
        # A worker process fills its own cache rather than being sent ours.
        return {name: value for name, value in self.__dict__.items() if name != "_cache"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def _decode(self, record: bytes, index: int) -> dict[str, Any]:
        stored = self._features.deserialize_example_np(record, decoders=self._skip or None)
        example = {self._rename.get(key, key): value for key, value in stored.items()}
        for key in self._images:
            where = f"example {index} of {self.info.dataset}[{self.info.split}]"
            example[key] = decode_record(example[key], name=where)
            example[key].flags.writeable = False  # shared by every epoch
        for key in self._texts:
            example[key] = example[key].decode()
        return example


def build_source(config: DataConfig, split: str) -> Source:
    """The examples of `split` of the dataset `config.name`.

    vitjax's own datasets are prepared on first use. Any other TFDS dataset must lie under `config.data_dir`,
    prepared as ArrayRecord; the ValueError raised where it does not says how to prepare it.
    """
    return RecordSource(load_builder(config.name, config.data_dir), split)


def text_lengths(source: Source) -> Int64[np.ndarray, " N"]:
    """Characters of every text of a source."""
    if source.info.task == "image_to_label":
        raise ValueError(f"{source.info.dataset} has labels, not texts: set curriculum_steps to 0")
    if isinstance(source, RecordSource):
        return source.text_lengths()
    return np.array([len(source[index]["text"]) for index in range(len(source))], np.int64)


def tokenizer_for(config: DataConfig) -> CharacterTokenizer:
    """The tokenizer of a dataset with texts, from the alphabet that its builder states."""
    builder = load_builder(config.name, config.data_dir)
    alphabet = (builder.info.metadata or {}).get("alphabet")
    if not alphabet:
        raise ValueError(
            f"{builder.info.full_name} states no alphabet: pass tokenizer=CharacterTokenizer(alphabet)"
        )
    return CharacterTokenizer(alphabet)


def load_builder(name: str, data_dir: str | None = None) -> tfds.core.DatasetBuilder:
    """A builder whose data is on disk: one of ours (prepared now if need be), or any TFDS dataset found there."""
    data_dir = os.path.expanduser(data_dir or str(tfds.core.constants.DATA_DIR))
    base, config_name = re.split("[/:]", name)[0], re.search(r"/([^:]+)", name)
    if base in OWN:
        return _prepared(base, config_name.group(1) if config_name else None, data_dir)
    try:
        builder = tfds.core.read_only_builder.builder_from_files(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        raise ValueError(
            f"dataset {name!r} is not under {data_dir}. {_how_to_prepare(name, data_dir)}"
        ) from None
    found = builder.info.file_format
    if found is None or found.value != "array_record":
        kind = found.value if found else "an unknown format"
        raise ValueError(
            f"dataset {name!r} under {data_dir} is stored as {kind}, which only TensorFlow reads. "
            f"{_how_to_prepare(name, os.path.join(data_dir, 'array_record'))}"
        )
    return builder


def _how_to_prepare(name: str, data_dir: str) -> str:
    call = f"tfds.builder({name!r}, data_dir={data_dir!r}, file_format='array_record').download_and_prepare()"
    return (
        f"vitjax's own datasets are {', '.join(OWN)}; any other is prepared once, in an environment that has "
        f'tensorflow and tensorflow-datasets, by: python -c "import tensorflow_datasets as tfds; {call}"'
        f" and then read with data_dir={data_dir!r}"
    )


def _prepared(name: str, config_name: str | None, data_dir: str) -> tfds.core.DatasetBuilder:
    builder_class = own_builder(name)
    known = [config.name for config in builder_class.BUILDER_CONFIGS]
    if config_name is not None and config_name not in known:
        expected = f"expected one of {', '.join(known)}" if known else "it has none"
        raise ValueError(f"dataset {name!r} has no config {config_name!r}: {expected}")

    def builder() -> tfds.core.DatasetBuilder:
        return builder_class(data_dir=data_dir, config=config_name, file_format="array_record")

    unprepared = builder()
    if not os.path.exists(unprepared.data_dir):
        with _lock(Path(data_dir) / f".{name}.lock"):
            # Whoever waited here finds the data there: rename into place makes it appear whole or not at all.
            if not os.path.exists(unprepared.data_dir):
                _prepare(unprepared)
    return builder()


def _prepare(builder: tfds.core.DatasetBuilder) -> None:
    started = time.perf_counter()
    logger.info("preparing %s in %s", builder.info.full_name, builder.data_dir)
    tfds.disable_progress_bar()
    with redirect_stdout(io.StringIO()):  # TFDS prints; stdout belongs to whoever asked for JSON
        builder.download_and_prepare()
    logger.info("prepared %s in %.1f s", builder.info.full_name, time.perf_counter() - started)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Other processes and threads wait here; the lock goes with the process, however it ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def check_complete(builder: tfds.core.DatasetBuilder) -> None:
    """Compare the records in every file with the builder's info: a cut ArrayRecord file opens without a word."""
    for split in builder.info.splits.values():
        for path, expected in zip(split.filepaths, split.shard_lengths, strict=True):
            remedy = f"delete {path.parent} and prepare {builder.info.full_name} again"
            if not path.exists():
                raise ValueError(f"{path} is missing, {expected} examples expected: {remedy}")
            found = _count_records(path)
            if found != expected:
                raise ValueError(
                    f"{path} holds {found} examples, {expected} expected: the file is damaged; {remedy}"
                )


def _count_records(path: Any) -> int:
    """Records of a file as far as it can be read; of a damaged one, fewer than were written."""
    found = 0
    with suppress(RuntimeError):  # from the constructor, or only on closing
        reader = array_record_module.ArrayRecordReader(os.fspath(path))
        found = reader.num_records()
        reader.close()
    return found


def _supervised(builder: tfds.core.DatasetBuilder) -> tuple[str, str]:
    """The names of the input and the target among a dataset's features."""
    features, keys = builder.info.features, builder.info.supervised_keys
    if keys and len(keys) == 2 and all(isinstance(key, str) for key in keys):
        return keys
    images = [key for key in features if _is_image(features[key])]
    labels = [key for key in features if isinstance(features[key], tfds.features.ClassLabel)]
    if len(images) == 1 and len(labels) == 1:
        return images[0], labels[0]
    found = ", ".join(f"{key} ({type(features[key]).__name__})" for key in features)
    raise ValueError(
        f"{builder.info.full_name} does not say what its input and target are: found {found}, "
        "expected supervised_keys, or exactly one Image and one ClassLabel"
    )


def _info(
    builder: tfds.core.DatasetBuilder, split: str, examples: int, given: str, target: Any
) -> SourceInfo:
    label = target if isinstance(target, tfds.features.ClassLabel) else None
    if isinstance(target, tfds.features.Text):
        task: Task = "image_to_text" if given == "image" else "text_to_text"
    elif given == "image":
        task = "image_to_label"
    else:
        raise ValueError(
            f"{builder.info.full_name} maps text to {type(target).__name__}: expected text to text"
        )
    return SourceInfo(
        dataset=builder.info.full_name,
        split=split,
        examples=examples,
        size=int(builder.info.splits[re.split(r"[\[+]", split)[0]].num_bytes),
        task=task,
        num_classes=label.num_classes if label else None,
        class_names=tuple(label.names) if label and label.num_classes else None,
        alphabet=(builder.info.metadata or {}).get("alphabet"),
    )


def _is_image(feature: Any) -> bool:
    return isinstance(feature, tfds.features.Image)


def _decoded_size(features: Any, examples: int) -> float:
    """Bytes of all examples once decoded; infinite where an image's shape is not fixed."""
    total = 0.0
    for feature in features.values():
        if _is_image(feature):
            total += prod(feature.shape) if None not in feature.shape else float("inf")
        else:
            total += 100
    return total * examples
