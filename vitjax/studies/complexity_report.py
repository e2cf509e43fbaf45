"""What the study `complexity` measured, as rows of a table and in words."""

from dataclasses import dataclass

from vitjax.studies.complexity_layer import CHUNK, DEPTH, Layer, exponent, half_time
from vitjax.studies.complexity_pruning import KINDS, Variant, first, points_lost
from vitjax.studies.study import Cell, Spread

WIDTH = 64  # of the layer that is followed over many lengths
FEW, MANY = (32, 128), (512, 1024)  # tokens between which exponents are taken
VIT_B, VIT_TOKENS = 768, {224: 197, 384: 577, 1024: 4097}  # patches of 16 pixels and a class token


@dataclass(frozen=True)
class Memory:
    """Bytes by what is computed and for how many tokens."""

    at_once: list[int]
    in_chunks: list[int]
    training: list[int]
    recomputed: list[int]


@dataclass(frozen=True)
class Measured:
    """`layers` of width `WIDTH`, `wider` of twice that, `vits` of ViT-B/16; `memory` for `planned` tokens."""

    layers: list[Layer]
    wider: list[Layer]
    vits: list[Layer]
    planned: tuple[int, ...]
    memory: Memory
    digits: list[Variant]
    large: list[Variant]


def rows(m: Measured) -> tuple[tuple[Cell, ...], ...]:
    """Of the table."""
    named = {
        f"layer, D = {WIDTH}, N = {each.tokens}": each for each in m.layers if each.tokens in (FEW[1], *MANY)
    }
    named |= {f"layer of ViT-B/16 at {_pixels(each.tokens)}": each for each in m.vits}
    told: list[tuple[Cell, ...]] = [
        (
            label,
            2 * each.formula / 1e6,
            100 * each.quadratic_share,
            _milliseconds(each.time) if each.time else "-",
            percent(each.quadratic_time_share) if each.time else "-",
            each.memory / 1e6,
            "-",
            "-",
        )
        for label, each in named.items()
    ]
    firsts = (m.digits[0], *first(m.digits).values()), m.large
    for model, variants in zip(("digits ViT", "ViT-S/16"), firsts, strict=True):
        told += [
            (
                f"{model}, {each.description}",
                each.operations / 1e6,
                "-",
                _milliseconds(each.time),
                "-",
                each.memory / 1e6,
                percent(each.accuracy) if each.accuracy else "-",
                percent(each.tuned) if each.tuned else "-",
            )
            for each in variants
        ]
    return tuple(told)


def finding(m: Measured) -> str:
    """What the numbers say."""
    small, real = first(m.digits), first(m.large)
    few, many = exponent(m.layers, FEW), exponent(m.layers, MANY)
    shares = ", ".join(f"{each.quadratic_share:.0%} at {_pixels(each.tokens)} pixels" for each in m.vits)
    in_time = ", ".join(
        f"{each.quadratic_time_share.mean:.0%} at {_pixels(each.tokens)}" for each in m.vits if each.time
    )
    costs = "; ".join(
        f"{real[kind].description}: {real[kind].operations / m.large[0].operations:.0%} of the operations, "
        f"{real[kind].time_left(m.large[0]).mean:.0%} of the time"
        for kind in KINDS
    )
    tuned = ", ".join(
        f"{points_lost(m.digits[0], each.tuned).mean:.1f}" for each in small.values() if each.tuned
    )
    losses = ", ".join(
        f"{points_lost(m.digits[0], small[kind].accuracy).mean:.1f} points for {kind}" for kind in KINDS
    )
    measured = [each for each in (m.layers, m.wider) if each]
    halves = " and ".join(f"{half_time(each):,.0f} tokens" for each in measured)
    widths = " and ".join(f"D = {each[0].width}" for each in measured)
    return (
        "The formula is right, if one knows that it counts multiply-adds: floating-point operations are twice as "
        "many. What people conclude from it is not. The quadratic term is as large as the rest only at N = 2D + F, "
        f"{6 * VIT_B:,} tokens for the width of ViT-B/16; in that model it is {shares}"
        f"{in_time and f' (of the measured time {in_time})'}, and at 224 pixels the feed-forward network alone is "
        f"{1 - m.vits[0].attention_share:.0%}. So time is not quadratic with few tokens (exponent {few.mean:.1f} from "
        f"{FEW[0]} to {FEW[1]}) and becomes so with many ({many.mean:.1f} from {MANY[0]} to {MANY[1]}); the quadratic "
        f"part is half of it at about {halves} for {widths}. Memory is quadratic only because the weights [H, N, N] "
        f"are written down: for {CHUNK} queries at a time, the same attention at N = {m.planned[-1]:,} needs "
        f"{m.memory.in_chunks[-1] / m.memory.at_once[-1]:.1%} of the memory, and that grows linearly; fused kernels "
        "do the same. In training every layer keeps its weights, unless layers are recomputed "
        f"({m.memory.recomputed[-1] / m.memory.training[-1]:.0%} of the memory for {DEPTH} layers). Pruning saves "
        f"the share of a term, not of what is taken out. ViT-S/16: {costs}. A small ViT trained on digits loses "
        f"{losses}, pruned as in the table{tuned and f'; after a little more training {tuned}'}. It has few heads, and "
        "needs them; that many of the 16 heads of a large model can go (Michel et al.) is not contradicted."
    )


def percent(share: Spread) -> Spread:
    """In hundredths."""
    return Spread.of(100 * value for value in share.values)


def _milliseconds(time: Spread) -> Spread:
    return Spread.of(1000 * value for value in time.values)


def _pixels(tokens: int) -> int:
    return next(pixels for pixels, count in VIT_TOKENS.items() if count == tokens)
