"""Every family vitjax reads and writes, and how one is recognized."""

from vitjax.weights.big_vision import BIG_VISION, VISION_TRANSFORMER
from vitjax.weights.clip import CLIP
from vitjax.weights.deit import DEIT
from vitjax.weights.dinov2 import DINOV2, DINOV2_WITH_REGISTERS
from vitjax.weights.family import Family, Fields, Specs
from vitjax.weights.siglip import SIGLIP
from vitjax.weights.timm_vit import TIMM_VIT
from vitjax.weights.vit import MAE, VIT

FAMILIES: tuple[Family, ...] = (
    VIT,
    MAE,
    DEIT,
    DINOV2,
    DINOV2_WITH_REGISTERS,
    CLIP,
    SIGLIP,
    TIMM_VIT,
    VISION_TRANSFORMER,
    *BIG_VISION,
)


def recognize(fields: Fields, specs: Specs, where: str) -> Family:
    """The family of a folder; ValueError if it is none of ours."""
    for family in FAMILIES:
        if family.recognizes(fields, specs):
            return family
    kind = fields.get("model_type") or fields.get("architecture")
    what = f"a {kind!r}" if kind else "of no known kind"
    raise ValueError(
        f"{where} is {what}, which vitjax does not read: there are {', '.join(dict.fromkeys(f.name for f in FAMILIES))}"
    )
