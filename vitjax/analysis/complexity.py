"""Parameters and floating-point operations of every model, from its config alone.

Counted are matrix products and convolutions, two operations for a multiply-add, padding included: the convention of
published figures (ViT-B/16 at 224: 35.1 GFLOPs; ResNet-50: 8.2). Norms, softmax and activations are a few percent more
in small models and less in large ones; interpolated positions are left out too. Attention masks save nothing here: the
program computes all scores.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from vitjax.models.decoder import DecoderConfig
from vitjax.models.encoder_decoder import EncoderDecoderConfig
from vitjax.models.resnet import ResNetConfig
from vitjax.models.show_attend_tell import ShowAttendTellConfig
from vitjax.models.text_encoder import TextEncoderConfig
from vitjax.models.vit import VisionTransformerConfig
from vitjax.nn.blocks import TransformerConfig
from vitjax.nn.convolution import EXPANSION

ModelConfig = (
    VisionTransformerConfig | ResNetConfig | TextEncoderConfig | EncoderDecoderConfig | ShowAttendTellConfig
)
Size = tuple[int, int]
Counts = dict[str, int]

RELATIVE_BUCKETS = 32


@dataclass(frozen=True)
class Complexity:
    """What a model costs; parts are named as in the model, those of an encoder-decoder behind `encoder/`, `decoder/`.

    Attributes:
      parameters: trained numbers of each part.
      flops: operations of one forward pass of one example, by part.
      recomputed: operations that the backward pass repeats, by the `remat` of the blocks.
    """

    parameters: Counts
    flops: Counts
    recomputed: int = 0

    @property
    def total_parameters(self) -> int:
        """All trained numbers."""
        return sum(self.parameters.values())

    @property
    def forward_flops(self) -> int:
        """Operations of one forward pass of one example."""
        return sum(self.flops.values())

    @property
    def training_flops(self) -> int:
        """Operations of forward and backward pass of one example: a product needs two more for its gradients.

        The gradient of the images, which nobody takes, is counted with them, as is the custom.
        """
        return 3 * self.forward_flops + self.recomputed


def complexity(
    config: ModelConfig,
    *,
    image_size: Size | None = None,
    source_length: int | None = None,
    target_length: int | None = None,
) -> Complexity:
    """Parameters and operations of a model.

    Args:
      image_size: rows and columns; the config's own where it has one.
      source_length: S tokens of a text source; the encoder's `max_length` by default.
      target_length: T tokens that the decoder reads in one teacher-forced pass; its `max_length` by default.

    Raises ValueError for a size that the config does not know and the caller does not give.
    """
    match config:
        case VisionTransformerConfig():
            return _vision_transformer(config, image_size)
        case ResNetConfig():
            return _resnet(config, image_size)
        case TextEncoderConfig():
            return _text_encoder(config, source_length)
        case EncoderDecoderConfig():
            encoder = complexity(config.encoder, image_size=image_size, source_length=source_length)
            sources = _sources(config.encoder, image_size, source_length)
            length = target_length or config.decoder.max_length
            return _joined(encoder, _decoder(config.decoder, config.encoder.output_width, sources, length))
        case ShowAttendTellConfig():
            return _show_attend_tell(config, image_size, target_length)
    raise ValueError(f"no complexity for {type(config).__name__}: expected the config of a model")


def _sources(
    encoder: VisionTransformerConfig | ResNetConfig | TextEncoderConfig,
    image_size: Size | None,
    source_length: int | None,
) -> int:
    """Number of vectors that an encoder gives a decoder to attend to."""
    if isinstance(encoder, TextEncoderConfig):
        return source_length or encoder.max_length
    if isinstance(encoder, ResNetConfig):
        return prod(encoder.grid(_given(image_size)))
    return prod(encoder.grid(image_size or encoder.image_size)) + encoder.prefix


def _given(image_size: Size | None) -> Size:
    if image_size is None:
        raise ValueError("a ResNet takes images of any size: give image_size=(rows, columns)")
    return image_size


def _vision_transformer(config: VisionTransformerConfig, image_size: Size | None) -> Complexity:
    t, grid = config.transformer, config.grid(config.image_size)
    size = image_size or config.image_size
    patches = prod(config.grid(size))
    tokens = patches + config.prefix
    position_width = _position_width(t.width, config.positions, config.embedding_combination)
    patch_width = t.width - position_width if position_width < t.width else t.width

    stem_parameters = stem_flops = 0
    channels = config.channels
    for width, stride in zip(config.stem_widths, config.stem_strides, strict=True):
        size = _halved(size, stride)
        stem_parameters += _linear(9 * channels, width, use_bias=False) + 2 * width
        stem_flops += _product(prod(size), 9 * channels, width)
        channels = width
    patch = prod(config.patch_size) * channels
    parameters = {"patch_embedding": stem_parameters + _linear(patch, patch_width)}
    flops = {"patch_embedding": stem_flops + _product(patches, patch, patch_width)}

    if config.positions == "learned":
        parameters["positions"] = prod(grid) * position_width
    if config.positions == "relative":
        parameters["relative_bias"] = (2 * grid[0] - 1) * (2 * grid[1] - 1) * t.num_heads
    if config.prefix:
        parameters["prefix"] = config.prefix * t.width
    parameters |= _encoder_parameters(t)
    flops |= _encoder_flops(t, tokens)
    if config.pooling == "attention":
        ff_parameters, ff_flops = _feed_forward(t, 1, use_bias=True)
        parameters["pool"] = 3 * t.width + 4 * _linear(t.width, t.width) + ff_parameters
        projections = _product(2 + 2 * tokens, t.width, t.width)
        flops["pool"] = projections + _scores(1, tokens, t.width) + ff_flops
    if config.num_classes:
        parameters["head"] = _linear(t.width, config.num_classes)
        flops["head"] = _product(1, t.width, config.num_classes)
    return Complexity(parameters, flops, _recomputed(t, flops))


def _text_encoder(config: TextEncoderConfig, length: int | None) -> Complexity:
    t = config.transformer
    flops = _encoder_flops(t, length or config.max_length)
    return Complexity(_text_parameters(config) | _encoder_parameters(t), flops, _recomputed(t, flops))


def _decoder(config: DecoderConfig, context_width: int, sources: int, targets: int) -> Complexity:
    t, width = config.transformer, config.transformer.width
    parameters = _text_parameters(config) | {
        "attention": t.depth * _attention_parameters(t, width),
        "cross_attention": t.depth * _attention_parameters(t, context_width, cross=True),
        "feed_forward": t.depth * _feed_forward(t, 1)[0],
        "norms": _norm_parameters(t, sublayers=3),
    }
    flops = {
        "attention_projections": t.depth * _product(_projections(t) * targets, width, width),
        "attention_scores": t.depth * _scores(targets, targets, width),
        "cross_attention_projections": t.depth
        * (_product(2 * targets, width, width) + _product(2 * sources, context_width, width)),
        "cross_attention_scores": t.depth * _scores(targets, sources, width),
        "feed_forward": t.depth * _feed_forward(t, targets)[1],
        "head": _product(targets, width, config.vocabulary_size),
    }
    if not config.tie_embeddings:
        parameters["head"] = _linear(width, config.vocabulary_size)
    return Complexity(parameters, flops, _recomputed(t, flops))


def _resnet(config: ResNetConfig, image_size: Size | None) -> Complexity:
    parameters: Counts = {}
    flops: Counts = {}
    for part, inputs, outputs, kernel, size in _convolutions(config, _given(image_size)):
        # Every convolution is followed by BatchNorm's scale and bias.
        parameters[part] = parameters.get(part, 0) + kernel**2 * inputs * outputs + 2 * outputs
        flops[part] = flops.get(part, 0) + _product(prod(size), kernel**2 * inputs, outputs)
    if config.num_classes:
        parameters["head"] = _linear(config.output_width, config.num_classes)
        flops["head"] = _product(1, config.output_width, config.num_classes)
    return Complexity(parameters, flops)


def _convolutions(config: ResNetConfig, size: Size) -> Iterator[tuple[str, int, int, int, Size]]:
    """Part, features in and out, kernel size and output size of every convolution."""
    imagenet = config.stem == "imagenet"
    size = _halved(size, 2 if imagenet else 1)
    yield "stem", config.channels, config.widths[0], 7 if imagenet else 3, size
    size = _halved(size, 2 if imagenet else 1)  # max pooling
    features = config.widths[0]
    for stage, (depth, width) in enumerate(zip(config.depths, config.widths, strict=True), start=1):
        outputs = EXPANSION[config.block] * width
        for block in range(depth):
            part, stride = f"stage{stage}", 2 if stage > 1 and block == 0 else 1
            before, size = size, _halved(size, stride)
            if config.block == "basic":
                yield part, features, width, 3, size
                yield part, width, outputs, 3, size
            else:
                yield part, features, width, 1, before
                yield part, width, width, 3, size
                yield part, width, outputs, 1, size
            if stride != 1 or features != outputs:
                yield part, features, outputs, 1, size
            features = outputs


def _show_attend_tell(
    config: ShowAttendTellConfig, image_size: Size | None, targets: int | None
) -> Complexity:
    if targets is None:
        raise ValueError("a recurrent decoder has no longest sequence: give target_length")
    encoder = complexity(config.encoder, image_size=image_size)
    sources = _sources(config.encoder, image_size, None)
    context, width, hidden = config.encoder.output_width, config.width, config.attention_width
    embedding, vocabulary = config.embedding_width, config.vocabulary_size
    parameters = {
        "embedding": vocabulary * embedding,
        "initial_state": 2 * _linear(context, width),
        "attention": _linear(context, hidden) + _linear(width, hidden) + hidden + _linear(width, 1),
        "cell": _linear(embedding, 4 * width) + 4 * width * (width + context),
        "output": _linear(width, embedding) + context * embedding,
        "head": _linear(embedding, vocabulary),
    }
    flops = {
        "initial_state": _product(1, context, 2 * width),
        "attention_projections": _product(sources, context, hidden) + _product(targets, width, hidden + 1),
        "attention_scores": 2 * targets * sources * (hidden + context),
        "cell": _product(targets, embedding + width + context, 4 * width),
        "output": _product(targets, width + context, embedding),
        "head": _product(targets, embedding, vocabulary),
    }
    return _joined(encoder, Complexity(parameters, flops))


def _joined(encoder: Complexity, decoder: Complexity) -> Complexity:
    def join(field: str) -> Counts:
        return {f"encoder/{name}": count for name, count in getattr(encoder, field).items()} | {
            f"decoder/{name}": count for name, count in getattr(decoder, field).items()
        }

    return Complexity(join("parameters"), join("flops"), encoder.recomputed + decoder.recomputed)


def _recomputed(t: TransformerConfig, flops: Counts) -> int:
    """What the backward pass of the blocks repeats; `dots` keeps the products with weights, but not the scores."""
    match t.remat:
        case "full":
            outside = ("patch_embedding", "pool", "head")
            repeated = sum(count for name, count in flops.items() if name not in outside)
            if t.norm_position == "pre" and t.layer_scale is None:
                # A block ends in a sum, whose gradient does not need the block's last product.
                repeated -= flops["feed_forward"] // _feed_forward_products(t)
            return repeated
        case "dots":
            return sum(count for name, count in flops.items() if name.endswith("scores"))
    return 0


def _encoder_parameters(t: TransformerConfig) -> Counts:
    return {
        "attention": t.depth * _attention_parameters(t, t.width),
        "feed_forward": t.depth * _feed_forward(t, 1)[0],
        "norms": _norm_parameters(t, sublayers=2),
    }


def _encoder_flops(t: TransformerConfig, tokens: int) -> Counts:
    return {
        "attention_projections": t.depth * _product(_projections(t) * tokens, t.width, t.width),
        "attention_scores": t.depth * _scores(tokens, tokens, t.width),
        "feed_forward": t.depth * _feed_forward(t, tokens)[1],
    }


def _projections(t: TransformerConfig) -> int:
    """Products with a [D, D] matrix for each token: a shared query and key is projected once."""
    return 3 if t.share_query_key else 4


def _scores(queries: int, keys: int, width: int) -> int:
    """Operations of q k^T and of the weighted sum of values, over all heads."""
    return 4 * queries * keys * width


def _attention_parameters(t: TransformerConfig, context_width: int, *, cross: bool = False) -> int:
    count = 2 * _linear(t.width, t.width, t.use_bias)  # query, out
    keys = 1 if t.share_query_key and not cross else 2  # value, and the key if it has its own
    count += keys * _linear(context_width, t.width, t.use_bias)
    if t.attention_score == "additive":
        count += t.width
    if t.query_key_norm:
        count += 2 * t.head_width
    return count


def _feed_forward(t: TransformerConfig, tokens: int, use_bias: bool | None = None) -> tuple[int, int]:
    """Parameters, and operations on `tokens` tokens."""
    use_bias = t.use_bias if use_bias is None else use_bias
    into = _feed_forward_products(t) - 1
    width, hidden = t.width, t.feed_forward_width
    parameters = into * _linear(width, hidden, use_bias) + _linear(hidden, width, use_bias)
    return parameters, (into + 1) * _product(tokens, width, hidden)


def _feed_forward_products(t: TransformerConfig) -> int:
    return 3 if t.activation == "swiglu" else 2


def _norm_parameters(t: TransformerConfig, *, sublayers: int) -> int:
    """Norms and layer scales of all blocks, and the last norm of a pre-norm stack."""
    norm = t.width if t.norm == "rms" else 2 * t.width
    scale = t.width if t.layer_scale is not None else 0
    return t.depth * sublayers * (norm + scale) + (norm if t.norm_position == "pre" else 0)


def _text_parameters(config: TextEncoderConfig | DecoderConfig) -> Counts:
    width = config.transformer.width
    position_width = _position_width(width, config.positions, config.embedding_combination)
    token_width = width - position_width if position_width < width else width
    counts = {"embedding": config.vocabulary_size * token_width}
    if isinstance(config, DecoderConfig) and config.parallel_prediction:
        counts["mask_token"] = token_width
    if config.positions == "learned":
        counts["positions"] = config.max_length * position_width
    if config.positions == "relative":
        counts["relative_bias"] = RELATIVE_BUCKETS * config.transformer.num_heads
    return counts


def _position_width(width: int, positions: str, combination: str) -> int:
    """Features of a position vector: half of them all where they are concatenated."""
    return width // 2 if combination == "concat" and positions in ("sinusoidal", "learned") else width


def _linear(inputs: int, outputs: int, use_bias: bool = True) -> int:
    return inputs * outputs + (outputs if use_bias else 0)


def _product(rows: int, inputs: int, outputs: int) -> int:
    return 2 * rows * inputs * outputs


def _halved(size: Size, stride: int) -> Size:
    return -(-size[0] // stride), -(-size[1] // stride)
