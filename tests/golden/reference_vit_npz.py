"""Cases of Google's .npz checkpoints, as timm's own loader reads them: names of vision_transformer and of big_vision.

The files say nothing of the activation. Both original codes call flax's `gelu`, the tanh form, and so do these cases
(timm's ViTs take the erf form unless told otherwise).
"""

import re
import tempfile
import zlib
from pathlib import Path

import numpy as np
import scipy.ndimage

from tests.golden.reference_case import Sizes, case, pixels
from tests.golden.reference_timm import facts, outputs, timm, vit_options


def block_shapes(sizes: Sizes, attention: str, norm: str, feedforward: str) -> dict[str, tuple[int, ...]]:
    shapes = feedforward_shapes(sizes, feedforward) | attention_shapes(sizes, attention)
    for name in ("LayerNorm_0", norm):
        shapes |= {f"{name}/scale": (sizes.width,), f"{name}/bias": (sizes.width,)}
    return shapes


def attention_shapes(sizes: Sizes, name: str) -> dict[str, tuple[int, ...]]:
    width, heads = sizes.width, sizes.heads
    each = width // heads
    shapes = {f"{name}/out/kernel": (heads, each, width), f"{name}/out/bias": (width,)}
    for part in ("query", "key", "value"):
        shapes |= {f"{name}/{part}/kernel": (width, heads, each), f"{name}/{part}/bias": (heads, each)}
    return shapes


def feedforward_shapes(sizes: Sizes, name: str) -> dict[str, tuple[int, ...]]:
    return {
        f"{name}/Dense_0/kernel": (sizes.width, sizes.hidden),
        f"{name}/Dense_0/bias": (sizes.hidden,),
        f"{name}/Dense_1/kernel": (sizes.hidden, sizes.width),
        f"{name}/Dense_1/bias": (sizes.width,),
    }


def trunk_shapes(
    sizes: Sizes, block: dict[str, tuple[int, ...]], stacked: bool
) -> dict[str, tuple[int, ...]]:
    """Patch embedding, blocks (with a leading axis if stacked) and the last norm."""
    width, patch = sizes.width, sizes.patch
    shapes = {"embedding/kernel": (patch, patch, 3, width), "embedding/bias": (width,)}
    for name, shape in block.items():
        if stacked:
            shapes[f"Transformer/encoderblock/{name}"] = (sizes.layers, *shape)
        else:
            shapes |= {f"Transformer/encoderblock_{layer}/{name}": shape for layer in range(sizes.layers)}
    return shapes | {"Transformer/encoder_norm/scale": (width,), "Transformer/encoder_norm/bias": (width,)}


def arrays(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, np.ndarray]:
    return {name: array(name, shape, seed) for name, shape in shapes.items()}


