"""The formulas of the papers in plain NumPy float64, written without a look at the package."""

import math

import numpy as np

erf = np.vectorize(math.erf)


def softmax(scores):
    exponent = np.exp(scores - scores.max(-1, keepdims=True))
    return exponent / exponent.sum(-1, keepdims=True)


def masked_softmax(scores, mask=None, bias=None):
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        mask = np.broadcast_to(mask, scores.shape)
        allowed = np.where(mask.any(-1, keepdims=True), mask, True)  # a row without any source: all alike
        scores = np.where(mask, scores, 0.0)
        scores = np.where(allowed, scores, -np.inf)
    return softmax(scores)


def dot_weights(query, key, mask=None, bias=None, scale=None):
    """[B, T, H, C], [B, S, H, C] -> [B, H, T, S], head by head."""
    batch, targets, heads, width = query.shape
    scale = 1 / math.sqrt(width) if scale is None else scale
    scores = np.empty((batch, heads, targets, key.shape[1]))
    for b in range(batch):
        for h in range(heads):
            scores[b, h] = query[b, :, h].astype(float) @ key[b, :, h].astype(float).T * scale
    return masked_softmax(scores, mask, bias)


def additive_weights(query, key, kernel, mask=None, bias=None):
    batch, targets, heads, _ = query.shape
    scores = np.empty((batch, heads, targets, key.shape[1]))
    for b, h, t, s in np.ndindex(*scores.shape):
        scores[b, h, t, s] = kernel[h] @ np.tanh(query[b, t, h].astype(float) + key[b, s, h])
    return masked_softmax(scores, mask, bias)


def attend(weights, value):
    """[B, H, T, S], [B, S, H, C] -> [B, T, H, C]"""
    return np.stack([weights[:, h] @ value[:, :, h].astype(float) for h in range(value.shape[2])], axis=2)


def layer_norm(x, scale=1.0, bias=0.0, epsilon=1e-6):
    x = np.asarray(x, float)
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon) * scale + bias


def rms_norm(x, scale=1.0, epsilon=1e-6):
    x = np.asarray(x, float)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * scale


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


ACTIVATIONS = {
    "relu": lambda x: np.maximum(x, 0),
    "gelu": lambda x: x * (1 + erf(x / math.sqrt(2))) / 2,
    "gelu_tanh": lambda x: x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "quick_gelu": lambda x: x * sigmoid(1.702 * x),
    "silu": lambda x: x * sigmoid(x),
}

GATES = {"swiglu": "silu", "geglu": "gelu", "geglu_tanh": "gelu_tanh"}


def linear(x, layer):
    return np.asarray(x, float) @ np.asarray(layer["kernel"], float) + np.asarray(
        layer.get("bias", 0.0), float
    )


def feed_forward(x, params, activation):
    if activation in GATES:
        gate = ACTIVATIONS[GATES[activation]](linear(x, params["gate"]))
        return linear(gate * linear(x, params["up"]), params["down"])
    return linear(ACTIVATIONS[activation](linear(x, params["up"])), params["down"])


def multi_head_attention(x, context, params, mask=None, bias=None):
    """Dot-product attention with the parameters of `MultiHeadAttention`, one head after the other."""
    out = np.asarray(params["out"].get("bias", 0.0), float)
    heads = params["query"]["kernel"].shape[1]
    for h in range(heads):

        def project(inputs, name, h=h):
            layer = params[name]
            kernel = np.asarray(layer["kernel"], float)[:, h]
            return inputs @ kernel + (np.asarray(layer["bias"], float)[h] if "bias" in layer else 0.0)

        query, key, value = project(x, "query"), project(context, "key"), project(context, "value")
        scores = query @ key.swapaxes(1, 2) / math.sqrt(query.shape[-1])
        weights = masked_softmax(
            scores, None if mask is None else mask[:, 0], None if bias is None else bias[:, h]
        )
        out = out + weights @ value @ np.asarray(params["out"]["kernel"], float)[h]
    return out


