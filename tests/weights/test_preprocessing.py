"""Preprocessing beside a checkpoint: the references' pixels, their files read and written, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from vitjax.data.images import read_image
from vitjax.data.preprocess import Preprocess
from vitjax.weights.preprocessing import read_preprocessing, write_preprocessing

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
