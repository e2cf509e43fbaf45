"""Cases of timm's VisionTransformer: ViT, DeiT and DeiT III."""

from pathlib import Path

from tests.golden.reference_case import Sizes, case, randomise
from tests.golden.reference_timm import both_sizes, facts, save, timm, vit_options


def vit(folder: Path, seed: int, sizes: Sizes, architecture: str, gain: float = 1.5, **options):
    model = timm.create_model(architecture, **vit_options(sizes, **options))
    randomise(model, seed, gain=gain)
    save(model, folder)
    return both_sizes(model, seed, sizes), facts(model)


@case(seed=11)
def vit_timm_cls(folder: Path, seed: int, sizes: Sizes):
    return vit(folder, seed, sizes, "vit_base_patch16_224")


@case(seed=12, width=40, heads=4, patch=5, other=(20, 35))
def vit_timm_gap(folder: Path, seed: int, sizes: Sizes):
    return vit(folder, seed, sizes, "vit_medium_patch16_gap_240")


@case(seed=13)
def vit_timm_registers(folder: Path, seed: int, sizes: Sizes):
    return vit(folder, seed, sizes, "vit_medium_patch16_reg4_gap_256", gain=1.0)


@case(seed=14)
def vit_timm_headless(folder: Path, seed: int, sizes: Sizes):
    return vit(folder, seed, sizes, "vit_base_patch16_224", num_classes=0)


@case(seed=15)
def deit_timm_distilled(folder: Path, seed: int, sizes: Sizes):
    return vit(folder, seed, sizes, "deit_base_distilled_patch16_224")


@case(seed=16)
def deit3_timm(folder: Path, seed: int, sizes: Sizes):
    return vit(folder, seed, sizes, "deit3_base_patch16_224")
