"""Charts of the classes after evaluations: what is drawn and when, for all kinds of results, and that none can fail."""

from __future__ import annotations

import json
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from detectron2.utils.events import EventStorage

from panoptic_plugin.config import get_cfg
from panoptic_plugin.engine.class_charts import ClassCharts, build_class_charts
from panoptic_plugin.engine.hooks import EvaluationHook
from panoptic_plugin.engine.wandb_writer import WandbWriter
from panoptic_plugin.visualization.class_chart import class_chart

PANOPTIC = {
    "dataset": "val",
    "results": {"panoptic_seg": {"PQ": 30.0, "SQ": 60.0, "RQ": 50.0, "PQ_th": 30.0, "SQ_th": 60.0, "RQ_th": 50.0,
                                 "PQ_st": None, "SQ_st": None, "RQ_st": None}},
    "per_class": [
        {"class": "car", "kind": "thing", "PQ": 30.0, "SQ": 60.0, "RQ": 50.0, "TP": 3, "FP": 1, "FN": 2, "IoU": 61.0},
        {"class": "sky", "kind": "stuff", "PQ": None, "SQ": None, "RQ": None, "TP": None, "FP": None, "FN": None,
         "IoU": None},
    ],
}  # fmt: skip
SEMANTIC = {"results": {"sem_seg": {"mIoU": 61.0}}, "per_class": [{"class": "car", "kind": "thing", "IoU": 61.0}]}
UNSCORED = {"results": {}, "per_class": [{"class": "car", "kind": "thing", "IoU": None}]}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.json"


@pytest.fixture
def drawn(monkeypatch):
    """Arguments of each chart, in the place of the drawing."""
    calls = []

    def draw(title, rows, scores):
        calls.append((title, [row["class"] for row in rows], scores))
        return np.zeros((4, 5, 3), np.uint8)

    monkeypatch.setattr("panoptic_plugin.engine.class_charts.class_chart", draw)
    return calls


def test_a_chart_an_evaluation(path, drawn):
    path.write_text(json.dumps(SEMANTIC))  # of an earlier training
    charts = ClassCharts({"classes": path}, with_tables=True)
    with EventStorage(7) as storage:
        charts.draw(storage)
        assert storage._vis_data == [] and drawn == []
        path.unlink()
        path.write_text(json.dumps(PANOPTIC))
        charts.draw(storage)
        charts.draw(storage)  # nothing was evaluated since
        (picture,) = storage._vis_data
    assert picture[0] == "classes" and picture[1].shape == (3, 4, 5) and picture[2] == 7
    assert drawn == [("val, iteration 7", ["All", "Things", "Stuff", "car", "sky"], ("PQ", "SQ", "RQ"))]
    (table,) = charts.tables
    assert table.columns == ["class", "kind", "PQ", "SQ", "RQ", "TP", "FP", "FN", "IoU"]
    assert table.rows[1] == ["sky", "stuff", *[None] * 7]


@pytest.mark.parametrize(
    ("content", "calls"), [(SEMANTIC, [("classes, iteration 0", ["car"], ("IoU",))]), (UNSCORED, [])]
)
def test_systems_without_segments_have_bars_of_their_own(content, calls, path, drawn):
    charts = ClassCharts({"classes": path})
    path.write_text(json.dumps(content))
    with EventStorage(0) as storage:
        charts.draw(storage)
    assert drawn == calls and charts.tables is None


def test_which_files_are_drawn(tmp_path):
    cfg = get_cfg()
    cfg.OUTPUT_DIR, cfg.DATASETS.TEST = str(tmp_path), ("a", "b")
    assert list(build_class_charts(cfg, is_main=True)._files) == ["classes/a", "classes/b"]
    assert build_class_charts(cfg, is_main=False)._files == {}
    cfg.TEST.CLASS_CHARTS = False
    assert build_class_charts(cfg, is_main=True)._files == {}
    cfg.TEST.CLASS_CHARTS, cfg.DATASETS.TEST = True, ("a",)
    assert build_class_charts(cfg, is_main=True)._files == {"classes": tmp_path / "inference" / "metrics.json"}


@pytest.mark.parametrize("fault", ["no matplotlib", "damaged file"])
def test_a_chart_that_fails_is_one_warning(fault, path, caplog, monkeypatch):
    charts = ClassCharts({"classes": path})
    if fault == "no matplotlib":
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with EventStorage(0) as storage:
        for number in range(3):
            path.unlink(missing_ok=True)
            path.write_text(json.dumps(PANOPTIC) if fault == "no matplotlib" else "[" * (number + 1))
            charts.draw(storage)
        assert storage._vis_data == []
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1 and warnings[0].startswith("No more charts of the classes")


def test_the_hook_draws_after_each_evaluation():
    calls = []
    hook = EvaluationHook(2, lambda: {"panoptic_seg": {"PQ": 1.0}}, lambda storage: calls.append(storage.iter))
    with EventStorage(0) as storage:
        hook.trainer = SimpleNamespace(storage=storage, max_iter=5, iter=0)
        for hook.trainer.iter in range(5):
            storage.iter = hook.trainer.iter
            hook.after_step()
        hook.trainer.iter = 5
        hook.after_train()
    assert calls == [1, 3, 4]


def test_the_picture_shows_every_class():
    rows = [{"class": "car", "kind": "thing", "PQ": 100.0}, {"class": "sky", "kind": "stuff", "PQ": None}]
    one, two = class_chart("t", rows[:1], ("PQ",)), class_chart("t", rows, ("PQ",))
    assert one.dtype == np.uint8 and one.shape[2] == 3 and two.shape[0] > one.shape[0]
    blue = (np.abs(two.astype(int) - (0x00, 0x72, 0xB2)).sum(axis=2) < 8).sum()
    assert blue > 0.4 * 9 * two.shape[1]  # a bar to the end, of some nine rows


def test_wandb_gets_a_table_and_bars(path, tmp_path, drawn, monkeypatch):
    logged = []
    run = SimpleNamespace(name="n", id="x", url=None, dir="d", log=logged.append, define_metric=lambda *_, **__: None)
    wandb = ModuleType("wandb")
    wandb.init, wandb.Settings, wandb.Image = lambda **_: run, dict, lambda pixels, file_type: pixels
    wandb.Table = lambda columns, data: (columns, data)
    wandb.plot = SimpleNamespace(bar=lambda table, label, value, title: (table, label, value, title))
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    charts = ClassCharts({"classes": path}, with_tables=True)
    path.write_text(json.dumps(PANOPTIC))
    options = {"PROJECT": "p", "ENTITY": "", "NAME": "n", "MODE": "offline"}
    writer = WandbWriter(str(tmp_path), options=options, config={}, tables=charts.tables)
    with EventStorage(3) as storage:
        storage.put_scalar("loss_ce", 1.5)
        charts.draw(storage)
        writer.write()
        storage.clear_images()  # as TensorBoard's writer does
        writer.write()
    (values,) = logged
    assert charts.tables == [] and values["iteration"] == 3 and values["loss_ce"] == 1.5
    table = values["classes/table"]
    assert table[0][:3] == ["class", "kind", "PQ"] and table[1][0][:3] == ["car", "thing", 30.0]
    for score in ("PQ", "SQ", "RQ"):
        assert values[f"classes/{score}"] == (table, "class", score, f"{score} by class")
    assert values["classes"].shape == (4, 5, 3)