def sinusoid(position, width, layout="interleaved"):
    """One vector, feature by feature (Vaswani et al. 2017, 3.5)."""
    steps = width // 2 - (layout == "halves_inclusive")
    angles = [position / 10000 ** (i / steps) for i in range(width // 2)]
    pairs = [(math.sin(angle), math.cos(angle)) for angle in angles]
    return np.concatenate(pairs if layout == "interleaved" else list(zip(*pairs, strict=True)))


def rotate(x, angles):
    """Turn feature pairs (i, i + C/2) of x [N, C] as complex numbers by `angles` [N, C/2]."""
    half = x.shape[-1] // 2
    turned = (x[:, :half] + 1j * x[:, half:]) * np.exp(1j * angles)
    return np.concatenate([turned.real, turned.imag], axis=-1)


def t5_bucket(key_minus_query, *, bidirectional, num_buckets, max_distance):
    """Bucket of one distance, as the text of Raffel et al. (2020), 2.1, and T5's comments describe it.

    Half of the buckets of a direction are for single distances, the others for ranges that grow by a constant factor
    until `max_distance`; all larger distances share the last.
    """
    first = 0
    if bidirectional:
        num_buckets //= 2
        if key_minus_query > 0:
            first = num_buckets
        distance = abs(key_minus_query)
    else:
        distance = max(0, -key_minus_query)
    exact = num_buckets // 2
    if distance < exact:
        return first + distance
    # range j starts at exact * (max_distance / exact) ** (j / (num_buckets - exact)); in integers, to be exact
    ranges = num_buckets - exact
    j = 0
    while j + 1 < ranges and distance**ranges * exact ** (j + 1) >= exact**ranges * max_distance ** (j + 1):
        j += 1
    return first + exact + j


def resize_cubic(image, rows, columns):
    """Keys' cubic convolution (a = -0.75) between pixel centres, the outermost pixels repeated beyond the border.
    image [h, w, D] -> [rows, columns, D]
    """

    def kernel(distance):
        d = abs(distance)
        if d < 1:
            return 1.25 * d**3 - 2.25 * d**2 + 1
        return -0.75 * d**3 + 3.75 * d**2 - 6 * d + 3 if d < 2 else 0.0

    def place(t, source, target):
        return (t + 0.5) * source / target - 0.5

    height, width = image.shape[:2]
    out = np.zeros((rows, columns, image.shape[2]))
    for y, x in np.ndindex(rows, columns):
        down, across = place(y, height, rows), place(x, width, columns)
        for i in range(math.floor(down) - 1, math.floor(down) + 3):
            for j in range(math.floor(across) - 1, math.floor(across) + 3):
                pixel = image[min(max(i, 0), height - 1), min(max(j, 0), width - 1)]
                out[y, x] += kernel(down - i) * kernel(across - j) * pixel
    return out


def convolve(image, kernel, bias, stride):
    """Convolution padded so that there is one output a stride ("SAME"), patch by patch. image [H, W, E]"""
    (height, width, _), (rows, columns) = image.shape, kernel.shape[:2]
    down, across = -(-height // stride[0]), -(-width // stride[1])
    pad = (
        max((down - 1) * stride[0] + rows - height, 0),
        max((across - 1) * stride[1] + columns - width, 0),
    )
    padded = np.pad(image, [(pad[0] // 2, pad[0] - pad[0] // 2), (pad[1] // 2, pad[1] - pad[1] // 2), (0, 0)])
    out = np.empty((down, across, kernel.shape[-1]))
    for i, j in np.ndindex(down, across):
        top, left = i * stride[0], j * stride[1]
        patch = padded[top : top + rows, left : left + columns]
        out[i, j] = patch.ravel() @ np.asarray(kernel, float).reshape(-1, kernel.shape[-1]) + bias
    return out