def array(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    noise = np.random.default_rng([seed, zlib.crc32(name.encode())]).standard_normal(shape, np.float32)
    if re.search("^embedding|^cls|pos_embedding", name):  # small, so that a norm's epsilon shows behind them
        noise *= np.float32(0.05)
    if name.endswith("scale"):
        return 1 + np.float32(0.3) * noise
    if name.endswith("bias"):
        return np.float32(0.3) * noise
    if not name.endswith("kernel"):  # class token, positions, probe
        return np.float32(0.5) * noise
    inputs = shape[1:] if "encoderblock/" in name else shape
    into = ("query/", "key/", "value/")
    fan_in = inputs[0] if any(part in name for part in into) else np.prod(inputs[:-1])
    gain = 2.4 if "Dense_1/" in name else 1.2
    return np.float32(gain) * noise / np.sqrt(np.float32(fan_in))


def read_by_timm(
    folder: Path, file: str, weights: dict, seed: int, sizes: Sizes, architecture: str, **options
):
    """Saves the weights, and lets timm compute with them.

    At the other size positions are interpolated beforehand as both original codes do, by SciPy. (timm's loader has
    another bilinear interpolation, which is neither theirs nor that of its own checkpoints.)
    """
    np.savez(folder / file, **weights)

    def computed(weights: dict, height: int, width: int, prefix: str = "") -> dict:
        size = {"img_size": (height, width)}
        model = timm.create_model(
            architecture, **vit_options(sizes, act_layer="gelu_tanh", **options) | size
        ).eval()
        with tempfile.TemporaryDirectory() as there:
            np.savez(f"{there}/{file}", **weights)
            model.load_pretrained(f"{there}/{file}")
        return outputs(model, pixels(seed, height, width, 1 if prefix else 2), prefix), model

    small, model = computed(weights, sizes.image, sizes.image)
    grid = tuple(length // sizes.patch for length in sizes.other)
    resized = {
        name: zoomed(value, sizes.image // sizes.patch, grid) if name.endswith("pos_embedding") else value
        for name, value in weights.items()
    }
    other, _ = computed(resized, *sizes.other, prefix="other_")
    return small | other, facts(model, load=file, activation="gelu_tanh")


def zoomed(positions: np.ndarray, side: int, grid: tuple[int, int]) -> np.ndarray:
    """Positions [1, N, D] of side x side patches, behind those of the class token if there are any, for a grid."""
    prefix, patches = np.split(positions[0], [len(positions[0]) - side**2])
    square = patches.reshape(side, side, -1)
    resized = scipy.ndimage.zoom(square, (grid[0] / side, grid[1] / side, 1), order=1)
    return np.concatenate([prefix, resized.reshape(grid[0] * grid[1], -1)])[None]


@case(seed=21)
def vit_npz(folder: Path, seed: int, sizes: Sizes):
    """AugReg's: a class token, its row of positions."""
    block = block_shapes(sizes, "MultiHeadDotProductAttention_1", "LayerNorm_2", "MlpBlock_3")
    patches = (sizes.image // sizes.patch) ** 2
    shapes = trunk_shapes(sizes, block, stacked=False) | {
        "cls": (1, 1, sizes.width),
        "Transformer/posembed_input/pos_embedding": (1, 1 + patches, sizes.width),
        "head/kernel": (sizes.width, sizes.labels),
        "head/bias": (sizes.labels,),
    }
    weights = arrays(shapes, seed)
    return read_by_timm(folder, "vit.npz", weights, seed, sizes, "vit_base_patch16_224")


@case(seed=22, layers=1, width=28, heads=4, patch=5, other=(20, 35))
def vit_npz_big_vision(folder: Path, seed: int, sizes: Sizes):
    """big_vision's, averaged: no class token, no norm after the average."""
    block = block_shapes(sizes, "MultiHeadDotProductAttention_0", "LayerNorm_1", "MlpBlock_0")
    patches = (sizes.image // sizes.patch) ** 2
    shapes = trunk_shapes(sizes, block, stacked=False) | {
        "pos_embedding": (1, patches, sizes.width),
        "head/kernel": (sizes.width, sizes.labels),
        "head/bias": (sizes.labels,),
    }
    weights = {f"params/{name}": value for name, value in arrays(shapes, seed).items()}
    options = {"class_token": False, "global_pool": "avg", "fc_norm": False}
    return read_by_timm(folder, "vit.npz", weights, seed, sizes, "vit_base_patch16_224", **options)


@case(seed=23)
def siglip_npz(folder: Path, seed: int, sizes: Sizes):
    """SigLIP's: stacked blocks, attention pooling, beside the tower of texts, which timm leaves."""
    block = block_shapes(sizes, "MultiHeadDotProductAttention_0", "LayerNorm_1", "MlpBlock_0")
    patches = (sizes.image // sizes.patch) ** 2
    pool = attention_shapes(sizes, "MultiHeadDotProductAttention_0") | feedforward_shapes(sizes, "MlpBlock_0")
    pool |= {
        "probe": (1, 1, sizes.width),
        "LayerNorm_0/scale": (sizes.width,),
        "LayerNorm_0/bias": (sizes.width,),
    }
    shapes = trunk_shapes(sizes, block, stacked=True) | {"pos_embedding": (1, patches, sizes.width)}
    shapes |= {f"MAPHead_0/{name}": shape for name, shape in pool.items()}
    weights = {f"params/img/{name}": value for name, value in arrays(shapes, seed).items()}
    texts = {"t": (1,), "b": (1,), "txt/Embed_0/embedding": (9, sizes.width), "txt/head/bias": (sizes.width,)}
    weights |= {f"params/{name}": value for name, value in arrays(texts, seed).items()}
    return read_by_timm(
        folder, "siglip.npz", weights, seed, sizes, "vit_base_patch16_siglip_224", num_classes=0
    )
