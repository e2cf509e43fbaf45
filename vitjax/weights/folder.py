"""What a folder of weights holds: one file, or several under an index.

Against: pickles, which are named and never opened (`vitjax.weights.refused`); an index that names files outside its
folder; and folders fetched in part or mixed from two, where the index and the files disagree. Files may be links, as
those of the hub's cache are.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from vitjax.weights.npz_file import NpzFile
from vitjax.weights.refused import convertibility, is_refused, refusal
from vitjax.weights.safetensors_file import SafetensorsFile, write_safetensors
from vitjax.weights.stored import check_name, file_status, plain, strict_json
from vitjax.weights.tensors import Tensors, TensorSpec
from vitjax.weights.writing import Storable, replacing

ONE_FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_INDEX_BYTES = 8 * 2**20


def open_tensors(path: str | Path) -> Tensors:
    """The arrays of a checkpoint: of a `.safetensors` or `.npz` file, or of the folder that holds one.

    Of a folder, `model.safetensors` is taken first, as transformers does, then `model.safetensors.index.json` with the
    files it lists, then the only `.safetensors`, then the only `.npz` file.

    Raises:
        ValueError: one line that names the file and the tensor: damaged, truncated, mixed, ambiguous, or of a kind that
            is not opened, with the command that converts it.
        OSError: there is no such file, or it cannot be read.
    """
    path = Path(path)
    if not path.is_dir():
        return _open_file(path)
    if _is_there(path / ONE_FILE):
        return SafetensorsFile(path / ONE_FILE)
    if _is_there(path / INDEX):
        return _open_indexed(path / INDEX)
    files = sorted(file for file in path.iterdir() if not file.name.startswith(".") and not file.is_dir())
    for suffix in (".safetensors", ".npz"):
        found = [file for file in files if file.suffix == suffix]
        if len(found) == 1:
            return _open_file(found[0])
        if found:
            names = ", ".join(file.name for file in found[:4])
            raise ValueError(
                f"{path} holds {len(found)} {suffix} files ({names}) and no {INDEX}; name one of them"
            )
    if refused := sorted(filter(is_refused, files), key=convertibility):
        raise ValueError(refusal(refused[0]))
    names = ", ".join(file.name for file in files[:4]) or "nothing"
    raise ValueError(f"{path} holds no weights: expected {ONE_FILE}, {INDEX} or an .npz file, found {names}")


def write_tensors(
    folder: str | Path,
    arrays: Mapping[str, Storable],
    metadata: Mapping[str, str] | None = None,
    file_bytes: int = 5 * 10**9,
) -> list[Path]:
    """Writes `arrays` into `folder`: as `model.safetensors`, or in files of at most `file_bytes` and their index.

    Each file appears whole or not at all, the index last. A tensor larger than `file_bytes` has a file of its own.

    Returns:
        The files, in the order written.

    Raises:
        FileExistsError: other weights are there, with which a reader could confuse these.
    """
    folder = Path(folder)
    groups: list[dict[str, Storable]] = [{}]
    filled = total = 0
    for name, array in arrays.items():
        size = math.prod(array.shape) * array.dtype.itemsize
        if filled + size > file_bytes and groups[-1]:
            groups.append({})
            filled = 0
        groups[-1][name] = array
        filled, total = filled + size, total + size
    files = [folder / f"model-{i:05}-of-{len(groups):05}.safetensors" for i in range(1, len(groups) + 1)]
    if len(groups) == 1:
        files = [folder / ONE_FILE]
    others = [file for file in sorted(folder.glob("model*.safetensors*")) if files != [file]]
    if others:
        raise FileExistsError(f"{others[0]} is there already; write to another folder, or remove it first")
    for file, group in zip(files, groups, strict=True):
        write_safetensors(file, group, metadata)
    if len(groups) == 1:
        return files
    places = {name: file.name for file, group in zip(files, groups, strict=True) for name in group}
    with replacing(folder / INDEX) as index:
        text = json.dumps({"metadata": {"total_size": total}, "weight_map": places}, indent=2)
        index.write(text.encode() + b"\n")
    return [*files, folder / INDEX]


class _Indexed:
    """The arrays of several files, by the file that holds each."""

    def __init__(self, holders: Mapping[str, Tensors]) -> None:
        self._holders = holders
        self.specs: Mapping[str, TensorSpec] = {name: file.specs[name] for name, file in holders.items()}

    def read(self, name: str, index: tuple[slice, ...] | None = None) -> np.ndarray:
        return self._holders[name].read(name, index)


def _open_file(path: Path) -> Tensors:
    if path.name.endswith(".safetensors.index.json"):
        return _open_indexed(path)
    if is_refused(path):
        file_status(path)
        raise ValueError(refusal(path))
    if path.suffix == ".safetensors":
        return SafetensorsFile(path)
    if path.suffix == ".npz":
        return NpzFile(path)
    file_status(path)
    raise ValueError(f"{path} is no checkpoint: expected a folder, a .safetensors or an .npz file")


def _open_indexed(path: Path) -> Tensors:
    places = _places(path)
    folder = path.parent
    files: dict[str, SafetensorsFile] = {}
    for name, file in places.items():
        if file not in files:
            if not _is_there(folder / file):
                raise ValueError(
                    f"{folder / file} is missing, which {path.name} says holds {plain(name)}; fetch the folder again"
                )
            files[file] = SafetensorsFile(folder / file)
        if name not in files[file].specs:
            raise ValueError(
                f"{folder / file} does not hold {plain(name)}, which {path.name} says it does; "
                "the folder is mixed from two checkpoints, fetch it again"
            )
    for file, tensors in files.items():
        for name in tensors.specs:
            if places.get(name) != file:
                raise ValueError(
                    f"{folder / file} holds {plain(name)}, which {path.name} says is "
                    f"{'in ' + places[name] if name in places else 'nowhere'}; "
                    "the folder is mixed from two checkpoints, fetch it again"
                )
    return _Indexed({name: files[file] for name, file in places.items()})


def _places(path: Path) -> dict[str, str]:
    """The name of the file of each tensor."""
    if file_status(path).st_size > MAX_INDEX_BYTES:
        raise ValueError(f"{path} is larger than {MAX_INDEX_BYTES} bytes; it is no index of weights")
    try:
        places = strict_json(path.read_bytes()).get("weight_map")
        if not isinstance(places, dict) or not places:
            raise ValueError("it has no weight_map of tensors and files")
        for name, file in places.items():
            check_name(name)
            if not isinstance(file, str) or Path(file).name != file or not file.endswith(".safetensors"):
                raise ValueError(
                    f"{plain(name)} is in {plain(file)}, expected a .safetensors file of the same folder"
                )
            check_name(file)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return places


def _is_there(path: Path) -> bool:
    """Also a link to nothing, which is an error to be told of and not an absence."""
    return path.exists() or path.is_symlink()
