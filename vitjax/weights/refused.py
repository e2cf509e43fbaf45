"""Weights that vitjax does not open, and how their owner converts them.

A pickle (`.bin`, `.pt`, `.pth`, `.pkl`, a `.npy` of objects) runs whatever code it holds when it is opened; `.h5` and
`.msgpack` need TensorFlow or a Flax that transformers no longer has. All are known by their names alone: nothing here
opens one.
"""

import shlex
from pathlib import Path

_TORCH = (".bin", ".pt", ".pth", ".ckpt", ".tar")
_PICKLE = (".pkl", ".pickle", ".joblib")
_KERAS = (".h5", ".hdf5", ".keras")
SUFFIXES = (*_TORCH, *_PICKLE, *_KERAS, ".npy", ".msgpack")

# Each is given the file (or folder) and what to write, as its arguments.
_BY_TORCH = """import sys, torch; from safetensors.torch import save_file; \
s = torch.load(sys.argv[1], map_location='cpu', weights_only=True); s = s.get('state_dict', s.get('model', s)); \
save_file({k: v.clone().contiguous() for k, v in s.items()}, sys.argv[2], {'format': 'pt'})"""
_BY_TRANSFORMERS = """import sys, transformers as t; d = sys.argv[1]; \
m = getattr(t, t.AutoConfig.from_pretrained(d).architectures[0]); \
m.from_pretrained(d{option}).save_pretrained(sys.argv[2], safe_serialization=True)"""
_BY_PICKLE = """import sys, pickle, numpy; \
numpy.savez(sys.argv[2], **pickle.load(open(sys.argv[1], 'rb')))"""
_BY_NUMPY = """import sys, numpy; \
numpy.savez(sys.argv[2], **numpy.load(sys.argv[1], allow_pickle=True).item())"""


def is_refused(file: Path) -> bool:
    """Whether the name says that it holds weights in a form that is not opened."""
    return file.suffix.lower() in SUFFIXES


def convertibility(file: Path) -> tuple[int, str]:
    """Sorts refused files: what is most easily converted first."""
    return SUFFIXES.index(file.suffix.lower()), file.name


def refusal(file: Path) -> str:
    """One line: what the file is, that it was not opened, and a command that converts it."""
    suffix, folder = file.suffix.lower(), file.parent
    safe = file.with_suffix(".safetensors")
    if suffix in _TORCH and not _of_transformers(folder):
        return _line(
            file, "a pickle of torch, which can run any code", "torch, safetensors", _BY_TORCH, file, safe
        )
    if suffix in _TORCH:
        command = _BY_TRANSFORMERS.format(option="")
        return _line(
            file, "a pickle of torch, which can run any code", "torch, transformers", command, folder, folder
        )
    if suffix in _PICKLE:
        archive = file.with_suffix(".npz")
        return _line(
            file,
            "a pickle, which can run any code",
            "what made it, if you trust it",
            _BY_PICKLE,
            file,
            archive,
        )
    if suffix == ".npy":
        archive = file.with_suffix(".npz")
        return _line(
            file, "one array, or a pickle of them", "numpy, if you trust it", _BY_NUMPY, file, archive
        )
    package, option = ("flax", "from_flax") if suffix == ".msgpack" else ("tensorflow", "from_tf")
    command = _BY_TRANSFORMERS.format(option=f", {option}=True")
    return _line(file, f"made by {package}", f"'transformers<5', torch, {package}", command, folder, folder)


def hub_refusal(repository: str, folder: str) -> str:
    """One line: a repository of the hub has nothing that is opened, and commands that make a folder of it."""
    fetch = f"hf download {shlex.quote(repository)} --local-dir {shlex.quote(folder)}"
    convert = _run(_BY_TRANSFORMERS.format(option=""), folder, folder)
    return (
        f"{repository} has no safetensors or .npz, and pickles are not fetched: convert it in an environment with "
        f"torch, transformers: {fetch} && {convert}"
    )


def _line(file: Path, what: str, needs: str, command: str, source: Path, target: Path) -> str:
    run = _run(command, str(source), str(target))
    return f"{file} is {what}: not opened; convert it in an environment with {needs}: {run}"


def _run(command: str, source: str, target: str) -> str:
    return f'python -c "{command}" {shlex.quote(source)} {shlex.quote(target)}'


def _of_transformers(folder: Path) -> bool:
    """Whether the folder's config.json names a class of transformers."""
    config = folder / "config.json"
    if not config.is_file():
        return False
    with open(config, "rb") as file:
        return b'"architectures"' in file.read(2**20)
