"""What each layer costs, as text, JSON and plots."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from browsers import check_layout

from vitedge.calib.sensitivity.result import Effect, LayerSensitivity, Sensitivity
from vitedge.report.page import glossary, page
from vitedge.report.plot import HEIGHT, PLOT_STYLE, WIDTH
from vitedge.report.sensitivity import SHOWN_LAYERS, TERMS, lines, section, to_json


def sensitivity(count: int = 3) -> Sensitivity:
    """The later in the graph, the worse; the first is exact, and the names are wicked."""
    layers = tuple(
        LayerSensitivity(
            f"<layer {at}>",
            "MatMul",
            1_500_000 * (at + 1),
            45.0 - at,
            Effect(200.0 if at == 0 else 50.0 - at, at % 2, 0.001 * at),
            Effect(30.0 + 0.1 * at, 1, 0.002),
        )
        for at in range(count)
    )
    return Sensitivity(16, Effect(30.0, 2, 0.05), layers)


def test_the_table_begins_with_the_worst_and_says_what_is_left_out() -> None:
    first, head, worst, *_ = text = list(lines(sensitivity()))
    assert first == "layers on 16 images, logits against fp32: with all 3 layers in int8 30.0 dB, 2 flips, KL 0.05"
    assert head.startswith("layer ")
    assert re.split(r"  +", worst) == ["<layer 2>", "3", "4.50", "43.0", "48.0", "0", "0.002", "30.2", "1", "0.002"]
    assert "exact" in text[-1]
    assert len({len(line) for line in text[1:]}) == 1
    many = list(lines(sensitivity(SHOWN_LAYERS + 5)))
    assert len(many) == SHOWN_LAYERS + 3
    assert many[-1].startswith("and 5 layers that cost less")


def test_the_json_holds_all_worst_first() -> None:
    document = json.loads(json.dumps(to_json(sensitivity(30))))
    assert set(document) == {"images", "whole", "layers"}
    assert document["whole"] == {"sqnr_db": 30.0, "flips": 2, "kl": 0.05}
    assert [layer["only"]["sqnr_db"] for layer in document["layers"]][:2] == [21.0, 22.0]
    assert len(document["layers"]) == 30
    assert document["layers"][-1]["name"] == "<layer 0>"


def test_two_plots_show_every_layer_within_their_bounds() -> None:
    text = section(sensitivity(30))
    plots = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(plots) == 2
    for plot in plots:
        dots = [each for each in ET.fromstring(plot).iter() if each.tag == "circle"]
        assert len(dots) == 30
        assert all(0 < float(dot.attrib["cx"]) < WIDTH and 0 < float(dot.attrib["cy"]) < HEIGHT for dot in dots)
        assert "nan" not in plot
    first = [float(y) for y in re.findall(r'cy="([\d.]+)"', plots[0])]
    assert first[1] < first[29]  # the worst lies low
    assert min(first) == first[0]  # what is exact lies above all
    assert "<layer" not in text
    assert text.count("<tr>") == 31


def test_layers_that_are_all_exact_make_a_page() -> None:
    exact = Effect(200.0, 0, 0.0)
    layers = (LayerSensitivity("a", "Conv", 1, 200.0, exact, exact),)
    assert "nan" not in section(Sensitivity(1, exact, layers))


def test_the_costliest_layers_are_named_first() -> None:
    half = "4 of 30 layers make half of the noise: &lt;layer 29&gt;, &lt;layer 28&gt;, &lt;layer 27&gt;, &lt;"
    assert half in section(sensitivity(30))
    exact = Effect(200.0, 0, 0.0)
    harmless = LayerSensitivity("a", "Conv", 1, 200.0, exact, exact)
    assert "int8 costs nothing here." in section(Sensitivity(1, exact, (harmless,)))


@pytest.mark.timeout(200)
def test_a_browser_shows_the_section_on_wide_and_narrow_windows(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(
        page("Layers", [section(sensitivity(49)), glossary(*TERMS)], style=PLOT_STYLE), encoding="utf-8"
    )
    check_layout(tmp_path / "page.html")
