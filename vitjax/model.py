"""A trained model as one object: logits, features, text."""

import hashlib
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, UInt8

from vitjax.data.preprocess import Preprocess, normalize
from vitjax.data.tokenizers.protocol import Tokenizer, stack_rows
from vitjax.decoding.allowed import AllowedSequences
from vitjax.decoding.buckets import pad_rows
from vitjax.decoding.config import GenerationConfig
from vitjax.decoding.generate import decode, encode, pad_source
from vitjax.decoding.generated import Generated
from vitjax.decoding.score import Mode, score
from vitjax.decoding.spread import place_params
from vitjax.decoding.stream import stream
from vitjax.decoding.transcript import told
from vitjax.models.config import CLASSIFIERS, ModelConfig, image_encoder, reads_images, text_encoder
from vitjax.models.vit import Features, VisionTransformerConfig
from vitjax.nn import functional
from vitjax.nn.embeddings import PackedPatches
from vitjax.nn.functional import Tree, merge
from vitjax.parallel.paths import named_leaves


@dataclass(frozen=True, eq=False)
class Model:
    """Parameters with all that is needed to use them.

    Images may be uint8 [B, H, W, 1 or 3], or a list of uint8 [H, W, 1 or 3] of any sizes, which `preprocess` brings to
    the model's size and scale, or float [B, H, W, channels], taken as preprocessed. Everything is compiled on first use
    and for each new shape.

    `family` names the checkpoints that the model was read as one of, None if it was trained here; `labels` are the
    names of its classes, where somebody wrote them down.

    With a `mesh`, on which the parameters lie, `generate` splits rows, beams, heads and vocabulary over its devices.
    """

    config: ModelConfig
    params: Tree
    stats: Tree
    preprocess: Preprocess | None
    tokenizer: Tokenizer | None
    generation: GenerationConfig
    mesh: Mesh | None = None
    family: str | None = None
    labels: tuple[str, ...] | None = None

    @property
    def writes(self) -> bool:
        """Whether the model writes sequences; otherwise it names classes."""
        return not isinstance(self.config, CLASSIFIERS)

    @cached_property
    def definition(self) -> nnx.GraphDef:
        """The model without its arrays, as `vitjax.nn.functional.merge` takes it."""
        return functional.abstract(lambda rngs: self.config.build(rngs=rngs))[0]

    def logits(
        self, source: Any, decoder_tokens: Any = None, *, source_mask: Any = None
    ) -> Float[Array, "..."]:
        """Class logits [B, classes] of images, or logits [B, T, V] of each next token, teacher-forced."""
        source = self.prepare(source)
        if (decoder_tokens is None) == self.writes:
            raise ValueError(
                "this model writes sequences: logits needs decoder_tokens [B, T]"
                if decoder_tokens is None
                else "this model names classes: logits takes images alone"
            )
        if decoder_tokens is None:
            return _logits(self.definition, self.params, self.stats, source)
        return _token_logits(self.definition, self.params, self.stats, source, decoder_tokens, source_mask)

    def features(self, images: Any) -> Features:
        """`tokens` [B, N, D] and `pooled` [B, D] of an image classifier.

        Images of many shapes go in one batch as `vitjax.nn.embeddings.PackedPatches`, which a list of uint8 images
        becomes where the preprocessing keeps their aspect (NaFlex).
        """
        if self.writes:
            raise ValueError("this model writes sequences: features are those of an image classifier")
        return _features(self.definition, self.params, self.stats, self.prepare(images))

    def generate(
        self,
        source: Any,
        *,
        source_mask: Any = None,
        prompt: Any = None,
        prompt_mask: Any = None,
        key: Any = None,
        allowed: AllowedSequences | None = None,
        return_attention: bool = False,
        batch_size: int | None = None,
        **options: Any,
    ) -> Generated:
        """Write a sequence for each row.

        Args:
          source: images as above, or int tokens [B, S].
          prompt: [B, T] first tokens of each row, left-padded where `prompt_mask` is False.
          key: a `jax.random.key`, or one a row, if `do_sample`.
          allowed: the sequences to choose from, `vitjax.decoding.AllowedSequences.of(...)`; None allows all.
          return_attention: also tell where the decoder looked, by one parallel pass over what was written.
          batch_size: rows to pad to, for a last batch that is smaller than those before: it compiles nothing.
          options: fields of `GenerationConfig`, named as in transformers (num_beams, max_length, length_penalty,
            early_stopping, num_return_sequences, do_sample, ...); the rest is the model's own.
        """
        self._require_writing()
        config = self.generation_config(**options)
        source = self._sized(source)
        grid = image_encoder(self.config).grid(source.shape[1:3]) if reads_images(self.config) else None
        model = (self.definition, place_params(self.params, self.mesh))
        common: dict[str, Any] = {"stats": place_params(self.stats, self.mesh), "mesh": self.mesh}
        rows = source.shape[0]
        source, source_mask = pad_source(
            *model, source, source_mask=source_mask, batch_size=batch_size, **common
        )
        source = self._normalized(source)
        start = time.perf_counter()
        encoded = encode(*model, source, source_mask=source_mask, **common)
        watch = _WATCH.submit(_ready_at, encoded)
        out = decode(
            *model,
            encoded,
            prompt=prompt,
            prompt_mask=prompt_mask,
            config=config,
            key=key,
            allowed=allowed,
            rows=rows,
            **common,
        )
        decoded_at = _ready_at(out)
        encoded_at = min(watch.result(), decoded_at)
        return Generated(
            out.tokens,
            out.scores,
            out.lengths,
            out.token_log_probs,
            out.finished,
            steps=int(out.steps),
            encode_seconds=encoded_at - start,
            decode_seconds=decoded_at - encoded_at,
            attention=self._attention(encoded, out.tokens, prompt_mask) if return_attention else None,
            grid=grid,
            tokenizer=self.tokenizer,
        )

    def stream(
        self, source: Any, *, source_mask: Any = None, key: Any = None, chunk_size: int = 8, **options: Any
    ) -> Iterator[list[list[str]]]:
        """Write as `generate` does; give out what the sequences [B][N] go on with, `chunk_size` tokens at a time.

        Arguments as in `generate`; with beams there is nothing to give out before the end (`vitjax.decoding.stream`).
        """
        tokenizer = self._reads()
        pieces = stream(
            self.definition,
            self.params,
            self.prepare(source),
            source_mask=source_mask,
            stats=self.stats,
            config=self.generation_config(**options),
            key=key,
            chunk_size=chunk_size,
        )
        return told(tokenizer, pieces)

    def score(
        self, source: Any, texts: Sequence[str], *, mode: Mode = "autoregressive"
    ) -> Float[Array, "B N"]:
        """Log-probability of each of N texts for each source, begin and end of the text included.

        Args:
          mode: `autoregressive`, or `parallel` for a decoder with `parallel_prediction` (`vitjax.decoding.score`).
        """
        tokenizer = self._reads()
        source = self.prepare(source)
        assert not isinstance(self.config, CLASSIFIERS)
        rows, real = stack_rows([tokenizer.encode(text) for text in texts], tokenizer.pad)
        require_known(rows, self.config.vocabulary_size)
        tokens, mask = (np.broadcast_to(each, (source.shape[0], *each.shape)) for each in (rows, real))
        return score(
            self.definition, self.params, source, tokens, mode=mode, token_mask=mask, stats=self.stats
        ).log_probs

    def prepare(self, source: Any) -> Any:
        """What the modules take: normalised images of the model's size, or tokens as they are; else ValueError."""
        return self._normalized(self._sized(source))

    def generation_config(self, **options: Any) -> GenerationConfig:
        """What `generate` does when given these options: the model's own with them put in their place.

        Raises:
          ValueError: there is no such option, or the value makes no sense.
        """
        fields = {name: getattr(self.generation, name) for name in GenerationConfig.__dataclass_fields__}
        if unknown := set(options) - set(fields):
            raise ValueError(
                f"generate has no option {sorted(unknown)[0]!r}: there are {', '.join(sorted(fields))}"
            )
        return GenerationConfig(**{**fields, **options})

    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with the parameters, the architecture, preprocessing or tokenizer."""
        parts = repr((self.config, self.preprocess, self.tokenizer))
        digest = hashlib.sha256(parts.encode())
        for name, leaf in sorted(named_leaves({"params": self.params, "stats": self.stats}).items()):
            array = np.ascontiguousarray(leaf)
            digest.update(f"{name} {array.dtype}{array.shape}".encode())
            digest.update(array.view(np.uint8))
        return digest.hexdigest()[:16]

    def _require_writing(self) -> None:
        if not self.writes:
            raise ValueError("this model names classes and writes no sequences: use .logits")

    def _reads(self) -> Tokenizer:
        """The tokenizer; ValueError if this model writes no text."""
        self._require_writing()
        if self.tokenizer is None:
            raise ValueError(
                "this model came without a tokenizer and knows no text: use .generate and its .tokens"
            )
        return self.tokenizer

    def _attention(
        self, encoded: Any, tokens: Int[Array, "b N T"], prompt_mask: Any
    ) -> Float[Array, "b N U S"]:
        """Of the first rows of what was encoded; the others are padding."""
        rows, batch = tokens.shape[0], jax.tree.leaves(encoded)[0].shape[0]
        mask = None if prompt_mask is None else pad_rows(prompt_mask, batch)
        attention = _attention(
            self.definition, self.params, self.stats, encoded, pad_rows(tokens, batch), mask
        )
        return attention if rows == batch else jax.device_put(jax.device_get(attention)[:rows])

    def _normalized(self, source: Any) -> Any:
        if self.preprocess is None or isinstance(source, PackedPatches) or source.dtype != np.uint8:
            return source
        return normalize(source, self.preprocess.mean, self.preprocess.std)

    def _sized(self, source: Any) -> Any:
        """uint8 images of the model's size, normalised ones or tokens as they are; else ValueError."""
        if isinstance(source, PackedPatches):
            return source
        if self.preprocess is not None and isinstance(source, list | tuple) and all(map(_is_image, source)):
            return self._stacked(source)
        if not hasattr(source, "dtype"):
            source = np.asarray(source)
        found = f"{source.dtype}{list(source.shape)}"
        if not reads_images(self.config):
            if source.ndim != 2 or not np.issubdtype(source.dtype, np.integer):
                raise ValueError(f"this model takes int tokens [B, S], not {found}")
            if isinstance(source, np.ndarray):  # what is on a device stays there
                require_known(source, text_encoder(self.config).vocabulary_size)
            return source
        if source.ndim != 4 or not (source.dtype == np.uint8 or jnp.issubdtype(source.dtype, jnp.floating)):
            raise ValueError(
                f"this model takes images [B, H, W, channels], uint8 or normalised float, not {found}"
            )
        if source.dtype != np.uint8:
            channels = image_encoder(self.config).channels
            if source.shape[-1] != channels:
                raise ValueError(f"this model takes images of {channels} channels, not {found}")
            return source
        if self.preprocess is None:
            raise ValueError(
                "this model came without preprocessing: pass normalised float images [B, H, W, channels], or a Model "
                "with preprocess=Preprocess(image_size=...)"
            )
        return self._stacked(np.asarray(source))

    def _stacked(
        self, images: Iterable[UInt8[np.ndarray, "..."]]
    ) -> UInt8[np.ndarray, "B H W C"] | PackedPatches:
        preprocess = self.preprocess
        assert preprocess is not None
        sized = [preprocess(image) for image in images]
        if len(sizes := {image.shape[:2] for image in sized}) > 1:
            if preprocess.resize == "patches" and isinstance(self.config, VisionTransformerConfig):
                ready = [np.asarray(preprocess.normalize(image)) for image in sized]
                return PackedPatches.of(ready, self.config.patch_size, length=preprocess.max_patches)
            raise ValueError(
                f"this model keeps the aspect of images, and these come out in {len(sizes)} sizes, "
                f"{', '.join(map(str, sorted(sizes)))}: give it images of one size at a time"
            )
        return np.stack(sized)


