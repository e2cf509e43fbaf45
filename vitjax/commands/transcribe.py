"""From sources to records, a batch at a time: read in threads, run the model, say what came out."""

import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from vitjax.analysis.attention_maps import attention_maps
from vitjax.analysis.pictures import draw_attention, draw_maps
from vitjax.commands.results import Record
from vitjax.data.images import read_image
from vitjax.data.resize import resize
from vitjax.data.tokenizers.protocol import stack_rows
from vitjax.decoding.buckets import pad_rows
from vitjax.decoding.generated import Generated
from vitjax.model import Model, require_known
from vitjax.models.config import text_encoder

PICTURE_PIXELS = 512  # longest side of the picture that attention is drawn over

T = TypeVar("T")


@dataclass(frozen=True)
class Readable:
    """A source as the model takes it.

    Attributes:
      value: an image of the model's size, or tokens.
      picture: the image to draw attention over, where that is asked for.
    """

    source: str
    value: UInt8[np.ndarray, "H W C"] | Int[np.ndarray, "S"]
    picture: UInt8[np.ndarray, "h w c"] | None = None


@dataclass(frozen=True)
class Unreadable:
    """A source that is no image or text for this model, and why."""

    source: str
    error: str


def read_ahead(
    sources: Sequence[str], read: Callable[[str], T], batch_size: int
) -> Generator[list[T], None, None]:
    """`read` of every source, in order and in batches; threads read the next batch while one is worked on."""
    waiting: deque[list[Future[T]]] = deque()
    pool = ThreadPoolExecutor(thread_name_prefix="read_ahead")
    try:
        for start in range(0, len(sources), batch_size):
            waiting.append([pool.submit(read, source) for source in sources[start : start + batch_size]])
            if len(waiting) == 2:
                yield [future.result() for future in waiting.popleft()]
        for batch in waiting:
            yield [future.result() for future in batch]
    finally:
        pool.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class Transcriber:
    """What a model makes of image files or texts, as records that JSON can hold.

    Attributes:
      options: of `Model.generate`.
      pictures: where to draw the attention of each source; empty for nowhere.
      batch_size: sources at a time; smaller batches are padded to it.
      seed: what a source draws with `do_sample` depends on it and on the source's name alone.
    """

    model: Model
    options: Mapping[str, Any]
    pictures: Mapping[str, Path]
    batch_size: int
    seed: int | None = None

    def batches(self, sources: Sequence[str]) -> Generator[list[Record], None, None]:
        """The records of each batch of sources, in order."""
        with closing(read_ahead(sources, self.read, self.batch_size)) as batches:
            yield from map(self.records, batches)

    def read(self, source: str) -> Readable | Unreadable:
        """An image file brought to the model's size, or a text as tokens."""
        try:
            if self.model.preprocess is None:
                return Readable(source, _tokens(self.model, source))
            image = read_image(source)
            value = self.model.preprocess(image)
        except (ValueError, OSError, MemoryError) as error:
            return Unreadable(source, " ".join(str(error).split()) or type(error).__name__)
        if source not in self.pictures:
            return Readable(source, value)
        # What was cut off or padded has no place on the original.
        return Readable(source, value, _smaller(image) if self.model.preprocess.keeps_all else value)

    def records(self, batch: Sequence[Readable | Unreadable]) -> list[Record]:
        """One record a source: text and score, or class and probability, or what is wrong with it.

        Raises:
          OSError: a picture cannot be written.
        """
        readable = [item for item in batch if isinstance(item, Readable)]
        made = self._in_order(readable)
        return [
            {"source": item.source, **({"error": item.error} if isinstance(item, Unreadable) else next(made))}
            for item in batch
        ]

    def _in_order(self, batch: Sequence[Readable]) -> Iterator[Record]:
        """What is made of each item; images, which may keep an aspect of their own, are taken together by size."""
        images = self.model.preprocess is not None
        sizes = [item.value.shape if images else () for item in batch]
        made = {
            size: iter(self._made([item for item, own in zip(batch, sizes, strict=True) if own == size]))
            for size in dict.fromkeys(sizes)
        }
        return (next(made[size]) for size in sizes)

    def _made(self, batch: Sequence[Readable]) -> list[Record]:
        values = [item.value for item in batch]
        preprocess, mask = self.model.preprocess, None
        source: Any
        if not self.model.writes:
            assert preprocess is not None
            images = preprocess.normalize(pad_rows(np.stack(values), self.batch_size))
            if not self.pictures:
                return _classes(self.model.logits(images), self.model.labels)[: len(batch)]
            maps = attention_maps(self.model, images, method="gradient_rollout")
            assert maps.logits is not None  # it names classes
            named = _classes(maps.logits, self.model.labels)[: len(batch)]
            self._draw_classes(batch, named, np.asarray(maps.relevance))
            return named
        if preprocess is None:
            assert self.model.tokenizer is not None
            source, mask = stack_rows(values, self.model.tokenizer.pad)
        else:
            source = preprocess.normalize(np.stack(values))
        out = self.model.generate(
            source,
            source_mask=mask,
            key=None if self.seed is None else _keys(self.seed, [item.source for item in batch]),
            return_attention=bool(self.pictures),
            batch_size=self.batch_size,
            **self.options,
        )
        if self.pictures:
            self._draw(batch, out)
        return _texts(out)

    def _draw(self, batch: Sequence[Readable], out: Generated) -> None:
        maps, pieces = np.asarray(out.attention_maps()), out.pieces()
        for row, item in enumerate(batch):
            assert item.picture is not None
            draw_attention(self._picture(item), item.picture, pieces[row][0], maps[row, 0])

    def _draw_classes(
        self, batch: Sequence[Readable], named: Sequence[Record], relevance: Float[np.ndarray, "B h w"]
    ) -> None:
        for item, record, weights in zip(batch, named, relevance, strict=False):
            assert item.picture is not None
            title = f"{record.get('name', record['label'])}, {record['probability']:.1%}"
            draw_maps(self._picture(item), item.picture, weights[None], ["for it"], title=title)

    def _picture(self, item: Readable) -> Path:
        """Where to draw, with folders as the images lie in."""
        path = self.pictures[item.source]
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def _keys(seed: int, sources: Sequence[str]) -> Array:
    """A key for each source, the same wherever it comes in the list."""
    names = np.asarray([zlib.crc32(source.encode()) for source in sources], np.uint32)
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), names)


