"""Tuning of the post-processing on outputs that are given."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from shape_scenes import write_shapes_config
from surrogate_objectives import counts_of

from panoptic_plugin.config import get_cfg, load_config
from panoptic_plugin.data.loader import build_test_loader
from panoptic_plugin.engine.model import build_model
from panoptic_plugin.errors import CheckpointError, ConfigError
from panoptic_plugin.evaluation.build import panoptic_evaluator
from panoptic_plugin.evaluation.panoptic_labels import PanopticLabels
from panoptic_plugin.tuning.grid import apply_setting, current_setting, read_grid, settings_of
from panoptic_plugin.tuning.outputs import Output, SavedOutputs
from panoptic_plugin.tuning.postprocessing import choose_setting, count_settings, tune_postprocessing
from panoptic_plugin.tuning.split import make_split
from panoptic_plugin.tuning.statistics import PanopticScores
from panoptic_plugin.tuning.study import BEATEN, KEPT

THRESHOLD = "MODEL.PANOPTIC_DEEPLAB.CENTER_THRESHOLD"
AREA = "MODEL.PANOPTIC_DEEPLAB.STUFF_AREA"


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """Config, split and a network of random weights whose heatmap reaches some hundredths."""
    folder = tmp_path_factory.mktemp("grid")
    cfg = load_config(write_shapes_config(folder, "grid", count=8))
    split = make_split(cfg, folder / "split")
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (split.train,), (split.tuning,)
    torch.manual_seed(3)
    model = build_model(cfg).eval()
    torch.nn.init.normal_(model.ins_embed_head.center_predictor.weight, std=0.5)
    return cfg, split, model, folder


def perfect_outputs(labels):
    """What a network would say that knows the truth, but for a low false center in the middle of each image."""
    for image_id in labels.truth.image_ids:
        truth = labels.truth.load(image_id)
        height, width = truth.shape
        heatmap, offsets = torch.zeros(1, height, width), torch.zeros(2, height, width)
        for segment in truth.segments[1:]:
            y, x = np.nonzero(truth.numbers == segment["id"])
            center = int(y.mean()), int(x.mean())
            heatmap[0, center[0], center[1]] = 0.9
            offsets[:, y, x] = torch.tensor(np.stack([center[0] - y, center[1] - x]), dtype=torch.float32)
        heatmap[0, height // 2, width // 2] += 0.05
        logits = torch.nn.functional.one_hot(torch.from_numpy(truth.semantic).long(), 3).permute(2, 0, 1) * 9.0
        yield Output(logits, heatmap, offsets, truth.shape, {"image_id": image_id, "height": height, "width": width})


def test_settings_score_as_an_evaluation_with_these_keys_does(network):
    _, split, model, _ = network
    labels = PanopticLabels.of(MetadataCatalog.get(split.tuning))
    settings = settings_of({THRESHOLD: [0.01, 0.3, 0.95], AREA: [8, 4000]})
    outputs = list(perfect_outputs(labels))
    counts = count_settings(model, outputs, labels, settings)
    assert counts.shape == (6, 2, 3, 4)
    found = [PanopticScores(one).score(np.ones((1, 2)))[0] for one in counts]
    for setting, score in zip(settings, found, strict=True):
        apply_setting(model, setting)
        evaluator = panoptic_evaluator(labels, dataset_name="grid", folder=None, with_instances=False)
        for output in outputs:
            result = model.postprocess(output.logits, output.heatmap, output.offsets, output.image_size, output.sample)
            evaluator.process([output.sample], [result])
        assert evaluator.evaluate()["panoptic_seg"]["PQ"] == pytest.approx(score)
    assert max(found) > 90 and min(found) < 30 and len(set(np.round(found, 6))) >= 4


def test_saved_outputs_are_those_of_the_network(network):
    cfg, split, model, folder = network
    outputs = SavedOutputs(folder / "outputs", {"a": 1})
    assert not outputs.is_complete()
    outputs.fill(cfg, model, split.tuning)
    assert outputs.is_complete() and not SavedOutputs(folder / "outputs", {"a": 2}).is_complete()
    batches = list(build_test_loader(cfg, split.tuning))
    for output, (sample,) in zip(outputs, batches, strict=True):
        images = model.images([sample])
        with torch.no_grad():
            maps = model.predict(images.tensor, enlarge_logits=False)
        for one, (other,) in zip(output[:3], maps, strict=True):
            assert torch.equal(one, other)
        assert output.image_size == tuple(images.image_sizes[0])
        assert output.sample == {key: sample[key] for key in ("image_id", "height", "width")}


def test_a_lost_file_of_outputs_is_noticed(network, tmp_path):
    cfg, split, model, _ = network
    outputs = SavedOutputs(tmp_path, {})
    outputs.fill(cfg, model, split.tuning)
    (tmp_path / "000001.npz").unlink()
    assert not outputs.is_complete()


def test_the_grid_holds_the_configs_own_setting(network):
    cfg, _, model, _ = network
    apply_setting(model, {THRESHOLD: 0.17, AREA: 8})
    grid = read_grid(cfg, model)
    assert 0.17 in grid[THRESHOLD] and {0, 2, 4, 8, 16} == set(grid[AREA])
    baseline = {key: value for key, value in current_setting(model).items() if key in grid}
    assert settings_of(grid).count(baseline) == 1
    wanted = cfg.clone()
    wanted.TUNE.GRID = [{"KEY": THRESHOLD, "VALUES": [0.5, 0.1]}]
    assert read_grid(wanted, model) == {THRESHOLD: [0.1, 0.17, 0.5]}
    for entry in ({"KEY": THRESHOLD}, {"KEY": "MODEL.DEVICE", "VALUES": [1]}, {"KEY": AREA, "VALUES": []}, "x"):
        wanted.TUNE.GRID = [entry]
        with pytest.raises(ConfigError, match="TUNE.GRID"):
            read_grid(wanted, model)
    with pytest.raises(ConfigError, match="Linear has no centers"):
        read_grid(cfg, torch.nn.Linear(1, 1))


def test_the_weight_of_semantics_is_tuned_where_the_grouping_has_one(network):
    cfg, _, model, _ = network
    key = "MODEL.PANOPTIC_DEEPLAB.GROUPING.LAMBDA"
    assert key not in read_grid(cfg, model)
    keys = ["MODEL.PANOPTIC_DEEPLAB.GROUPING.MODE", "semantic_map"]
    semantic = cfg.clone()
    semantic.merge_from_list(keys)
    aware = build_model(semantic)
    assert read_grid(semantic, aware)[key] == [0.0, 0.5, 1.0, 2.0, 4.0]
    apply_setting(aware, {key: 4.0})
    assert aware.grouping.weight == 4 and aware.grouping.mode == "semantic_map"


def test_a_setting_that_is_better_on_all_images_is_chosen():
    settings = [{THRESHOLD: float(number)} for number in range(40)]
    found = choose_setting(counts_of(np.random.default_rng(0), 40, 3), settings, settings[0])
    assert found["verdict"] == BEATEN and found["values"] == {THRESHOLD: 39}
    assert found["comparison"]["low"] > 0 and found["scores"][0]["setting"] == {THRESHOLD: 39}
    assert max(score for _, score in found["by_value"][THRESHOLD]) == found["best_score"]


def test_the_luckiest_of_many_equal_settings_is_not_chosen():
    settings = [{THRESHOLD: float(number)} for number in range(200)]
    verdicts = []
    for study in range(10):
        counts = counts_of(np.random.default_rng(study), 200, 0)
        found = choose_setting(counts, settings, settings[0], seed=study)
        assert found["best_score"] > found["baseline_score"]
        verdicts.append(found["verdict"])
    assert verdicts.count(KEPT) >= 9


def test_without_weights_there_is_nothing_to_tune(tmp_path):
    with pytest.raises(CheckpointError, match="--weights"):
        tune_postprocessing(get_cfg(), tmp_path)
