import pytest

from vitjax.studies.lab.drawing import panel, save
from vitjax.studies.lab.study import Result, Spread, Table


@pytest.mark.parametrize("log", ["", "y"])
@pytest.mark.parametrize("place, covered", [("above", False), ("upper left", True)])
def test_a_legend_above_covers_no_curve(tmp_path, log, place, covered):
    panels = []

    def draw(figure):
        panels.append(figure.subplots(1, 3)[0])
        curves = {name: [Spread((9.0, 10.0)), Spread((1.0, 2.0))] for name in "abcdef"}
        panel(panels[0], (1, 2), curves, xlabel="", ylabel="", title="", log=log, legend=place)

    save(Result(Table((), ()), (), "", draw, ""), tmp_path / "figure.png")
    highest = panels[0].transData.transform((1, 10.0))[1]
    assert (panels[0].get_legend().get_window_extent().y0 < highest) == covered
    assert panels[0].get_window_extent().y1 > highest