def _tokens(model: Model, text: str) -> Int[np.ndarray, "S"]:
    assert model.tokenizer is not None
    encoder = text_encoder(model.config)
    tokens = model.tokenizer.encode_source(text)
    require_known(tokens, encoder.vocabulary_size)
    if encoder.positions == "learned" and len(tokens) > encoder.max_length:
        raise ValueError(
            f"text {text!r} takes {len(tokens)} tokens: expected at most {encoder.max_length}, the model's learned "
            "positions"
        )
    return tokens


def _texts(out: Generated) -> list[Record]:
    tokens, lengths = np.asarray(out.tokens), np.asarray(out.lengths)
    scores, log_probs = np.asarray(out.scores), np.asarray(out.token_log_probs)

    def hypothesis(row: int, rank: int, text: str, reason: str) -> Record:
        length = int(lengths[row, rank])
        return {
            "text": text,
            "score": _short(scores[row, rank]),
            "tokens": tokens[row, rank, :length].tolist(),
            "token_log_probs": [_short(value) for value in log_probs[row, rank, :length]],
            "finish_reason": reason,
            "length": length,
        }

    rows = [
        [hypothesis(row, rank, *said) for rank, said in enumerate(zip(texts, reasons, strict=True))]
        for row, (texts, reasons) in enumerate(zip(out.text(), out.finish_reason, strict=True))
    ]
    return [row[0] if len(row) == 1 else {"hypotheses": row} for row in rows]


def _classes(logits: Float[Array, "B classes"], names: Sequence[str] | None) -> list[Record]:
    probabilities = np.asarray(jax.nn.softmax(logits.astype(np.float32)))
    return [
        {
            "label": label,
            **({"name": names[label]} if names else {}),
            "probability": _short(row[label]),
        }
        for row, label in zip(probabilities, probabilities.argmax(axis=1).tolist(), strict=True)
    ]


def _short(value: np.floating) -> float:
    """The shortest decimal that is this float32 again."""
    return float(str(value))


def _smaller(image: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "H W c"]:
    scale = min(1.0, PICTURE_PIXELS / max(image.shape))
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    return resize(image, (height, width), "bilinear")
