"""Every family vitjax reads and writes, and how one is recognized."""

from vitjax.weights.bart import BART, MBART
from vitjax.weights.beit import BEIT, TIMM_BEIT
from vitjax.weights.big_vision import BIG_VISION, VISION_TRANSFORMER
from vitjax.weights.clip import CLIP
from vitjax.weights.deit import DEIT
from vitjax.weights.dinov2 import DINOV2, DINOV2_WITH_REGISTERS
from vitjax.weights.dinov3 import DINOV3, TIMM_DINOV3
from vitjax.weights.family import Family, Fields, Specs
from vitjax.weights.marian import MARIAN
from vitjax.weights.resnet import RESNET, TIMM_RESNET
from vitjax.weights.siglip import SIGLIP
from vitjax.weights.siglip2 import SIGLIP2
from vitjax.weights.t5 import T5
from vitjax.weights.timm_vit import TIMM_VIT
from vitjax.weights.vision_encoder_decoder import VISION_ENCODER_DECODERS
from vitjax.weights.vit import MAE, VIT

FAMILIES: tuple[Family, ...] = (
    VIT,
    MAE,
    DEIT,
    DINOV2,
    DINOV2_WITH_REGISTERS,
    CLIP,
    SIGLIP,
    SIGLIP2,
    DINOV3,
    TIMM_DINOV3,
    BEIT,
    TIMM_BEIT,
    TIMM_VIT,
    RESNET,
    TIMM_RESNET,
    VISION_TRANSFORMER,
    *BIG_VISION,
    *VISION_ENCODER_DECODERS,
    MARIAN,
    T5,
    BART,
    MBART,
)


def recognize(fields: Fields, specs: Specs, where: str) -> Family:
    """The family of a folder; ValueError if it is none of ours."""
    for family in FAMILIES:
        if family.recognizes(fields, specs):
            return family
    if not fields:
        raise ValueError(
            f"{where} has no config.json, and its arrays are not named as those of a big_vision .npz"
        )
    kind = fields.get("model_type") or fields.get("architecture")
    raise ValueError(
        f"{where} is of the kind {kind!r}, which vitjax does not read: there are "
        f"{', '.join(family.name for family in FAMILIES if family.format != 'npz')}, and .npz of big_vision"
    )
