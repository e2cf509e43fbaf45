"""What a case is: a tiny random checkpoint of one family in a folder, with what the reference computes from it."""

import json
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch


@dataclass(frozen=True)
class Sizes:
    """Of a tiny model. A case reads those that its family has."""

    width: int = 24
    heads: int = 3
    hidden: int = 44
    layers: int = 2
    patch: int = 5
    image: int = 25
    other: tuple[int, int] = (35, 20)
    labels: int = 7
    vocabulary: int = 60


@dataclass(frozen=True)
class Case:
    """`build(folder, seed, sizes)` saves a checkpoint and returns the arrays and what case.json says of them."""

    name: str
    build: Callable
    seed: int
    sizes: Sizes

    def make(self, folder: Path, seed: int | None = None, sizes: Sizes | None = None) -> dict:
        """The checkpoint, expected.npz and case.json, in an empty folder; what case.json says."""
        folder.mkdir(parents=True, exist_ok=True)
        with torch.no_grad():
            arrays, facts = self.build(
                folder, self.seed if seed is None else seed, self.sizes if sizes is None else sizes
            )
        np.savez_compressed(folder / "expected.npz", **{name: plain(value) for name, value in arrays.items()})
        (folder / "case.json").write_text(json.dumps(facts, indent=1) + "\n")
        return facts


CASES: dict[str, Case] = {}


def case(seed: int = 1, **sizes) -> Callable:
    """Adds a function to the cases, under its own name."""

    def add(build: Callable) -> Callable:
        CASES[build.__name__] = Case(build.__name__, build, seed, replace(Sizes(), **sizes))
        return build

    return add


def plain(value) -> np.ndarray:
    array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
    if array.dtype == np.int64:
        array = array.astype(np.int32)
    return np.ascontiguousarray(array)


def randomise(
    model: torch.nn.Module, seed: int, keep: str = "^$", gain: float = 1.2, embedding: float = 0.5
) -> torch.nn.Module:
    """Every weight and statistic anew, at a scale at which all of them matter; in evaluation mode.

    Each tensor has a stream of its own, by name, so that no machine and no order of construction changes it. `keep`
    matches the names of what is computed and not learned; `gain` is of every layer's output over its input, `embedding`
    the standard deviation of token embeddings.
    """
    seen = set()
    for prefix, module in model.named_modules():
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        for leaf, tensor in own:
            name = f"{prefix}.{leaf}".lstrip(".")
            computed = leaf in module._non_persistent_buffers_set or re.search(keep, name)
            if id(tensor) in seen or not tensor.is_floating_point() or computed:
                continue
            seen.add(id(tensor))
            random = np.random.default_rng([seed, zlib.crc32(name.encode())])
            noise = np.asarray(random.standard_normal(tuple(tensor.shape), np.float32))
            noise *= np.float32(0.05 if re.search(EMBEDDING, name) else 1)
            tensor.copy_(torch.from_numpy(np.asarray(scaled(noise, module, name, gain, embedding))))
    return model.float().eval()


# Of images. Small, so that a norm's epsilon shows behind them.
EMBEDDING = r"patch|cls_token|class_embedding|pos_embed|position_embeddings$|position_embedding\.|reg|dist"


def scaled(
    noise: np.ndarray, module: torch.nn.Module, name: str, gain: float, embedding: float
) -> np.ndarray:
    """Standard normal noise as a weight of this kind of module."""
    leaf = name.rpartition(".")[2]
    if leaf == "running_var":
        return np.exp(0.5 * noise)
    if leaf == "running_mean" or leaf.endswith("bias"):
        return 0.3 * noise
    if isinstance(module, torch.nn.Embedding):
        return (1.0 if re.search("position|wpe|relative", name) else embedding) * noise
    if noise.ndim == 1 and (leaf == "weight" or re.search("gamma|lambda", leaf)):  # norms, layer scales
        return 1 + 0.3 * noise
    if leaf.endswith("weight") and noise.ndim > 1:
        transposed = type(module).__name__ == "Conv1D"  # GPT-2's
        matrix = noise.T if transposed else noise.reshape(len(noise), -1)
        fan_out, fan_in = matrix.shape
        back = (
            noise.ndim == 2 and fan_out < fan_in < 3 * fan_out
        )  # from the feed-forward: its activation shall show
        gain *= (
            0.4 if re.search(r"Attention\.q\.", name) else 1
        )  # T5's, whose scores are not divided by anything
        return (2 if back else 1) * gain * noise / np.sqrt(np.float32(fan_in))
    return 0.5 * noise  # class tokens, registers, positions


def pixels(seed: int, height: int, width: int, batch: int = 2, channels: int = 3) -> np.ndarray:
    """[B, H, W, channels], as if normalised already: stripes and noise, in eighths, which compress well."""
    random = np.random.default_rng([seed, height, width])
    rows = np.linspace(0, 6, height, dtype=np.float32)[:, None, None]
    columns = np.linspace(0, 6, width, dtype=np.float32)[None, :, None]
    phase = random.uniform(0, 6, (batch, 1, 1, channels)).astype(np.float32)
    noise = random.standard_normal((batch, height, width, channels), np.float32)
    return (
        np.round(8 / 1.5 * (np.sin(rows + phase) + np.cos(2 * columns - phase) + noise)).astype(np.float32)
        / 8
    )


def to_torch(images: np.ndarray) -> torch.Tensor:
    """Channels last to channels first."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
