"""Parameters, bounds, and the config keys that they become."""

from __future__ import annotations

import pytest

from panoptic_plugin.config import get_cfg
from panoptic_plugin.errors import ConfigError
from panoptic_plugin.tuning.objective import check_objective, score_of
from panoptic_plugin.tuning.space import read_space

CENTER, OFFSET = "MODEL.INS_EMBED_HEAD.CENTER_LOSS_WEIGHT", "MODEL.INS_EMBED_HEAD.OFFSET_LOSS_WEIGHT"
SEMANTIC = "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT"


def make_cfg(*words):
    cfg = get_cfg()
    cfg.merge_from_list([CENTER, 200.0, OFFSET, 0.01, *words])
    return cfg


def test_the_default_space_is_around_the_published_weights():
    cfg = make_cfg()
    space = read_space(cfg)
    bounds = {one.name: (one.low, one.high, one.log) for one in space.parameters}
    assert bounds == {"center": (20, 2000, True), "offset": (1e-3, 1e-1, True)}
    assert space.baseline(cfg) == {"center": 200, "offset": 0.01}


def test_weights_are_ratios_to_the_semantic_weight_which_stays():
    cfg = make_cfg(SEMANTIC, 5.0)
    space = read_space(cfg)
    assert space.baseline(cfg) == {"center": 40, "offset": pytest.approx(0.002)}
    words = space.overrides(cfg, {"center": 100.0, "offset": 0.02})
    assert words == [CENTER, 500.0, OFFSET, pytest.approx(0.1)]
    changed = cfg.clone()
    changed.merge_from_list(space.overrides(cfg, space.baseline(cfg)))
    assert changed == cfg


def test_the_baseline_is_never_at_the_edge():
    cfg = make_cfg(OFFSET, 0.1, CENTER, 30.0)
    bounds = {one.name: (one.low, one.high) for one in read_space(cfg).parameters}
    assert bounds == {"center": (3, 2000), "offset": (1e-3, 1.0)}


def test_the_extremes_are_the_four_corners_and_the_ends_of_more_axes():
    cfg = make_cfg("TUNE.PARAMETERS", ["center", "offset", "learning_rate"])
    baseline = {"center": 200.0, "offset": 0.01}
    corners = read_space(make_cfg()).extremes(baseline)
    assert sorted((one["center"], one["offset"]) for one in corners.values()) == [
        (20, 1e-3), (20, 1e-1), (2000, 1e-3), (2000, 1e-1)
    ]  # fmt: skip
    space = read_space(cfg)
    ends = space.extremes(space.baseline(cfg))
    assert len(ends) == 6 and ends["center low"] == {"center": 20, "offset": 0.01, "learning_rate": 1}


def test_a_factor_multiplies_what_the_config_says():
    cfg = make_cfg("TUNE.PARAMETERS", ["learning_rate"], "SOLVER.BASE_LR", 0.002)
    space = read_space(cfg)
    assert space.baseline(cfg) == {"learning_rate": 1}
    assert space.overrides(cfg, {"learning_rate": 2.5}) == ["SOLVER.BASE_LR", pytest.approx(0.005)]


def test_a_space_may_be_given_in_full():
    entries = [{"NAME": "power", "KEY": "SOLVER.POLY_LR_POWER", "LOW": 0.5, "HIGH": 2, "SCALE": "linear"}]
    for space in (read_space(make_cfg("TUNE.SPACE", entries)), read_space(make_cfg(), entries)):
        (one,) = space.parameters
        assert (one.at(0), one.at(0.5), one.at(1), one.log) == (0.5, 1.25, 2, False)
        assert one.place(1.25) == 0.5


def test_places_are_even_in_the_logarithm():
    (one, _) = read_space(make_cfg()).parameters
    assert one.at(0.5) == pytest.approx(200) and one.place(200) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["TUNE.PARAMETERS", ["centre"]], "Did you mean.*center"),
        (["TUNE.PARAMETERS", []], "at least one"),
        ([SEMANTIC, 0.0], "above 0"),
        ([CENTER, 0.0], "above 0"),
        (["TUNE.SPACE", [{"NAME": "a", "KEY": CENTER, "LOW": 300, "HIGH": 900}]], "not inside 300 to 900"),
        (["TUNE.SPACE", [{"NAME": "a", "KEY": CENTER, "LOW": 0, "HIGH": 900}]], "above 0"),
        (["TUNE.SPACE", [{"NAME": "a", "KEY": CENTER, "LOW": 9, "HIGH": 1}]], "LOW below HIGH"),
        (["TUNE.SPACE", [{"NAME": "a", "KEY": "MODEL.NONE", "LOW": 1, "HIGH": 2}]], "no config key MODEL.NONE"),
        (["TUNE.SPACE", [{"NAME": "a", "KEY": CENTER, "LOW": 1}]], "lacks HIGH"),
        (["TUNE.SPACE", [{"NAME": "a", "KEY": CENTER, "LOW": 1, "HIGH": 2, "STEP": 1}]], "STEP"),
        (["TUNE.SPACE", [{"NAME": "a", "KEY": CENTER, "LOW": 1, "HIGH": 900, "SCALE": "ln"}]], "log, linear"),
        (["TUNE.SPACE", [{"NAME": "a", "KEY": CENTER, "LOW": 1, "HIGH": 900, "RELATION": "sum"}]], "RELATION"),
        (["TUNE.SPACE", [{"NAME": "a", "KEY": "MODEL.DEVICE", "LOW": 1, "HIGH": 2}]], "expected a number"),
    ],
)
def test_spaces_that_cannot_be_searched_are_refused(words, told):
    with pytest.raises(ConfigError, match=told):
        read_space(make_cfg(*words))


@pytest.mark.parametrize("name", ["total_loss", "loss", "-total_loss", "loss_center"])
def test_a_loss_is_no_objective(name):
    with pytest.raises(ConfigError, match="the smallest weights make"):
        check_objective(name)


def test_an_unknown_objective_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="PQ"):
        check_objective("AP")
    check_objective("PQ")
    assert score_of("PQ_AP", {"panoptic_seg": {"PQ": 60.0}, "segm": {"AP": 30.0}}) == 45