def require_known(tokens: Int[np.ndarray, "..."], vocabulary: int) -> None:
    """JAX would take the last token for one beyond it, without a word."""
    unknown = tokens[(tokens < 0) | (tokens >= vocabulary)]
    if unknown.size:
        raise ValueError(f"there is no token {unknown[0]}: those of this model are 0 to {vocabulary - 1}")


# Waiting for the encoder in the main thread would keep the decoder from being enqueued behind it.
_WATCH = ThreadPoolExecutor(1, thread_name_prefix="encode_seconds")


def _is_image(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim == 3


def _ready_at(arrays: Any) -> float:
    jax.block_until_ready(arrays)
    return time.perf_counter()


@partial(jax.jit, static_argnums=0)
def _logits(definition: nnx.GraphDef, params: Tree, stats: Tree, images: Array | PackedPatches) -> Array:
    return merge(definition, params, stats)(images, train=False)


@partial(jax.jit, static_argnums=0)
def _token_logits(
    definition: nnx.GraphDef, params: Tree, stats: Tree, source: Array, tokens: Array, mask: Array | None
) -> Array:
    return merge(definition, params, stats)(source, tokens, source_mask=mask, train=False)


@partial(jax.jit, static_argnums=0)
def _features(definition: nnx.GraphDef, params: Tree, stats: Tree, images: Array | PackedPatches) -> Features:
    return merge(definition, params, stats).features(images, train=False)


@partial(jax.jit, static_argnums=0)
def _attention(
    definition: nnx.GraphDef,
    params: Tree,
    stats: Tree,
    encoded: Any,
    tokens: Int[Array, "B N T"],
    prompt_mask: Array | None,
) -> Float[Array, "B N U S"]:
    model = merge(definition, params, stats)
    length = tokens.shape[-1] - 1
    mask = None
    if prompt_mask is not None:
        mask = jnp.pad(prompt_mask, ((0, 0), (0, length - prompt_mask.shape[1])), constant_values=True)

    def one(row: Int[Array, "B T"]) -> Float[Array, "B U S"]:
        out = model.decode(encoded, row[:, :-1], decoder_mask=mask, train=False, return_attention=True)
        return out.attention.mean(axis=(0, 2))

    return jax.vmap(one, in_axes=1, out_axes=1)(tokens)
