"""A model as one program, which `jax.export` loads where there is neither vitjax nor flax.

The program holds the parameters and all that lies between pixels or tokens and the answer. Beside it lie a JSON file
that says what it takes and gives, and the tokenizer's files.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import jax.export
import jax.numpy as jnp
import jaxlib
from jaxtyping import Array

from vitjax import __version__
from vitjax.data.preprocess import Preprocess
from vitjax.decoding.config import GenerationConfig
from vitjax.decoding.generate import encode_and_decode
from vitjax.decoding.request import longest
from vitjax.model import Model
from vitjax.models.config import image_encoder, reads_images
from vitjax.nn.functional import merge

Dtype = Literal["float32", "bfloat16", "float16"]
Platform = Literal["cpu", "cuda", "rocm", "tpu"]
PLATFORMS = ("cpu", "cuda", "tpu")

# jax.export puts a program into one flatbuffer of at most 2 GiB; what is not parameters needs little of it
MOST_BYTES = 2**31 - 2**24

ABOUT = {
    "images": "pixels, brought to this size as `preprocess` says; the program normalises them",
    "pixels": "normalised pixels; the model came without preprocessing",
    "source": "tokens as the tokenizer makes them, padded on the right",
    "source_mask": "true where a token is real",
    "seed": "what is drawn depends on it and on a row's place in the batch alone",
    "logits": "of each class, before softmax or sigmoid",
    "features": "of class token, registers and patches, in this order, after the last norm",
    "pooled": "the image as one vector",
    "tokens": "sequences of each row, best first, with the decoder prompt and EOS, then padding",
    "scores": "sum of log-probabilities / length ** length_penalty",
    "lengths": "tokens before the padding",
}


def export(
    model: Model,
    path: str | Path,
    *,
    platforms: Sequence[str] = PLATFORMS,
    image_size: tuple[int, int] | None = None,
    dtype: str = "float32",
    **options: Any,
) -> dict[str, Any]:
    """Write the model as a program at `path`, and what it takes and gives at `path` + ".json".

    The program takes arrays in the order of the JSON's `inputs` and gives a dict of its `outputs`; B, and S of texts,
    are any numbers:

    - `images` uint8 [B, H, W, channels], or of a model without preprocessing `pixels` float32 [B, H, W, channels],
      normalised; of text `source` int32 [B, S] and `source_mask` bool [B, S]; with `do_sample` also `seed` uint32 []
    - `logits` float32 [B, classes]; without a head `features` [B, N, D] and `pooled` [B, D]; of a model that writes
      `tokens` int32 [B, N, T], `scores` float32 [B, N], `lengths` int32 [B, N], as `model.generate` gives them

    All rows are written until the last of them is done, none is left behind earlier (`vitjax.decoding.loop`). The file
    is read by the version of jax that wrote it and by newer ones.

    Args:
      platforms: where it is to run: cpu, cuda, rocm, tpu.
      image_size: height and width of the images; None is the model's own.
      dtype: of the parameters in the file; they are computed with as before, but the two short ones are rounded.
      options: of `Model.generate`, if the model writes.

    Returns:
      What the JSON file says.

    Raises:
      ValueError: an option makes no sense for this model, or the parameters do not fit into one file.
    """
    path = Path(path)
    _require_one_of("platform", platforms, get_args(Platform))
    _require_one_of("dtype", [dtype], get_args(Dtype))
    generation = _generation(model, options)
    size = _image_size(model, image_size)
    preprocess = model.preprocess.at(size) if size is not None and model.preprocess is not None else None
    arrays = _kept((model.params, model.stats), dtype)
    _require_room(arrays, path, dtype)
    inputs, limits = _source(model, size)
    if generation is not None and generation.do_sample:
        inputs["seed"] = jax.ShapeDtypeStruct((), jnp.uint32)
    program = _program(model, arrays, list(inputs), preprocess, generation)
    with _no_source_paths():
        exported = jax.export.export(jax.jit(program), platforms=tuple(platforms))(*inputs.values())
        data = exported.serialize()
    about = {
        "program": {
            "file": path.name,
            "bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
            "platforms": list(exported.platforms),
            "parameters": {"count": sum(leaf.size for leaf in jax.tree.leaves(arrays)), "dtype": dtype},
        },
        "inputs": _described(inputs, **limits),
        "outputs": _described(jax.tree.unflatten(exported.out_tree, exported.out_avals)),
        "preprocess": None if preprocess is None else preprocess.to_dict(),
        "generation": None if generation is None else _changed(generation),
        "tokenizer": _save_tokenizer(model, path),
        "made_with": {"vitjax": __version__, "jax": jax.__version__, "jaxlib": jaxlib.__version__},
        "made_from": model.fingerprint(),
    }
    text = json.dumps(about, indent=2) + "\n"
    _write(path, data)
    _write(path.with_name(f"{path.name}.json"), text.encode())
    return json.loads(text)


def _generation(model: Model, options: dict[str, Any]) -> GenerationConfig | None:
    if model.writes:
        return model.generation_config(**options)
    if options:
        raise ValueError(f"this model names classes and writes no sequences: leave {next(iter(options))} out")
    return None


def _image_size(model: Model, image_size: tuple[int, int] | None) -> tuple[int, int] | None:
    """Of the images; None if the model reads text."""
    if not reads_images(model.config):
        if image_size is not None:
            raise ValueError("this model reads text: it has no use for an image size")
        return None
    encoder = image_encoder(model.config)
    size = image_size or getattr(model.preprocess or encoder, "image_size", None)
    if size is None:
        raise ValueError(
            "this model reads images of any size and came without preprocessing: say which image size"
        )
    encoder.grid(size)  # raises if the patches do not divide it
    return size


def _kept(arrays: Any, dtype: str) -> Any:
    """The arrays as the file holds them, on one device."""

    def kept(leaf: Any) -> Array:
        leaf = jax.device_put(jax.device_get(leaf), jax.local_devices()[0])
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(kept, arrays)


def _require_room(arrays: Any, path: Path, dtype: str) -> None:
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(arrays))
    if size > MOST_BYTES:
        raise ValueError(
            f"{path}: the parameters take {size / 1e9:.2f} GB in {dtype}, and a file of jax.export holds "
            f"{MOST_BYTES / 1e9:.2f} GB at most: "
            + ("keep them in bfloat16" if dtype == "float32" else "this model is too large to be exported")
        )


def _source(
    model: Model, image_size: tuple[int, int] | None
) -> tuple[dict[str, jax.ShapeDtypeStruct], dict[str, str]]:
    """What the program reads, in order; and of inputs whose size has a limit, this limit."""
    if image_size is not None:
        (batch,) = jax.export.symbolic_shape("batch")
        shape = (batch, *image_size, image_encoder(model.config).channels)
        if model.preprocess is None:
            return {"pixels": jax.ShapeDtypeStruct(shape, jnp.float32)}, {}
        return {"images": jax.ShapeDtypeStruct(shape, jnp.uint8)}, {}
    most, _ = longest(model.definition, model.params, model.stats)
    limit = () if most is None else (f"source <= {most}",)
    rows = jax.export.symbolic_shape("batch, source", constraints=limit)
    inputs = {
        "source": jax.ShapeDtypeStruct(rows, jnp.int32),
        "source_mask": jax.ShapeDtypeStruct(rows, bool),
    }
    return inputs, dict.fromkeys(inputs, *limit) if limit else {}


def _program(
    model: Model,
    arrays: Any,
    names: list[str],
    preprocess: Preprocess | None,
    generation: GenerationConfig | None,
) -> Callable[..., dict[str, Array]]:
    dtypes = jax.tree.map(lambda leaf: leaf.dtype, (model.params, model.stats))

    def program(*values: Array) -> dict[str, Array]:
        params, stats = jax.tree.map(lambda leaf, dtype: leaf.astype(dtype), arrays, dtypes)
        network = merge(model.definition, params, stats)
        given = dict(zip(names, values, strict=True))
        source = values[0] if preprocess is None else preprocess.normalize(given["images"])
        if generation is not None:
            out = encode_and_decode(
                network,
                source,
                source_mask=given.get("source_mask"),
                config=generation,
                key=jax.random.key(given["seed"]) if generation.do_sample else None,
            )
            return {"tokens": out.tokens, "scores": out.scores, "lengths": out.lengths}
        if image_encoder(model.config).num_classes:
            return {"logits": network(source, train=False)}
        out = network.features(source, train=False)
        return {"features": out.tokens, **({} if out.pooled is None else {"pooled": out.pooled})}

    return program


@contextmanager
def _no_source_paths() -> Iterator[None]:
    """Programs that do not name the files of this machine that they were traced from."""
    config: Any = jax.config  # not every jax declares its flags
    before = config.jax_traceback_in_locations_limit
    config.update("jax_traceback_in_locations_limit", 0)
    try:
        yield
    finally:
        config.update("jax_traceback_in_locations_limit", before)


def _described(arrays: dict[str, Any], **limits: str) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "dtype": str(array.dtype),
            "shape": [size if isinstance(size, int) else str(size) for size in array.shape],
            "about": ABOUT[name],
        }
        | ({"limit": limits[name]} if name in limits else {})
        for name, array in arrays.items()
    ]


def _save_tokenizer(model: Model, path: Path) -> dict[str, Any] | None:
    tokenizer = model.tokenizer
    if tokenizer is None:
        return None
    folder = path.with_name(f"{path.name}.tokenizer")
    folder.mkdir(exist_ok=True)
    tokenizer.save(folder)
    return {"folder": folder.name, "pad": tokenizer.pad, "bos": tokenizer.bos, "eos": tokenizer.eos}


def _changed(config: GenerationConfig) -> dict[str, Any]:
    """The options that are not transformers' defaults."""
    default = GenerationConfig()
    return {name: value for name, value in vars(config).items() if value != getattr(default, name)}


def _require_one_of(what: str, given: Sequence[str], known: Sequence[str]) -> None:
    for name in given or [""]:
        if name not in known:
            raise ValueError(f"there is no {what} {name!r}: expected {', '.join(known)}")


def _write(path: Path, data: bytes | bytearray) -> None:
    """All of it or nothing: a process that is loading the file reads the old one to its end."""
    scratch = path.with_name(f"{path.name}.partial")
    try:
        scratch.write_bytes(data)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
