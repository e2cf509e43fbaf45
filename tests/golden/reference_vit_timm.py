"""Cases of timm's VisionTransformer: ViT, DeiT, DeiT III, DINOv2, CLIP, SigLIP; and of its Eva, DINOv3, and Beit."""

from pathlib import Path

from tests.golden.reference_case import Sizes, case, randomise
from tests.golden.reference_timm import both_sizes, facts, saved, timm, vit_options


def vit(folder: Path, seed: int, sizes: Sizes, architecture: str, gain: float = 1.2, **options):
    model = timm.create_model(architecture, **vit_options(sizes, **options))
    randomise(model, seed, gain=gain)
    model = saved(model, folder)
    return both_sizes(model, seed, sizes), facts(model)


@case(seed=11)
def vit_timm_cls(folder: Path, seed: int, sizes: Sizes):
    return vit(folder, seed, sizes, "vit_base_patch16_224")


@case(seed=12, width=28, heads=4, patch=5, other=(20, 35))
def vit_timm_gap(folder: Path, seed: int, sizes: Sizes):
    return vit(folder, seed, sizes, "vit_medium_patch16_gap_240")


@case(seed=13)
def vit_timm_registers(folder: Path, seed: int, sizes: Sizes):
    return vit(folder, seed, sizes, "vit_medium_patch16_reg4_gap_256", gain=0.7)


@case(seed=14, layers=1)
def vit_timm_headless(folder: Path, seed: int, sizes: Sizes):
    return vit(folder, seed, sizes, "vit_base_patch16_224", num_classes=0)


@case(seed=15, layers=1)
def deit_timm_distilled(folder: Path, seed: int, sizes: Sizes):
    return vit(folder, seed, sizes, "deit_base_distilled_patch16_224")


@case(seed=16)
def deit3_timm(folder: Path, seed: int, sizes: Sizes):
    return vit(folder, seed, sizes, "deit3_base_patch16_224")


@case(seed=17)
def dinov2_timm(folder: Path, seed: int, sizes: Sizes):
    return vit(folder, seed, sizes, "vit_small_patch14_reg4_dinov2", num_classes=0)


@case(seed=18, layers=1)
def dinov2_giant_timm(folder: Path, seed: int, sizes: Sizes):
    """SwiGLU; both of its projections in one, so an even width."""
    return vit(folder, seed, sizes, "vit_giant_patch14_dinov2", num_classes=0)


@case(seed=19, layers=1)
def clip_timm(folder: Path, seed: int, sizes: Sizes):
    """A norm before the blocks, quick GELU, and a projection as its head."""
    return vit(folder, seed, sizes, "vit_base_patch32_clip_quickgelu_224")


@case(seed=20, layers=1)
def siglip_timm(folder: Path, seed: int, sizes: Sizes):
    """With the erf form of GELU, as timm has the first SigLIPs, and a classifier behind the attention pooling."""
    return vit(folder, seed, sizes, "vit_base_patch16_siglip_224", gain=0.8)


@case(seed=21, layers=1)
def siglip2_timm(folder: Path, seed: int, sizes: Sizes):
    """With the tanh form of GELU."""
    return vit(folder, seed, sizes, "vit_so400m_patch16_siglip_256", num_classes=0)


@case(seed=22)
def dinov3_timm(folder: Path, seed: int, sizes: Sizes):
    return vit(folder, seed, sizes, "vit_small_patch16_dinov3", num_classes=0)


@case(seed=23, layers=1)
def dinov3_gated_timm(folder: Path, seed: int, sizes: Sizes):
    return vit(folder, seed, sizes, "vit_small_plus_patch16_dinov3_qkvb", gain=0.8)


@case(seed=24)
def beit_timm(folder: Path, seed: int, sizes: Sizes):
    return vit(folder, seed, sizes, "beit_base_patch16_224", gain=0.8)
