"""Residual networks in plain NumPy float64: convolution, norm, block, pooling."""

import numpy as np


def convolve(x, kernel, stride=1):
    """Padded by half the kernel on every side, image by image, patch by patch. x [B, H, W, D]"""
    size = kernel.shape[0]
    pad, (batch, rows, columns) = size // 2, x.shape[:3]
    padded = np.pad(np.asarray(x, float), [(0, 0), (pad, pad), (pad, pad), (0, 0)])
    out = np.empty((batch, -(-rows // stride), -(-columns // stride), kernel.shape[-1]))
    matrix = np.asarray(kernel, float).reshape(-1, kernel.shape[-1])
    for b, i, j in np.ndindex(*out.shape[:3]):
        patch = padded[b, i * stride : i * stride + size, j * stride : j * stride + size]
        out[b, i, j] = patch.ravel() @ matrix
    return out


def max_pool(x):
    """3x3 with stride 2, padded by 1. x [B, H, W, D]"""
    padded = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)], constant_values=-np.inf)
    batch, rows, columns, width = x.shape
    out = np.empty((batch, -(-rows // 2), -(-columns // 2), width))
    for b, i, j in np.ndindex(*out.shape[:3]):
        out[b, i, j] = padded[b, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max((0, 1))
    return out


def batch_norm(x, params, stats, *, train):
    mean, var = (x.mean((0, 1, 2)), x.var((0, 1, 2))) if train else (stats["mean"], stats["var"])
    return (x - mean) / np.sqrt(np.asarray(var, float) + 1e-5) * params["scale"] + params["bias"]


def relu(x):
    return np.maximum(x, 0)


def block(x, params, stats, strides, *, train=False):
    """`strides` of the branch's convolutions; their product is the shortcut's."""

    def layer(x, suffix, stride):
        out = convolve(x, params[f"conv{suffix}"]["kernel"], stride)
        return batch_norm(out, params[f"norm{suffix}"], stats[f"norm{suffix}"], train=train)

    branch = x
    for i, stride in enumerate(strides, start=1):
        branch = layer(branch if i == 1 else relu(branch), i, stride)
    shortcut = layer(x, "_shortcut", int(np.prod(strides))) if "conv_shortcut" in params else x
    return relu(shortcut + branch)
