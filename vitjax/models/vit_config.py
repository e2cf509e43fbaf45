"""What a Vision Transformer is made of."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from flax import nnx

from vitjax.nn.blocks import TransformerConfig
from vitjax.nn.embeddings import Combination, patch_grid
from vitjax.nn.interpolation import Grid, Interpolation
from vitjax.nn.pooling import Pooling
from vitjax.nn.positions import RotaryUnit

if TYPE_CHECKING:
    import vitjax.models.vit

ImagePositions = Literal["none", "sinusoidal", "learned", "relative", "learned_relative", "rotary"]

# width, depth, feed-forward width, heads (Dosovitskiy et al. 2021; Zhai et al. 2022; Alabdulmohsin et al. 2023)
SIZES = {
    "Ti": (192, 12, 768, 3),
    "S": (384, 12, 1536, 6),
    "B": (768, 12, 3072, 12),
    "L": (1024, 24, 4096, 16),
    "H": (1280, 32, 5120, 16),
    "So400m": (1152, 27, 4304, 16),
    "g": (1408, 40, 6144, 16),
    "G": (1664, 48, 8192, 16),
}


@dataclass(frozen=True)
class VisionTransformerConfig:
    """A Vision Transformer.

    Attributes:
      image_size: rows and columns the positions are made for; other sizes are interpolated to.
      positions: `rotary` and `relative` act inside attention, the others on the patch vectors; `learned_relative` does
        both.
      position_interpolation: how learned positions and relative biases are made for another image size.
      prefix_positions: how many of the tokens before the patches have a learned position of their own.
      relative_tables: one table of relative biases for all layers, or one of each layer's own (Bao et al. 2022, BEiT).
      relative_prefix: tokens before the patches have relative biases too, see `RelativeGridBias`.
      relative_interpolation: of relative biases, where it is not `position_interpolation`.
      rotary_base, rotary_unit: see `rotary_grid`.
      patch_size, patch_stride, patch_bias, stem_widths, stem_strides: see `PatchEmbedding`.
      drop_remainder: images may be larger than whole patches; what is left over is not looked at.
      class_token, distillation_token, registers: extra tokens before the patches, in this order (Touvron et al. 2021,
        DeiT, for the second, Darcet et al. 2024 for registers).
      embedding_norm: normalise what enters the first block (Radford et al. 2021, CLIP).
      final_norm: of pre-norm blocks, what the last norm is for: all tokens, or only what was pooled.
      pooling: what the head reads; `none` for an encoder without a head.
      pooler: send what was pooled through a linear layer and tanh (BERT's pooler).
      num_classes: 0 means no head.
      head_use_bias, head_bias: whether the head has a bias, and its start; -log(num_classes) suits sigmoid losses.
      distillation_head: a second head reads the distillation token; logits are the mean of the two, and what is pooled
        that of the two tokens (DeiT).
      merged_tokens: patches that each layer joins with their most similar ones (Bolya et al. 2023, ToMe), at most half
        of what is left; a trained model may be given any number. What comes out is un-merged: see
        `vitjax.nn.token_merging`.
    """

    transformer: TransformerConfig
    image_size: tuple[int, int]
    patch_size: tuple[int, int]
    num_classes: int = 0
    channels: int = 3
    patch_stride: tuple[int, int] | None = None
    stem_widths: tuple[int, ...] = ()
    stem_strides: tuple[int, ...] = ()
    patch_bias: bool = True
    drop_remainder: bool = False
    positions: ImagePositions = "learned"
    position_interpolation: Interpolation = "bicubic_antialias"
    prefix_positions: int = 0
    relative_tables: Literal["shared", "layers"] = "shared"
    relative_prefix: bool = False
    relative_interpolation: Interpolation | None = None
    rotary_base: float = 100.0
    rotary_unit: RotaryUnit = "patch"
    embedding_combination: Combination = "add"
    class_token: bool = False
    distillation_token: bool = False
    registers: int = 0
    embedding_norm: bool = False
    final_norm: Literal["tokens", "pooled"] = "tokens"
    pooling: Pooling = "mean"
    pooler: bool = False
    head_use_bias: bool = True
    head_bias: float = 0.0
    distillation_head: bool = False
    merged_tokens: int = 0
    kind: Literal["vision_transformer"] = "vision_transformer"

    @classmethod
    def standard(
        cls, variant: str, *, transformer: dict[str, Any] | None = None, **options: Any
    ) -> "VisionTransformerConfig":
        """A standard size and patch, such as `standard("B/16", num_classes=1000)`, at 224 pixels unless told.

        Args:
          variant: one of Ti, S, B, L, H, So400m, g, G, a slash, and the patch in pixels.
          transformer: fields of `TransformerConfig` to change, `options` those of this class.
        """
        size, _, patch = variant.partition("/")
        if size not in SIZES or not patch.isdigit():
            raise ValueError(
                f"no variant {variant!r}: write one of {', '.join(SIZES)}, a slash and a patch, as S/16"
            )
        width, depth, feed_forward_width, num_heads = SIZES[size]
        config = TransformerConfig(width, depth, num_heads, feed_forward_width)
        options = {"image_size": (224, 224), "patch_size": (int(patch), int(patch)), **options}
        return cls(transformer=replace(config, **(transformer or {})), **options)

    def __post_init__(self):
        if self.pooling in ("cls", "cls_mean") and not self.class_token:
            raise ValueError(f"pooling {self.pooling!r} needs class_token=True")
        if self.pooling == "cls_mean" and self.final_norm == "pooled":
            raise ValueError("pooling 'cls_mean' is twice as wide as the norm: it needs final_norm 'tokens'")
        if self.distillation_head and (
            not (self.distillation_token and self.num_classes)
            or (self.pooling, self.final_norm, self.pooler) != ("cls", "tokens", False)
        ):
            raise ValueError(
                "distillation_head needs num_classes, distillation_token=True, pooling 'cls', final_norm 'tokens' and "
                "no pooler"
            )
        if self.prefix_positions > (self.prefix if self.has_learned_positions else 0):
            raise ValueError(
                f"prefix_positions {self.prefix_positions}: there are {self.prefix} tokens before the patches, and "
                f"positions are {self.positions!r}"
            )
        if self.drop_remainder and self.patch_stride not in (None, self.patch_size):
            raise ValueError("drop_remainder is for patches side by side: overlapping ones are padded")
        if len(self.stem_widths) != len(self.stem_strides):
            raise ValueError(
                f"stem_widths {self.stem_widths} and stem_strides {self.stem_strides} must have equal length"
            )
        if self.pooling == "none" and (self.num_classes or self.pooler):
            raise ValueError(
                f"{self.num_classes} classes and pooler={self.pooler}: pooling 'none' leaves them nothing to read"
            )
        if self.merged_tokens < 0:
            raise ValueError(f"merged_tokens is {self.merged_tokens}: expected 0 or more")
        if self.merged_tokens and (self.has_relative_positions or self.positions == "rotary"):
            raise ValueError(
                f"merged_tokens {self.merged_tokens}: positions {self.positions!r} act inside attention, where a "
                "merged token would need several places; merging is for 'learned', 'sinusoidal' and 'none'"
            )

    @property
    def has_learned_positions(self) -> bool:
        """Whether each patch has a trained vector for its place."""
        return self.positions in ("learned", "learned_relative")

    @property
    def has_relative_positions(self) -> bool:
        """Whether attention has a trained bias for each offset between patches."""
        return self.positions in ("relative", "learned_relative")

    @property
    def concatenated_positions(self) -> bool:
        """Whether positions have half of the features of a patch to themselves."""
        return self.embedding_combination == "concat" and (
            self.has_learned_positions or self.positions == "sinusoidal"
        )

    @property
    def prefix(self) -> int:
        """Number of tokens before the patches."""
        return int(self.class_token) + int(self.distillation_token) + self.registers

    @property
    def prefix_tokens(self) -> list[tuple[str, int]]:
        """Name and number of each kind of token before the patches, in order."""
        counts = {
            "class_token": int(self.class_token),
            "distillation_token": int(self.distillation_token),
            "registers": self.registers,
        }
        return [(name, count) for name, count in counts.items() if count]

    def grid(self, image_size: tuple[int, int]) -> Grid:
        return patch_grid(
            image_size,
            self.patch_size,
            self.patch_stride,
            self.stem_strides,
            drop_remainder=self.drop_remainder,
        )

    @property
    def output_width(self) -> int:
        """Features of the vectors a decoder attends to."""
        return self.transformer.width

    def build(self, *, rngs: nnx.Rngs) -> "vitjax.models.vit.VisionTransformer":
        from vitjax.models.vit import VisionTransformer  # which is written for this config

        return VisionTransformer(self, rngs=rngs)
