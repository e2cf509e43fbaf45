"""What `vitjax inspect` knows of a run, a saved model or a checkpoint, as JSON can hold it."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitjax.commands.sizes import describe
from vitjax.data.preprocess import Preprocess
from vitjax.models.config import CLASSIFIERS, ModelConfig, reads_images
from vitjax.nn import functional
from vitjax.parallel.paths import named_leaves
from vitjax.training import checkpoints
from vitjax.training.config import to_json
from vitjax.training.runs import load_run_config
from vitjax.training.saved_folder import read_config
from vitjax.training.start import load_start
from vitjax.training.tokenizer_file import load_tokenizer
from vitjax.weights.checkpoint import Checkpoint, open_checkpoint
from vitjax.weights.folder import open_tensors
from vitjax.weights.generation import read_generation, write_generation
from vitjax.weights.preprocessing import read_preprocessing
from vitjax.weights.tensors import Tensors, TensorSpec
from vitjax.weights.tokenizer import read_tokenizer

Record = dict[str, Any]


def run_record(path: Path) -> Record:
    """Of a run of `vitjax train`."""
    config = load_run_config(path)
    directory = path / "checkpoints"
    arrays, metadata = checkpoints.describe(directory)
    parameters = {
        part: sum(math.prod(a["shape"]) for name, a in arrays.items() if name.startswith(f"{part}/"))
        for part in ("params", "params/lora", "frozen", "ema")
    }
    start, factors = load_start(path), parameters["params/lora"]
    return {
        "path": str(path),
        "what": f"a run of vitjax train, {config.model.kind}",
        "model": config.model.kind,
        "sizes": describe(config.model),
        "parameters": parameters["params"] - factors + parameters["frozen"],
        "trainable": parameters["params"],
        "factors": factors or None,
        "averaged": parameters["ema"] > 0,
        "started": start.lines() if start is not None else None,
        "steps": checkpoints.steps(directory),
        "data": metadata["data"],
        "preprocess": Preprocess.of(config.data).to_dict() if reads_images(config.model) else None,
        "tokenizer": None if isinstance(config.model, CLASSIFIERS) else load_tokenizer(path).to_dict(),
        "licence": licence(path),
        "config": json.loads(to_json(config)),
        "arrays": {name: {"shape": tuple(a["shape"]), "dtype": a["dtype"]} for name, a in arrays.items()},
    }


def saved_record(path: Path) -> Record:
    """Of what `vitjax.save` wrote in a format of ours."""
    config = read_config(path)
    family = f", first read as {config.family}" if config.family else ""
    return {
        "path": str(path),
        "what": f"a model saved by vitjax{family}",
        **_model(config.model),
        "preprocess": config.preprocess.to_dict() if config.preprocess else None,
        "tokenizer": load_tokenizer(path).to_dict() if config.has_tokenizer else None,
        "licence": licence(path),
        "arrays": _arrays(_expected(config.model)),
    }


def checkpoint_record(path: Path) -> Record:
    """Of somebody's checkpoint; one that vitjax cannot load is told as far as it can be seen, with the reason."""
    tensors = open_tensors(path)
    try:
        checkpoint = open_checkpoint(path)
    except ValueError as error:
        return {
            "path": str(path),
            "what": "a checkpoint that vitjax cannot load",
            "supported": False,
            "why": str(error),
            "files": _files(tensors.specs),
            "licence": licence(path),
            "arrays": _arrays(tensors.specs),
        }
    writing = _writing(checkpoint)
    return {
        "path": str(path),
        "what": f"{checkpoint.family.name}, {'fully supported' if 'why' not in writing else 'not fully supported'}",
        "supported": True,
        **_model(checkpoint.config),
        **writing,
        "files": _files(tensors.specs),
        "ignored": _ignored(checkpoint, tensors),
        "preprocess": _preprocess(path),
        "licence": licence(path),
        "arrays": _arrays(tensors.specs),
    }


def licence(path: Path) -> str | None:
    """The licence that lies in a folder, or the name of one in the header of its README; None if there is neither."""
    if not path.is_dir():
        return None
    for file in sorted(path.iterdir()):
        if file.is_file() and file.stem.lower() in ("license", "licence", "copying"):
            return file.read_text(encoding="utf-8", errors="replace")
    readme = path / "README.md"
    if readme.is_file():
        head, _, body = readme.read_text(encoding="utf-8", errors="replace").partition("\n")
        if head.strip() == "---":
            for line in body.partition("\n---")[0].splitlines():
                if line.startswith(("license:", "license_name:")):
                    return line.partition(":")[2].strip()
    return None


def _model(config: ModelConfig) -> Record:
    counted = sum(leaf.size for name, leaf in _expected(config).items() if name.startswith("params/"))
    return {"model": config.kind, "sizes": describe(config), "parameters": counted}


def _expected(config: ModelConfig) -> Mapping[str, Any]:
    _, params, stats = functional.abstract(lambda rngs: config.build(rngs=rngs))
    return named_leaves({"params": params, "stats": stats})


def _writing(checkpoint: Checkpoint) -> Record:
    """Of a model that writes: its tokenizer and how it generates, or why vitjax has not got them."""
    if isinstance(checkpoint.config, CLASSIFIERS):
        return {}
    try:
        tokenizer, generation = read_tokenizer(checkpoint.path), read_generation(checkpoint.path)
    except ValueError as error:
        return {"supported": False, "why": str(error)}
    return {
        "tokenizer": None if tokenizer is None else tokenizer.to_dict(),
        "generation": write_generation(generation),
    }


def _preprocess(path: Path) -> Record | None:
    preprocess = read_preprocessing(path) if path.is_dir() else None
    return preprocess.to_dict() if preprocess is not None else None


def _files(specs: Mapping[str, TensorSpec]) -> Record:
    kinds = sorted({spec.dtype for spec in specs.values()})
    files = sorted({Path(spec.file).name for spec in specs.values()})
    return {"names": " ".join(files), "arrays": len(specs), "dtypes": " ".join(kinds)}


def _ignored(checkpoint: Checkpoint, tensors: Tensors) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = {}
    for name in tensors.specs:
        if (why := checkpoint.ignores(name)) is not None:
            reasons.setdefault(why, []).append(name)
    return reasons


def _arrays(specs: Mapping[str, Any]) -> Record:
    return {name: {"shape": tuple(spec.shape), "dtype": str(spec.dtype)} for name, spec in specs.items()}
