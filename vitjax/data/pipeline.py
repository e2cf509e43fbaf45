"""Batches of numpy arrays for training and evaluation, by grain.

Which examples make up a training batch, in which order and how they are augmented, is a function of (seed, step)
alone: the same for any number of processes and workers, and after a resume at any step. So the data's part of a
checkpoint is the step and the `fingerprint`.
"""

import os
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import grain
import numpy as np

from vitjax.data.config import DataConfig
from vitjax.data.preprocess import Preprocess
from vitjax.data.sources import Source, build_source, text_lengths, tokenizer_for
from vitjax.data.tokenizers import Tokenizer
from vitjax.data.transforms import augment_image

Batch = dict[str, Any]
SHUFFLE, AUGMENT, CURRICULUM = 0, 1, 2  # streams of random numbers under one seed


class Batches:
    """Iterator over batches; `close` ends its threads and workers, and may be called twice."""

    def __init__(self, dataset: grain.MapDataset, *, in_memory: bool, workers: int) -> None:
        if in_memory and not workers:
            read = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
        else:
            threads = min(16, os.cpu_count() or 1)
            read = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
        iterable = dataset.to_iter_dataset(read)
        if workers:
            _parse_no_flags()
            iterable = iterable.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
        self._iterator: Any = iter(iterable)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if self._iterator is None:
            raise StopIteration
        return next(self._iterator)

    def close(self) -> None:
        """Stop; the next `next` ends the iteration."""
        iterator, self._iterator = self._iterator, None
        if iterator is not None:
            iterator.close()

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class EvalBatches:
    """One pass over a split in its own order, again with every `iter`; the last batch is filled up, see "mask"."""

    def __init__(self, dataset: grain.MapDataset, *, in_memory: bool, workers: int) -> None:
        self._dataset, self._in_memory, self._workers = dataset, in_memory, workers

    def __len__(self) -> int:
        return len(self._dataset)

    def __iter__(self) -> Batches:
        return Batches(self._dataset, in_memory=self._in_memory, workers=self._workers)


def train_batches(
    config: DataConfig,
    *,
    batch_size: int,
    seed: int,
    tokenizer: Tokenizer | None = None,
    num_classes: int | None = None,
    process_index: int = 0,
    process_count: int = 1,
    start_step: int = 0,
    source: Source | None = None,
) -> Batches:
    """Endless training batches of this process, from `start_step` on.

    `batch_size` is that of all processes together; process p of n gets the p-th of n equal runs of its rows.
    Batches are {"image" uint8 [B, H, W, C], "label" int32 [B]}, or "image" and "tokens" int32 [B, T], or "source"
    int32 [B, S], "source_mask" bool [B, S] and "tokens". `tokenizer` defaults to the dataset's own, `num_classes`
    (what labels are checked against) to the dataset's, `source` to the one that `config` names.
    Raises ValueError, at the batch in question, for a label outside the classes or a text the tokenizer cannot take.
    """
    local = _local_size(batch_size, process_index, process_count)
    source = build_source(config, config.train_split) if source is None else source
    example = _Example(config, source, tokenizer, num_classes, augment=True)
    places = grain.MapDataset.range(len(source)).shuffle(seed=_stream(seed, SHUFFLE)).repeat()
    if config.curriculum_steps:
        places = _ShortestFirst(places, text_lengths(source), batch_size, config.curriculum_steps, seed)
    # Before rows go to processes: a row's random numbers follow from its place in the whole stream.
    dataset = places.map(_Numbered(source)).random_map(example, seed=_stream(seed, AUGMENT))
    rows = _ProcessRows(dataset, batch_size, local, process_index * local, start_step)
    return Batches(rows.batch(local, drop_remainder=True), in_memory=source.in_memory, workers=config.workers)


def eval_batches(
    config: DataConfig,
    *,
    batch_size: int,
    tokenizer: Tokenizer | None = None,
    num_classes: int | None = None,
    process_index: int = 0,
    process_count: int = 1,
    split: str | None = None,
    source: Source | None = None,
) -> EvalBatches:
    """Batches of `split` (`config.eval_split` unless told), every example once, in order, never augmented.

    Arguments as in `train_batches`. Every process gets as many batches as every other; what completes the last ones
    repeats the last example and has "mask" False.
    """
    local = _local_size(batch_size, process_index, process_count)
    source = build_source(config, split or config.eval_split) if source is None else source
    example = _Example(config, source, tokenizer, num_classes, augment=False)
    dataset = _Filled(grain.MapDataset.range(len(source)).map(_Numbered(source)).map(example), batch_size)
    rows = _ProcessRows(dataset, batch_size, local, process_index * local, 0)
    return EvalBatches(
        rows.batch(local, drop_remainder=True), in_memory=source.in_memory, workers=config.workers
    )


def fingerprint(
    config: DataConfig, *, batch_size: int, seed: int, source: Source | None = None
) -> dict[str, Any]:
    """All that the order and content of training batches depend on, as JSON can hold it.

    Kept in every checkpoint; a resume with another one would silently see other data. Processes and workers are
    not in it: they change nothing.
    """
    info = (build_source(config, config.train_split) if source is None else source).info
    settings = asdict(config)
    for name in ("name", "train_split", "eval_split", "data_dir", "workers", "mean", "std"):
        del settings[name]
    return {
        "dataset": info.dataset,
        "split": info.split,
        "examples": info.examples,
        "size": info.size,
        "batch_size": batch_size,
        "seed": seed,
        # As JSON gives it back, so that == works against a stored one.
        **{name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()},
        "augment": {k: list(v) if isinstance(v, tuple) else v for k, v in settings["augment"].items()},
    }


