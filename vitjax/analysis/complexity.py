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
from vitjax.nn.feedforward import GATED
from vitjax.nn.functional import abstract
from vitjax.nn.token_merging import merged_per_layer
from vitjax.parallel.paths import named_leaves

ModelConfig = (
    VisionTransformerConfig | ResNetConfig | TextEncoderConfig | EncoderDecoderConfig | ShowAttendTellConfig
)
Size = tuple[int, int]
Counts = dict[str, int]


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
        without_gradient = self.flops.get("token_matching", 0) + self.flops.get("encoder/token_matching", 0)
        return 3 * self.forward_flops - 2 * without_gradient + self.recomputed


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
    flops, recomputed = _operations(config, image_size, source_length, target_length)
    return Complexity(_parameters(config), flops, recomputed)


def _parameters(config: ModelConfig) -> Counts:
    """Trained numbers of each part, of the model itself without its arrays."""
    counts: Counts = {}
    for path, leaf in named_leaves(abstract(lambda rngs: config.build(rngs=rngs))[1]).items():
        names = [name for name in path.split("/") if name != "blocks"]
        tower = f"{names.pop(0)}/" if names[0] in ("encoder", "decoder") else ""
        part = names[0].partition("_block")[0]  # of a ResNet: its stage
        if part.startswith("norm") or part.endswith("sublayer"):
            part = "norms"
        counts[tower + part] = counts.get(tower + part, 0) + leaf.size
    return counts


def _operations(
    config: ModelConfig, image_size: Size | None, source_length: int | None, target_length: int | None
) -> tuple[Counts, int]:
    """Operations of one forward pass by part, and those that the backward pass repeats."""
    match config:
        case VisionTransformerConfig():
            return _vision_transformer(config, image_size)
        case ResNetConfig():
            return _resnet(config, image_size), 0
        case TextEncoderConfig():
            t = config.transformer
            flops = _encoder_flops(t, source_length or config.max_length)
            return flops, _recomputed(t, flops)
        case EncoderDecoderConfig():
            encoder = _operations(config.encoder, image_size, source_length, None)
            sources = _sources(config.encoder, image_size, source_length)
            length = target_length or config.decoder.max_length
            return _joined(encoder, _decoder(config.decoder, config.encoder.output_width, sources, length))
        case ShowAttendTellConfig():
            encoder = _operations(config.encoder, image_size, None, None)
            return _joined(encoder, (_show_attend_tell(config, image_size, target_length), 0))
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


def _vision_transformer(config: VisionTransformerConfig, image_size: Size | None) -> tuple[Counts, int]:
    t, size = config.transformer, image_size or config.image_size
    patches = prod(config.grid(size))
    tokens = patches + config.prefix
    stem = 0
    channels = config.channels
    for width, stride in zip(config.stem_widths, config.stem_strides, strict=True):
        size = _halved(size, stride)
        stem += _product(prod(size), 9 * channels, width)
        channels = width
    patch_width = t.width - t.width // 2 if config.concatenated_positions else t.width
    flops = {"patch_embedding": stem + _product(patches, prod(config.patch_size) * channels, patch_width)}
    if config.merged_tokens:
        flops |= _merging_encoder_flops(t, patches, config.prefix, config.merged_tokens)
    else:
        flops |= _encoder_flops(t, tokens)
    if config.pooling == "attention":
        projections = _product(2 + 2 * tokens, t.width, t.width)
        flops["pool"] = projections + _scores(1, tokens, t.width) + _feed_forward(t, 1)
    pooled = 2 * t.width if config.pooling == "cls_mean" else t.width
    if config.pooler:
        flops["pooler"] = _product(1, pooled, pooled)
    if config.num_classes:
        flops["head"] = (1 + config.distillation_head) * _product(1, pooled, config.num_classes)
    return flops, _recomputed(t, flops)


def _decoder(config: DecoderConfig, context_width: int, sources: int, targets: int) -> tuple[Counts, int]:
    t, width, inner = config.transformer, config.transformer.width, _attention_width(config.transformer)
    flops = {}
    if config.project_context:
        flops["context_projection"] = _product(sources, context_width, width)
        context_width = width
    flops |= {
        "attention_projections": t.depth * _product(_projections(t) * targets, width, inner),
        "attention_scores": t.depth * _scores(targets, targets, inner),
        "cross_attention_projections": t.depth
        * (_product(2 * targets, width, inner) + _product(2 * sources, context_width, inner)),
        "cross_attention_scores": t.depth * _scores(targets, sources, inner),
        "feed_forward": t.depth * _feed_forward(t, targets),
        "head": _product(targets, width, config.vocabulary_size),
    }
    if config.head_transform is not None:
        flops["head_transform"] = _product(targets, width, width)
    return flops, _recomputed(t, flops)


def _resnet(config: ResNetConfig, image_size: Size | None) -> Counts:
    flops: Counts = {}
    for part, inputs, outputs, kernel, size in _convolutions(config, _given(image_size)):
        flops[part] = flops.get(part, 0) + _product(prod(size), kernel**2 * inputs, outputs)
    if config.num_classes:
        flops["head"] = _product(1, config.output_width, config.num_classes)
    return flops


