"""How a checkpoint generates by itself: transformers' generation config as ours, and back."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from vitjax.decoding.config import GenerationConfig
from vitjax.weights.checkpoint import read_json

FILE = "generation_config.json"
_OPTIONS = {field.name: field for field in fields(GenerationConfig)}
_ADAPTER = TypeAdapter(GenerationConfig)
_OURS = ("rules", "cache_dtype")  # transformers knows nothing of them
TOKEN_IDS = ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id")
# What changes the tokens that transformers writes and is not here, with the values that switch it off.
_LACKING: dict[str, tuple[Any, ...]] = {
    "constraints": (),
    "dola_layers": (),
    "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1.0,),
    "exponential_decay_length_penalty": (),
    "force_words_ids": (),
    "guidance_scale": (1.0,),
    "max_time": (),
    "penalty_alpha": (0.0,),
    "prompt_lookup_num_tokens": (),
    "sequence_bias": ({},),
    "speculation_type": (),
    "stop_strings": ([], ""),
    "token_healing": (False,),
    "top_h": (),
    "use_mtp": (False,),
    "watermarking_config": (),
}


def read_generation(folder: str | Path) -> GenerationConfig:
    """How the model in a folder generates where `generate` is given no options.

    As transformers 5 reads it: generation_config.json alone where there is one, else what config.json says, and where
    that says nothing, its `decoder`. What is unset is as in `GenerationConfig`.

    Raises:
      ValueError: one line that names the file and the option: damaged, out of range, or not to be had here.
    """
    path, found = _read(Path(folder))
    for name, off in _LACKING.items():
        if found.get(name) is not None and found[name] not in off:
            raise ValueError(f"{path}: {name} is {found[name]!r:.80}, which vitjax does not do: take it out")
    options = {name: found[name] for name in _OPTIONS if found.get(name) is not None and name not in _OURS}
    if found.get("force_bos_token_to_be_generated") and "bos_token_id" in options:
        options.setdefault("forced_bos_token_id", options["bos_token_id"])
    return _config(path, options)


class SpecialIds(NamedTuple):
    """What a model begins with, may end with, and pads with; None and () where its folder does not say."""

    start: int | None
    ends: tuple[int, ...]
    pad: int | None


def read_ids(folder: str | Path) -> SpecialIds:
    """The special tokens that `read_generation` goes by. Raises ValueError as it does, for these alone."""
    path, found = _read(Path(folder))
    config = _config(path, {name: found[name] for name in TOKEN_IDS if found.get(name) is not None})
    start = config.bos_token_id if config.decoder_start_token_id is None else config.decoder_start_token_id
    return SpecialIds(start, config.stop_ids, config.pad_token_id)


def write_generation(config: GenerationConfig) -> dict[str, Any]:
    """The fields of generation_config.json, which `read_generation` reads as the same config.

    `cache_dtype`, which is a matter of memory, is left out.

    Raises:
      ValueError: transformers cannot be told of this config.
    """
    if config.rules != "transformers":
        raise ValueError(
            f"generation with rules={config.rules!r} cannot be told in {FILE}, which transformers reads: save it with "
            "rules='transformers'"
        )
    default = GenerationConfig()
    changed = {
        name: _plain(getattr(config, name))
        for name in _OPTIONS
        if name not in _OURS and getattr(config, name) != getattr(default, name)
    }
    for name in ("eos_token_id", "forced_eos_token_id"):
        if len(changed.get(name, ())) == 1:
            changed[name] = changed[name][0]
    return changed


def _read(folder: Path) -> tuple[Path, Mapping[str, Any]]:
    """Where it stands, and the fields."""
    path = folder / FILE
    if path.is_file():
        return path, read_json(path)
    path = folder / "config.json"
    outer = read_json(path) if path.is_file() else {}
    inner: Any = next(filter(None, map(outer.get, ("decoder", "generator", "text_config"))), {})
    if not isinstance(inner, dict):
        raise ValueError(f"{path}: the decoder's config is a {type(inner).__name__}, expected an object")
    inner = {name: value for name, value in inner.items() if name in _OPTIONS or name in _LACKING}
    return path, inner | {name: value for name, value in outer.items() if value is not None}


def _config(path: Path, options: Mapping[str, Any]) -> GenerationConfig:
    try:
        return _ADAPTER.validate_python(options)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if "error" in first.get("ctx", {}):  # of the config itself
            raise ValueError(f"{path}: {first['ctx']['error']}") from None
        name = first["loc"][0] if first["loc"] else "it"
        raise ValueError(f"{path}: {name} is {options.get(str(name))!r:.80}: {first['msg']}") from None


def _plain(value: Any) -> Any:
    return [_plain(each) for each in value] if isinstance(value, tuple) else value