class _Numbered:
    """Place in the source -> example that knows its place, for errors."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __call__(self, index: int) -> dict[str, Any]:
        return self.source[index] | {"example": index}


class _Example:
    """A source's example -> the arrays of one row of a batch."""

    def __init__(
        self,
        config: DataConfig,
        source: Source,
        tokenizer: Tokenizer | None,
        num_classes: int | None,
        *,
        augment: bool,
    ) -> None:
        info = source.info
        if info.examples == 0:
            raise ValueError(f"{info.dataset}[{info.split}] has no examples")
        self.config, self.augment = config, augment
        self.preprocess = Preprocess.of(config)
        self.where = f"{info.dataset}[{info.split}]"
        self.has_text = info.task != "image_to_label"
        self.tokenizer = (tokenizer or tokenizer_for(config)) if self.has_text else None
        self.num_classes = num_classes or info.num_classes

    def __call__(self, example: dict[str, Any], rng: np.random.Generator | None = None) -> Batch:
        row: Batch = {}
        if "image" in example:
            if self.augment and rng is not None:
                row["image"] = augment_image(example["image"], self.config, self.preprocess, rng)
            else:
                row["image"] = self.preprocess(example["image"])
        if self.tokenizer is not None:
            row |= self._tokens(example)
        else:
            row["label"] = self._label(example)
        return row

    def _tokens(self, example: dict[str, Any]) -> Batch:
        assert self.tokenizer is not None
        length = self.config.max_length
        try:
            row = {"tokens": self.tokenizer.encode(example["text"], length)}
            if "source" in example:
                source = self.tokenizer.encode_source(example["source"], length)
                row |= {"source": source, "source_mask": source != self.tokenizer.pad}
        except ValueError as error:
            raise ValueError(f"example {example['example']} of {self.where}: {error}") from None
        return row

    def _label(self, example: dict[str, Any]) -> np.int32:
        # JAX clamps an index and wraps a negative one: a label outside would train another class without a word.
        label = int(example["label"])
        if label < 0 or (self.num_classes is not None and label >= self.num_classes):
            expected = f"0 to {self.num_classes - 1}" if self.num_classes else "0 or more"
            raise ValueError(
                f"example {example['example']} of {self.where} has the label {label}: expected {expected}"
            )
        return np.int32(label)


class _ShortestFirst(grain.MapDataset):
    """Places in a source: at first, those of ever more of the shortest texts; after `steps` batches, the parent's.

    Draws begin among the texts of the least length and end among all; they are made with replacement, from
    (seed, step) alone.
    """

    def __init__(
        self, parent: grain.MapDataset, lengths: np.ndarray, batch_size: int, steps: int, seed: int
    ) -> None:
        super().__init__(parent)
        self._order = np.argsort(lengths, kind="stable")
        self._shortest = int((lengths == lengths.min()).sum())
        self._batch_size, self._steps, self._seed = batch_size, steps, seed
        self._drawn: tuple[int, list[int]] = (-1, [])

    def __len__(self) -> int:
        return len(self._parent)

    def __getitem__(self, index: int) -> int:
        step, row = divmod(index, self._batch_size)
        if step >= self._steps:
            return self._parent[index - self._steps * self._batch_size]
        drawn_step, drawn = self._drawn  # read once: other threads may be at other steps
        if drawn_step != step:
            share = self._shortest + (len(self._order) - self._shortest) * step // self._steps
            rng = np.random.default_rng([self._seed, CURRICULUM, step])
            drawn = self._order[rng.integers(share, size=self._batch_size)].tolist()
            self._drawn = (step, drawn)
        return drawn[row]


class _ProcessRows(grain.MapDataset):
    """Of every `batch_size` elements, from batch `start_step` on, the `local` ones that start at `first`."""

    def __init__(
        self, parent: grain.MapDataset, batch_size: int, local: int, first: int, start_step: int
    ) -> None:
        super().__init__(parent)
        self._batch_size, self._local, self._first, self._start = batch_size, local, first, start_step
        self._length = max(0, len(parent) // batch_size - start_step) * local

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Batch:
        step, row = divmod(index, self._local)
        return self._parent[(self._start + step) * self._batch_size + self._first + row]


class _Filled(grain.MapDataset):
    """Elements with "mask" True, then copies of the last with "mask" False up to a whole number of batches."""

    def __init__(self, parent: grain.MapDataset, batch_size: int) -> None:
        super().__init__(parent)
        self._length = -(-len(parent) // batch_size) * batch_size

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Batch:
        last = len(self._parent) - 1
        return self._parent[min(index, last)] | {"mask": np.bool_(index <= last)}


def _local_size(batch_size: int, process_index: int, process_count: int) -> int:
    if batch_size < 1 or batch_size % process_count:
        raise ValueError(
            f"batch size {batch_size} cannot be shared by {process_count} processes: choose a multiple"
        )
    if not 0 <= process_index < process_count:
        raise ValueError(f"process index {process_index}: expected 0 to {process_count - 1}")
    return batch_size // process_count


def _stream(seed: int, stream: int) -> int:
    # grain adds the epoch to a seed: hashed, neighbouring seeds do not run into each other's epochs.
    return int(np.random.SeedSequence([seed, stream]).generate_state(1)[0])


def _parse_no_flags() -> None:
    # grain's worker processes read absl flags, which nobody has parsed outside absl.app (grain#1355).
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
