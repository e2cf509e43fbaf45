"""A trained model as one object: `vitjax.load(path)`, then logits, features and text."""

import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from vitjax.data.preprocess import Preprocess, normalize
from vitjax.data.tokenizers import CharacterTokenizer
from vitjax.decoding.buckets import pad_rows
from vitjax.decoding.config import GenerationConfig
from vitjax.decoding.generate import decode, encode, pad_source
from vitjax.decoding.generated import Generated
from vitjax.models.vit import Features
from vitjax.nn import functional
from vitjax.nn.functional import Tree, merge
from vitjax.parallel.paths import named_leaves
from vitjax.parallel.sharding import shardings
from vitjax.training import checkpoints
from vitjax.training.config import Config, ModelConfig, from_json, image_encoder, reads_images
from vitjax.training.state import join
from vitjax.training.tasks import is_classifier
from vitjax.training.tokenizer_file import load_tokenizer


@dataclass(frozen=True, eq=False)
class Model:
    """Parameters with all that is needed to use them.

    Images may be uint8 [B, H, W, 1 or 3], which `preprocess` brings to the model's size and scale, or float
    [B, H, W, channels], taken as preprocessed. Everything is compiled on first use and for each new shape.
    """

    config: ModelConfig
    params: Tree
    stats: Tree
    preprocess: Preprocess | None
    tokenizer: CharacterTokenizer | None
    generation: GenerationConfig

    @cached_property
    def definition(self) -> nnx.GraphDef:
        """The model without its arrays, as `vitjax.nn.functional.merge` takes it."""
        return functional.abstract(lambda rngs: self.config.build(rngs=rngs))[0]

    def logits(
        self, source: Any, decoder_tokens: Any = None, *, source_mask: Any = None
    ) -> Float[Array, "..."]:
        """Class logits [B, classes] of images, or logits [B, T, V] of each next token, teacher-forced."""
        source = self._prepared(source)
        if (decoder_tokens is None) != (self.tokenizer is None):
            raise ValueError(
                "this model writes sequences: logits needs decoder_tokens [B, T]"
                if decoder_tokens is None
                else "this model names classes: logits takes images alone"
            )
        if decoder_tokens is None:
            return _logits(self.definition, self.params, self.stats, source)
        return _token_logits(self.definition, self.params, self.stats, source, decoder_tokens, source_mask)

    def features(self, images: Any) -> Features:
        """`tokens` [B, N, D] and `pooled` [B, D] of an image classifier."""
        if self.tokenizer is not None:
            raise ValueError("this model writes sequences: features are those of an image classifier")
        return _features(self.definition, self.params, self.stats, self._prepared(images))

    def generate(
        self,
        source: Any,
        *,
        source_mask: Any = None,
        prompt: Any = None,
        prompt_mask: Any = None,
        return_attention: bool = False,
        batch_size: int | None = None,
        **options: Any,
    ) -> Generated:
        """Write a sequence for each row.

        Args:
          source: images as above, or int tokens [B, S].
          prompt: [B, T] first tokens of each row, left-padded where `prompt_mask` is False.
          return_attention: also tell where the decoder looked, by one parallel pass over what was written.
          batch_size: rows to pad to, for a last batch that is smaller than those before: it compiles nothing.
          options: fields of `GenerationConfig`, named as in transformers (num_beams, max_length, length_penalty,
            early_stopping, num_return_sequences, ...); the rest is as in training.
        """
        if self.tokenizer is None:
            raise ValueError("this model names classes and writes no sequences: use .logits")
        config = self.generation_config(**options)
        source = self._sized(source)
        grid = image_encoder(self.config).grid(source.shape[1:3]) if self.preprocess is not None else None
        model = (self.definition, self.params)
        rows = source.shape[0]
        source, source_mask = pad_source(
            *model, source, source_mask=source_mask, stats=self.stats, batch_size=batch_size
        )
        source = self._normalized(source)
        start = time.perf_counter()
        encoded = encode(*model, source, source_mask=source_mask, stats=self.stats)
        watch = _WATCH.submit(_ready_at, encoded)
        out = decode(
            *model,
            encoded,
            prompt=prompt,
            prompt_mask=prompt_mask,
            stats=self.stats,
            config=config,
            rows=rows,
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

    def _prepared(self, source: Any) -> Any:
        """Normalised images, or tokens as they are."""
        return self._normalized(self._sized(source))

    def _normalized(self, source: Any) -> Any:
        if self.preprocess is None or source.dtype != np.uint8:
            return source
        return normalize(source, self.preprocess.mean, self.preprocess.std)

    def _sized(self, source: Any) -> Any:
        """uint8 images of the model's size, normalised ones or tokens as they are; else ValueError."""
        if not hasattr(source, "dtype"):
            source = np.asarray(source)
        found = f"{source.dtype}{list(source.shape)}"
        if self.preprocess is None:
            if source.ndim != 2 or not np.issubdtype(source.dtype, np.integer):
                raise ValueError(f"this model takes int tokens [B, S], not {found}")
            return source
        if source.ndim != 4 or not (source.dtype == np.uint8 or jnp.issubdtype(source.dtype, jnp.floating)):
            raise ValueError(
                f"this model takes images [B, H, W, channels], uint8 or normalised float, not {found}"
            )
        if source.dtype == np.uint8:
            return np.stack([self.preprocess(image) for image in np.asarray(source)])
        if source.shape[-1] != self.preprocess.channels:
            raise ValueError(f"this model takes images of {self.preprocess.channels} channels, not {found}")
        return source


# Waiting for the encoder in the main thread would keep the decoder from being enqueued behind it.
_WATCH = ThreadPoolExecutor(1, thread_name_prefix="encode_seconds")


def _ready_at(arrays: Any) -> float:
    jax.block_until_ready(arrays)
    return time.perf_counter()


def load(path: str | Path, *, mesh: Mesh | None = None) -> Model:
    """Read a run of `vitjax train`: its newest good checkpoint, verified, with the averaged parameters if it kept any.

    Args:
      mesh: devices to spread the parameters over, by the rules of `vitjax.parallel.sharding`; None is one device.

    Raises:
      ValueError: the directory is not a run, or its files do not fit together.
      FileNotFoundError: it has no good checkpoint.
    """
    config = load_run_config(path)
    _, expected, expected_stats = functional.abstract(lambda rngs: config.model.build(rngs=rngs))
    arrays, _ = checkpoints.restore(Path(path) / "checkpoints", only=("params", "frozen", "stats", "ema"))
    params = join(arrays.get("ema") or arrays["params"], arrays.get("frozen") or {})
    require_same_shapes(expected, params, str(path))
    stats = arrays.get("stats") or {}
    require_same_shapes(expected_stats, stats, str(path))
    place = (lambda tree: shardings(tree, mesh)) if mesh is not None else (lambda tree: None)
    return Model(
        config=config.model,
        params=jax.device_put(params, place(params)),
        stats=jax.device_put(stats, place(stats)),
        preprocess=Preprocess.of(config.data) if reads_images(config.model) else None,
        tokenizer=None if is_classifier(config) else load_tokenizer(path),
        generation=config.generation,
    )


def load_run_config(path: str | Path) -> Config:
    """`config.json` of a run; ValueError if the directory is not a run."""
    file = Path(path) / "config.json"
    if not file.is_file():
        raise ValueError(f"{path} is not a run of vitjax train: it has no config.json")
    return from_json(file.read_text(encoding="utf-8", errors="replace"), where=str(file))


def require_same_shapes(expected: Tree, found: Tree, where: str) -> None:
    """Raise one line that names the first parameter whose shape or dtype is not the model's."""
    ours, theirs = named_leaves(expected), named_leaves(found)
    for name in sorted({*ours, *theirs}):
        if name not in theirs or name not in ours:
            raise ValueError(
                f"{where}: parameter {name} is {'missing' if name in ours else 'not in the model'}"
            )
        a, b = ours[name], theirs[name]
        if a.shape != b.shape or a.dtype != b.dtype:
            raise ValueError(f"{where}: {name} is {b.dtype}{b.shape}, the model has {a.dtype}{a.shape}")


@partial(jax.jit, static_argnums=0)
def _logits(definition: nnx.GraphDef, params: Tree, stats: Tree, images: Array) -> Array:
    return merge(definition, params, stats)(images, train=False)


@partial(jax.jit, static_argnums=0)
def _token_logits(
    definition: nnx.GraphDef, params: Tree, stats: Tree, source: Array, tokens: Array, mask: Array | None
) -> Array:
    return merge(definition, params, stats)(source, tokens, source_mask=mask, train=False)


@partial(jax.jit, static_argnums=0)
def _features(definition: nnx.GraphDef, params: Tree, stats: Tree, images: Array) -> Features:
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
