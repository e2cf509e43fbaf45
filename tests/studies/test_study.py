import html.parser
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from vitjax import studies
from vitjax.cli import main
from vitjax.commands import study as command
from vitjax.studies import STUDIES
from vitjax.studies.lab import drawing, pages
from vitjax.studies.lab.report import code_of, measure, number, record, shown
from vitjax.studies.lab.study import Check, Result, Spread, Study, Table, verdict_of

PAGES = Path(__file__).parents[2] / "docs/studies"


def check(*values: float, essential: bool = False) -> Check:
    return Check("small", Spread(values), "m", at_most=1.0, essential=essential)


@pytest.mark.parametrize(
    "checks, verdict",
    [
        ([check(0.5, 1.0)], "holds"),
        ([check(0.5, essential=True), check(0.5, 1.1)], "holds under conditions"),
        ([check(0.5, 1.1, essential=True), check(0.5)], "wrong as usually stated"),
    ],
)
def test_every_seed_counts(checks, verdict):
    assert verdict_of(tuple(checks)) == verdict


def test_spreads_calculate_seed_by_seed():
    one, other = Spread((1.0, 2.0, 3.0)), Spread((4.0, 1.0, 3.0))
    assert (100 * (one - other)).values == (-300.0, 100.0, 0.0)
    assert (one / other + 1).values == (1.25, 3.0, 2.0)
    assert (one * Spread((2.0,))).values == (2.0, 4.0, 6.0)  # counted, not drawn: the same at all seeds
    assert Spread.least(one, other).values == (1.0, 1.0, 3.0) and Spread.most(one).values == one.values
    assert abs(one - other).high == 3.0
    with pytest.raises(ValueError):
        one - Spread((1.0, 2.0))


def test_nan_is_no_measurement():
    with pytest.raises(ValueError, match="nothing was measured for 'small'"):
        check(0.5, float("nan"))


def test_bounds_in_words():
    assert check(0.0).bounds == "at most 1"
    assert Check("", Spread((0.0,)), "", at_least=0.0, at_most=0.0).bounds == "exactly 0"
    assert Check("", Spread((0.0,)), "", at_least=0.5, at_most=2.0).bounds == "at least 0.5, at most 2"


def test_a_table_is_full():
    with pytest.raises(ValueError, match="1 cells, the table 2 columns"):
        Table(("a", "b"), ((1,),))


@pytest.mark.parametrize(
    "value, text",
    [(3, "3"), (65536, "65,536"), (0.12345, "0.123"), (1234.5, "1,234"), (1.0, "1"), (2.2e-7, "2.2e-07")],
)
def test_numbers(value, text):
    assert number(value) == text


def tiny(seeds, size) -> Result:
    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.plot(seeds, [2 * seed for seed in seeds])
        axes.set(xlabel="seed", ylabel="length (m)")

    rows = (("<b>", Spread.of(seeds)), ("b", 3))
    return Result(
        Table(("what", "length (m)"), rows), (check(*map(float, seeds)),), f"{size} & done", draw, "Lines."
    )


TINY = Study("tiny", "Seeds are < 1.", "By looking.", ("Nobody 2026",), tiny)


