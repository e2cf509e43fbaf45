"""Preprocessing beside a checkpoint: the references' pixels, their files read and written, and what is refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vitjax
from vitjax.data.config import DataConfig
from vitjax.data.images import read_image
from vitjax.data.preprocess import Preprocess
from vitjax.weights.preprocessing import read_preprocessing, timm_fields, write_preprocessing

GOLDEN = Path(__file__).parents[1] / "golden" / "preprocess"
CASES = json.loads((GOLDEN / "cases.json").read_text())["cases"]
WRITTEN = json.loads((GOLDEN / "written.json").read_text())
EXPECTED = dict(np.load(GOLDEN / "expected.npz"))

RNG = np.random.default_rng(0)


def read(folder: Path, **files: object) -> Preprocess | None:
    for name, content in files.items():
        (folder / f"{name}.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return read_preprocessing(folder)


def of_case(case: str, folder: Path) -> Preprocess:
    fields = CASES[case]["fields"]
    files = (
        {"config": {"pretrained_cfg": fields}} if case.startswith("timm") else {"preprocessor_config": fields}
    )
    preprocess = read(folder, **files)
    assert preprocess is not None
    return preprocess


@pytest.mark.parametrize("case", CASES)
def test_pixels_are_the_references(case, tmp_path):
    preprocess = of_case(case, tmp_path)
    scale, shift = np.asarray(CASES[case]["scale"]), np.asarray(CASES[case]["shift"])
    for name in CASES[case]["images"]:
        pixels = preprocess(read_image(GOLDEN / "images" / f"{name}.png"))
        normalized = np.asarray(preprocess.normalize(pixels))
        for backend in ("pil", "timm", "torchvision"):
            expected = EXPECTED.get(f"{case}/{name}/{backend}")
            if expected is None:
                assert backend != "pil" or case == "dinov3" or case.startswith("timm")
                continue
            if expected.dtype == np.float32:  # resized in float: one rounding of ours apart
                assert np.abs((normalized - expected) / scale).max() < 0.501
                continue
            apart = np.abs(pixels.astype(int) - expected)
            assert apart.max() <= (1 if backend == "torchvision" else 0), (name, backend)
            levels = pixels * scale + shift
            np.testing.assert_allclose(normalized, levels, atol=1e-5 * np.abs(levels).max())


@pytest.mark.parametrize("case", [case for case in CASES if not case.startswith("timm")])
def test_what_is_written_is_what_transformers_made_the_same_pixels_of(case, tmp_path):
    preprocess = of_case(case, tmp_path)
    assert write_preprocessing(preprocess, tmp_path) == ()
    written = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert written == WRITTEN[case]
    assert read_preprocessing(tmp_path) == preprocess


@pytest.mark.parametrize("case", [case for case in CASES if case.startswith("timm")])
def test_timm_fields_go_round(case, tmp_path):
    preprocess = of_case(case, tmp_path)
    fields, differences = timm_fields(preprocess)
    assert differences == ()
    assert read(tmp_path, config={"architecture": "vit_tiny", "pretrained_cfg": fields}) == preprocess
    assert read(tmp_path, config={"architecture": "vit_tiny", **fields}) == preprocess  # as old files have it


def test_convnext_stretches_from_384_pixels_on(tmp_path):
    fields = {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 384}, "resample": 3}
    preprocess = read(tmp_path, preprocessor_config=fields)
    assert preprocess.keeps_all
    image = RNG.integers(0, 256, (30, 50, 3), dtype=np.uint8)
    stretched = Image.fromarray(image).resize((384, 384), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(preprocess(image), stretched)


def test_where_it_is_looked_for(tmp_path):
    assert read_preprocessing(tmp_path) is None
    old = {"feature_extractor_type": "ViTFeatureExtractor", "size": 32}
    assert read(
        tmp_path, preprocessor_config=old, processor_config={"processor_class": "TrOCRProcessor"}
    ) == (Preprocess((32, 32), mean=(0.5,) * 3, std=(0.5,) * 3, middle="down"))
    nested = {"image_processor_type": "DeiTImageProcessor", "size": {"height": 48, "width": 40}}
    processor = {"image_processor": nested, "processor_class": "TrOCRProcessor"}
    preprocess = read(tmp_path, processor_config=processor)
    assert (preprocess.resize_size, preprocess.image_size) == ((48, 40), (224, 224))
    timm = {
        "architecture": "vit_tiny_patch16_224",
        "pretrained_cfg": {"input_size": [3, 64, 64], "crop_pct": 1.0},
    }
    assert read(tmp_path, config=timm).image_size == (64, 64)


def test_models_are_loaded_with_it(tmp_path):
    weights = GOLDEN.parent / "weights"
    assert vitjax.load(weights / "vit_hf").preprocess == read_preprocessing(weights / "vit_hf") is not None
    assert vitjax.load(weights / "vit_timm_cls").preprocess.resize == "crop"
    npz = vitjax.load(weights / "vit_npz" / "vit.npz")  # big_vision: stretched to -1..1
    assert npz.preprocess == Preprocess(npz.config.image_size)
    shutil.copytree(weights / "vit_hf", tmp_path / "grey")
    fields = {"image_processor_type": "ViTImageProcessor", "image_mean": [0.5], "image_std": [0.5]}
    (tmp_path / "grey" / "preprocessor_config.json").write_text(json.dumps(fields))
    with pytest.raises(ValueError, match="makes images of 1 channels, its model reads 3"):
        vitjax.load(tmp_path / "grey")


def test_a_file_without_a_processor_takes_the_models(tmp_path):
    fields = {"size": 40, "do_resize": True}
    assert read(tmp_path, config={"model_type": "dinov2"}, preprocessor_config=fields).resize == "crop"
    assert read(tmp_path, config={"model_type": "vit"}, preprocessor_config=fields).resize == "stretch"
    with pytest.raises(ValueError, match="no image_processor_type, and none is known for model_type 'bert'"):
        read(tmp_path, config={"model_type": "bert"})


VIT = {"image_processor_type": "ViTImageProcessor"}
DONUT = {"image_processor_type": "DonutImageProcessor"}


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        (
            {"image_processor_type": "SegformerImageProcessor"},
            "image_processor_type is 'SegformerImageProcessor'",
        ),
        ({**VIT, "do_pad": True}, "do_pad is True"),
        ({**VIT, "size_divisor": 32}, "size_divisor is 32"),
        ({**VIT, "do_flip_channel_order": True}, "do_flip_channel_order is True"),
        ({**VIT, "rescale_offset": True}, "rescale_offset is True"),
        ({**VIT, "crop_pct": 0.9}, "crop_pct is 0.9"),
        ({**VIT, "auto_map": {"AutoImageProcessor": "own.Processor"}}, "auto_map is"),
        ({**VIT, "do_resize": "yes"}, "do_resize is 'yes'"),
        ({**VIT, "do_resize": False}, "do_resize is False"),
        ({**VIT, "size": {"shortest_edge": 24}}, "do_center_crop is False"),
        ({**VIT, "size": {"longest_edge": 24}}, "size is {'longest_edge': 24}"),
        ({**VIT, "size": {"shortest_edge": 24, "longest_edge": 48}}, "size is"),
        ({**VIT, "size": 0}, "size is 0"),
        ({**VIT, "size": True}, "size is True"),
        ({**VIT, "resample": 6}, "resample is 6"),
        ({**VIT, "rescale_factor": -1}, "rescale_factor is -1"),
        ({**VIT, "rescale_factor": "1/255"}, "rescale_factor is '1/255'"),
        ({**VIT, "image_mean": [0.5, 0.5]}, "image_mean is"),
        ({**VIT, "image_mean": [0.5, 0.5, "0.5"]}, "image_mean is"),
        ({**VIT, "image_mean": [0.5]}, "image_std is"),
        ({**VIT, "image_std": [0.5, 0.5, 0.0]}, "image_std is"),
        ({"image_processor_type": "DeiTImageProcessor", "crop_size": {"shortest_edge": 4}}, "crop_size is"),
        ({"image_processor_type": "ConvNextImageProcessor", "size": {"height": 8, "width": 8}}, "size is"),
        ({"image_processor_type": "DINOv3ViTImageProcessorFast", "resample": 3}, "resample is 3"),
        ({**DONUT, "do_thumbnail": False}, "do_thumbnail is False"),
        ({**DONUT, "do_pad": False}, "do_pad is False"),
        ({**DONUT, "do_center_crop": True}, "do_center_crop is True"),
        ({**DONUT, "resample": 0}, "resample is 0"),
        ({"image_processor_type": "Siglip2ImageProcessor", "max_num_patches": 0}, "max_num_patches is 0"),
    ],
)
def test_an_option_that_is_not_followed_is_refused_by_name(fields, told, tmp_path):
    with pytest.raises(ValueError) as caught:
        read(tmp_path, preprocessor_config=fields)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'preprocessor_config.json'}: {told}"), message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"interpolation": "random"}, "pretrained_cfg.interpolation is 'random'"),
        ({"crop_mode": "corner"}, "pretrained_cfg.crop_mode is 'corner'"),
        ({"input_size": [224, 224]}, "pretrained_cfg.input_size is"),
        ({"input_size": [4, 224, 224]}, "pretrained_cfg: preprocessing has channels=4"),
        ({"mean": [0.5, 0.5]}, "pretrained_cfg: preprocessing has mean"),
        ({"crop_pct": -1.0}, "pretrained_cfg.crop_pct is -1.0"),
    ],
)
def test_a_field_of_timms_that_makes_no_sense(fields, told, tmp_path):
    with pytest.raises(ValueError) as caught:
        read(tmp_path, config={"pretrained_cfg": fields})
    assert str(caught.value).startswith(f"{tmp_path / 'config.json'}: {told}")


@pytest.mark.parametrize("text", ["{", "[]", '"size"', "\xff"])
def test_a_file_that_is_no_json_object(text, tmp_path):
    (tmp_path / "preprocessor_config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match="preprocessor_config.json (is not JSON|holds a)"):
        read_preprocessing(tmp_path)


CUT = Preprocess((28, 28), resize="crop", resize_size=(32, 32), interpolation="bicubic")


def test_what_differs_elsewhere_is_told(tmp_path):
    (line,) = write_preprocessing(CUT, tmp_path)
    assert "one pixel" in line
    assert read_preprocessing(tmp_path) == replace(CUT, mean=(0.5,) * 3, std=(0.5,) * 3, middle="down")
    assert [len(timm_fields(p)[1]) for p in (CUT, replace(CUT, middle="down"))] == [0, 1]
    grey = Preprocess((8, 8), channels=1)
    assert "grey images alone" in write_preprocessing(grey, tmp_path)[0]
    assert read_preprocessing(tmp_path) == replace(grey, middle="down")
    white = Preprocess((8, 8), resize="none", fill=(255,), middle="down")
    assert "pads with black" in write_preprocessing(white, tmp_path)[0]
    assert timm_fields(Preprocess((8, 8), round_once=True))[1]
    assert (
        timm_fields(Preprocess((8, 8), resize="fit"))[1]
        and not timm_fields(Preprocess((8, 8), resize="fit", mean=(0.2,), fill=(51,)))[1]
    )


def test_what_cannot_be_said_elsewhere_is_refused(tmp_path):
    for preprocess in (
        Preprocess((8, 8), resize="fit"),
        Preprocess((8, 8), align_long_axis=True),
        Preprocess((8, 8), resize="crop", resize_size=(9, 12)),
    ):
        with pytest.raises(ValueError, match="dataclasses.replace"):
            write_preprocessing(preprocess, tmp_path)
        assert not list(tmp_path.iterdir())
    for preprocess in (
        Preprocess((8, 8), resize="patches"),
        Preprocess((8, 8), resize="thumbnail"),
        Preprocess((8, 8), resize="crop", resize_size=(9, 12)),
    ):
        with pytest.raises(ValueError, match="timm knows"):
            timm_fields(preprocess)


@pytest.mark.parametrize("case", CASES)
def test_training_goes_on_with_the_same_pixels(case, tmp_path):
    preprocess = of_case(case, tmp_path)
    again = Preprocess.of(DataConfig("digits", **preprocess.data_fields()))
    same = ("image_size", "channels", "mean", "std", "interpolation")
    assert all(getattr(again, name) == getattr(preprocess, name) for name in same)
    unsaid = {"fill": again.fill, "middle": "even", "round_once": False}
    if preprocess.resize in ("stretch", "crop", "fit") and case != "deit_odd":
        assert again == replace(preprocess, **unsaid)