def _convolutions(config: ResNetConfig, size: Size) -> Iterator[tuple[str, int, int, int, Size]]:
    """Part, features in and out, kernel size and output size of every convolution."""
    imagenet = config.stem == "imagenet"
    size = _halved(size, 2 if imagenet else 1)
    yield "stem", config.channels, config.stem_features, 7 if imagenet else 3, size
    size = _halved(size, 2 if imagenet else 1)  # max pooling
    features = config.stem_features
    stages = zip(config.depths, config.widths, config.stage_strides, strict=True)
    for stage, (depth, width, halving) in enumerate(stages, start=1):
        outputs = EXPANSION[config.block] * width
        for block in range(depth):
            part, stride = f"stage{stage}", halving if block == 0 else 1
            before, size = size, _halved(size, stride)
            if config.block == "basic":
                yield part, features, width, 3, size
                yield part, width, outputs, 3, size
            else:
                yield part, features, width, 1, size if config.stride_first else before
                yield part, width, width, 3, size
                yield part, width, outputs, 1, size
            if stride != 1 or features != outputs:
                yield part, features, outputs, 1, size
            features = outputs


def _show_attend_tell(config: ShowAttendTellConfig, image_size: Size | None, targets: int | None) -> Counts:
    if targets is None:
        raise ValueError("a recurrent decoder has no longest sequence: give target_length")
    sources = _sources(config.encoder, image_size, None)
    context, width, hidden = config.encoder.output_width, config.width, config.attention_width
    embedding, vocabulary = config.embedding_width, config.vocabulary_size
    return {
        "initial_state": _product(1, context, 2 * width),
        "attention_projections": _product(sources, context, hidden) + _product(targets, width, hidden + 1),
        "attention_scores": 2 * targets * sources * (hidden + context),
        "cell": _product(targets, embedding + width + context, 4 * width),
        "output": _product(targets, width + context, embedding),
        "head": _product(targets, embedding, vocabulary),
    }


def _joined(encoder: tuple[Counts, int], decoder: tuple[Counts, int]) -> tuple[Counts, int]:
    flops = {f"encoder/{name}": count for name, count in encoder[0].items()}
    flops |= {f"decoder/{name}": count for name, count in decoder[0].items()}
    return flops, encoder[1] + decoder[1]


def _recomputed(t: TransformerConfig, flops: Counts) -> int:
    """What the backward pass of the blocks repeats; `dots` keeps the products with weights, but not the scores."""
    match t.remat:
        case "full":
            outside = ("patch_embedding", "pool", "pooler", "context_projection", "head", "head_transform")
            repeated = sum(count for name, count in flops.items() if name not in outside)
            if t.norm_position == "pre" and t.layer_scale is None:
                # A block ends in a sum, whose gradient does not need the block's last product.
                repeated -= flops["feed_forward"] // _feed_forward_products(t)
            return repeated
        case "dots":
            return sum(count for name, count in flops.items() if name.endswith(("scores", "matching")))
    return 0


def _encoder_flops(t: TransformerConfig, tokens: int) -> Counts:
    return {
        "attention_projections": t.depth * _product(_projections(t) * tokens, t.width, _attention_width(t)),
        "attention_scores": t.depth * _scores(tokens, tokens, _attention_width(t)),
        "feed_forward": t.depth * _feed_forward(t, tokens),
    }


def _merging_encoder_flops(t: TransformerConfig, patches: int, prefix: int, merged_tokens: int) -> Counts:
    """Of an encoder that merges tokens between attention and feed-forward, and what comparing the tokens takes."""
    inner = _attention_width(t)
    flops = dict.fromkeys(("attention_projections", "attention_scores", "token_matching", "feed_forward"), 0)
    for merged in merged_per_layer(patches, merged_tokens, t.depth):
        tokens = prefix + patches
        flops["attention_projections"] += _product(_projections(t) * tokens, t.width, inner)
        flops["attention_scores"] += _scores(tokens, tokens, inner)
        if merged:
            flops["token_matching"] += _product(-(-patches // 2), t.head_width, patches // 2)
        patches -= merged
        flops["feed_forward"] += _feed_forward(t, prefix + patches)
    return flops


def _attention_width(t: TransformerConfig) -> int:
    """Features of all heads together."""
    return t.num_heads * t.head_width


def _projections(t: TransformerConfig) -> int:
    """Products with a matrix from D to all heads, or back, for each token: a shared query and key is one."""
    return 3 if t.share_query_key else 4


def _scores(queries: int, keys: int, width: int) -> int:
    """Operations of q k^T and of the weighted sum of values, over all heads."""
    return 4 * queries * keys * width


def _feed_forward(t: TransformerConfig, tokens: int) -> int:
    return _feed_forward_products(t) * _product(tokens, t.width, t.feed_forward_width)


def _feed_forward_products(t: TransformerConfig) -> int:
    return 3 if t.activation in GATED else 2


def _product(rows: int, inputs: int, outputs: int) -> int:
    return 2 * rows * inputs * outputs


def _halved(size: Size, stride: int) -> Size:
    return -(-size[0] // stride), -(-size[1] // stride)
