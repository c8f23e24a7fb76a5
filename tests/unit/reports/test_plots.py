"""Plots as parts of a page."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from panoptic_plugin.reports.plot_style import SERIES, write_pngs
from panoptic_plugin.reports.run_plots import bars_plot, confusion_plot, curves_plot, histogram_plot, stacked_plot

RUNS = {"a <run>": [(19, 3.0), (39, 2.0)], "b": [(19, 4.0), (39, 1.5)]}
LABELS, VALUES = ["road", "car"], {"a": [50.0, None], "b": [25.0, 75.0]}


def make_plots():
    return [
        curves_plot("loss_center", "Loss center", RUNS, log_scale=True),
        bars_plot("classes_pq", "PQ by class", LABELS, VALUES),
        confusion_plot("confusion", "Confusion", LABELS, np.array([[90.0, 10.0, 0.0], [20.0, 70.0, 10.0]])),
        histogram_plot("images", "PQ of images", {"a": [1.0, 50.0, 100.0]}),
        stacked_plot("time", "Time", ("data", "network"), {"a": {"data": 3.0, "network": 7.0}}),
    ]


@pytest.fixture(scope="module")
def plots():
    return make_plots()


def test_plots_are_elements_of_a_page(plots, tmp_path):
    ids = []
    for plot in plots:
        ElementTree.fromstring(plot.svg.replace("xlink:href", "href"))
        assert plot.svg.startswith('<svg role="img" aria-label="') and "<style" not in plot.svg
        assert "http" not in plot.svg and "metadata" not in plot.svg
        own = re.findall(r' id="([^"]+)"', plot.svg)
        assert set(re.findall(r"(?:url\(#|href=\"#)([^)\"]+)", plot.svg)) <= set(own)
        ids += own
        assert not any(color in plot.svg for color in SERIES) and "var(--text)" in plot.svg
    assert len(set(ids)) == len(ids)
    write_pngs(plots, tmp_path / "plots")
    assert len(list((tmp_path / "plots").glob("*.png"))) == 5


def test_plots_say_what_they_show(plots):
    texts = [plot.alt for plot in plots]
    assert "a <run>: from 3 at iteration 19 to 2 at 39, lowest 2, highest 3" in texts[0]
    assert "a: road 50.0; b: road 25.0, car 75.0" in texts[1]
    assert "Largest confusions: car as road 20%, car as none 10%, road as car 10%" in texts[2]
    assert "median 50.0, lowest 1.0, highest 100.0, 3 images" in texts[3]
    assert "data 3.0 ms, network 7.0 ms" in texts[4]
    assert "a &lt;run>" in plots[0].svg


def test_the_same_numbers_give_the_same_bytes(plots):
    assert [plot.svg for plot in plots[:2]] == [plot.svg for plot in make_plots()[:2]]


def test_a_curve_with_zeros_or_one_point():
    assert "10^" not in curves_plot("loss", "Loss", {"a": [(0, 0.0), (1, 1.0)]}, log_scale=True).svg
    assert curves_plot("loss", "Loss", {"a": [(0, 1.0)], "b": []}).png.startswith(b"\x89PNG")


@pytest.mark.parametrize("lowest", [0.9, 0.1, 0.001])
def test_ticks_of_logarithmic_losses_leave_each_other_room(lowest):
    svg = curves_plot("loss", "Loss", {"a": [(0, 1.0), (20, lowest)]}, log_scale=True).svg
    heights = sorted(float(y) for y in re.findall(r'text-anchor: end[^>]* y="([\d.]+)"', svg))
    assert len(heights) >= 3 and min(b - a for a, b in zip(heights, heights[1:], strict=False)) > 8