class Tags(html.parser.HTMLParser):
    """Which tags are open at the end, and all addresses."""

    VOID = {"meta", "img", "br", "link", "input"}

    def __init__(self):
        super().__init__()
        self.open, self.names, self.addresses, self.text = [], set(), [], ""

    def handle_starttag(self, tag, attrs):
        self.names.add(tag)
        self.addresses += [value for name, value in attrs if name in ("href", "src")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_pages_stand_alone(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("vitjax.studies.STUDIES", (TINY,))
    assert command.main(["tiny", "--json", "--html", str(tmp_path), "--seeds", "3"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["verdict"], found["command"]) == ("holds under conditions", "vitjax study tiny --seeds 3")
    assert found["table"]["rows"][0] == ["<b>", {"values": [0, 1, 2], "mean": 1, "low": 0, "high": 2}]
    assert found == json.loads((tmp_path / "tiny.json").read_text())
    for name in ("index", "tiny"):
        tags = Tags()
        tags.feed((tmp_path / f"{name}.html").read_text())
        assert not tags.open and not tags.names & {"script", "link"}
        assert all((tmp_path / address).is_file() or address == "#code" for address in tags.addresses)
        assert "Seeds are < 1." in tags.text and "full & done" in tags.text
    assert "<b>" in tags.text and "10 to 2" in tags.text and "def test_pages_stand_alone" in tags.text


def test_fewer_seeds_than_show_a_spread():
    with pytest.raises(ValueError, match="expected 3 or more"):
        measure(TINY, 2)


def test_an_unknown_study(capsys):
    with pytest.raises(SystemExit) as ending:
        main(["study", "scalling"])
    assert ending.value.code == "vitjax study: error: no study is called 'scalling': did you mean 'scaling'?"


def test_without_a_name_they_are_listed(capsys):
    assert command.main([]) == 0
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == [s.name for s in STUDIES]


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
def test_each_is_one_short_file(study):
    name, code = code_of(study)
    assert name == study.name.replace("-", "_") + ".py"
    assert len(code.splitlines()) <= 300


def test_there_are_no_other_files():
    folder = Path(studies.__file__).parent
    assert len(list(folder.glob("[!_]*.py"))) == len(STUDIES)


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
def test_the_page_shows_the_code_that_is_there(study):
    page = (PAGES / f"{study.name}.html").read_text()
    stale = f"{study.name} has changed: measure it again with `vitjax study {study.name} --html docs/studies`"
    assert html.escape(code_of(study)[1]) in page, stale


# What a reduced run must find: the verdict, and the checks that must fail.
FOUND = {
    "scaling": ("holds under conditions", {"so does the mean over queries, which is what a batch adds up"}),
    "separate-query-key": (
        "holds under conditions",
        {"then the attention is symmetric too, after the softmax"},
    ),
    "dot-or-additive": (
        "holds under conditions",
        {
            "that is a constant factor, the complexity being alike: from the narrowest to the widest head it grows by"
        },
    ),
    "heads": (
        "holds under conditions",
        {
            "one head sees one token at a time: it names one of 4 and guesses the others",
            "they do so because they learn together: heads of two models that never met differ less",
        },
    ),
    "positions": (
        "holds under conditions",
        {"nor does one of two layers", "without positions a ViT cannot read digits"},
    ),
    "add-or-concat": (
        "wrong as usually stated",
        {
            "token and position can only be added: concatenating costs accuracy (token before, equal width)",
            "a model that concatenates is none that adds (against one that adds, its vectors padded with zeros)",
            "once added, token and place cannot be told apart",
            "nothing keeps their directions apart in a trained model",
            "also at equal width (token before)",
        },
    ),
    "layernorm-or-batchnorm": (
        "holds under conditions",
        {"and vanishes towards the first layer"},
    ),
    "residual": (
        "holds under conditions",
        {"residual connections are needed for it: norms alone do not keep the gradient"},
    ),
    "masking": (
        "holds under conditions",
        {
            "the masked self-attention takes its keys and values from the encoder",
            "there the encoder's output is added to what comes from the decoder",
            "it is added to queries or keys elsewhere: silencing the cross-attention does not shut it out",
            "nor if what is changed is no number (NaN)",
            "also if it is added before the division by sqrt(d_k)",
            "also if the masked score is 1000 above the visible ones",
            "a row in which all is masked does not read what is masked",
        },
    ),
    "feed-forward": (
        "wrong as usually stated",
        {
            "it is the smaller part of a ViT-B/16 (parameters)",
            "so too of the operations at 224 x 224 pixels",
            "it is in the way of long distances: without it a token far before is named better",
            "little is lost without it: naming the sum of two tokens",
        },
    ),
    "parallel": (
        "holds under conditions",
        {
            "nor has writing 256 tokens instead of 16",
            "reading 256 tokens instead of 16 takes no longer",
            "beams over devices need fewer steps",
            "nor with heads of their own",
            "nor with tokens of their own",
        },
    ),
    "complexity": (
        "holds under conditions",
        {
            "so does a layer's, with few tokens too",
            "attention is most of ViT-B/16 at 224 pixels",
            "it must: also for 24 queries at a time",
            "without half of its heads a Transformer costs half",
            "pruning heads keeps the accuracy",
        },
    ),
    "vit-or-cnn": (
        "holds under conditions",
        {
            "a ViT needs huge data: 200 images are of little use to it",
            "near the border too",
            "so a ResNet is shift-invariant: it reads digits moved by two pixels (half a stride) as well",
            "not even without positions",
            "30 steps of pretraining on printed digits close the gap at 200 images",
        },
    ),
    "transformer-or-lstm": (
        "holds under conditions",
        {
            "so an LSTM's does not vanish",
            "an LSTM cannot learn to recall a token after 24 others",
            "with as many parameters a Transformer also computes less",
        },
    ),
    "beam-width": (
        "holds under conditions",
        {"and more of the right ones (a fifth missing)"},
    ),
    "attention-maps": (
        "holds under conditions",
        {
            "so it is as soon as it reads better than chance",
            "the last layer's attention alone says as much",
            "rollout says more than the image alone: how far each patch is from what covers it",
        },
    ),
}


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
def test_a_reduced_run_finds_the_verdict(study, tmp_path):
    report = measure(study, size="reduced")
    found = record(report)
    json.dumps(found, allow_nan=False)
    verdict, failing = FOUND[study.name]
    assert {check["statement"] for check in found["checks"] if not check["passed"]} == failing
    assert found["verdict"] == verdict
    assert all(shown(cell) for row in found["table"]["rows"] for cell in row)

    figure = Figure()
    report.result.draw(figure)
    for axes in figure.axes:
        assert axes.get_xlabel() and "(" in axes.get_ylabel()
    pages.write_page(found, study, tmp_path)
    assert study.claim.split(":")[0] in (tmp_path / f"{study.name}.html").read_text()


def test_a_figure_is_small(tmp_path):
    drawing.save(tiny((0, 1, 2), "reduced"), tmp_path / "tiny.png")
    with Image.open(tmp_path / "tiny.png") as picture:
        assert picture.size == (880, 396)
        assert np.asarray(picture.convert("L")).min() < 80  # something is drawn
    assert (tmp_path / "tiny.png").stat().st_size < 60_000


def test_a_figure_keeps_its_colors(tmp_path):
    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for place, color in enumerate(drawing.COLORS):
            axes.plot([place, place + 1], color=color, lw=1.6)
            for top in range(2, 8):  # bands over bands have many shades
                axes.fill_between(
                    [0, 1], place, [place + top / 2, place + top], color=color, alpha=0.18, lw=0
                )

    result = replace(tiny((0, 1, 2), "reduced"), draw=draw)
    drawing.save(result, tmp_path / "colors.png")
    with Image.open(tmp_path / "colors.png") as picture:
        pixels = np.asarray(picture.convert("RGB"), float).reshape(-1, 1, 3)
    wanted = np.array([to_rgb(color) for color in drawing.COLORS]) * 255
    assert np.abs(pixels - wanted).max(-1).min(0).max() <= 8
