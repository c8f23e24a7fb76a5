"""When a model is asked for label maps, and that it does not change any result."""

from __future__ import annotations

import pytest
import torch
from detectron2.evaluation import DatasetEvaluator
from tiny_training import job_environment, make_scenes, write_config
from torch import nn

from panoptic_plugin.config import load_config
from panoptic_plugin.engine import trainer
from panoptic_plugin.engine.label_maps import label_maps
from panoptic_plugin.evaluation.evaluator import ImageEvaluator


class Model(nn.Module):
    def __init__(self, return_logits):
        super().__init__()
        self.return_logits = return_logits


def ours():
    return ImageEvaluator.__new__(ImageEvaluator)


def test_only_our_evaluators_get_label_maps_and_the_model_is_as_before():
    model = Model(return_logits=True)
    with label_maps(model, [ours(), ours()]):
        assert model.return_logits is False
    assert model.return_logits is True
    with label_maps(model, [ours(), DatasetEvaluator()]):
        assert model.return_logits is True
    with pytest.raises(RuntimeError, match="stop"), label_maps(model, [ours()]):
        raise RuntimeError("stop")
    assert model.return_logits is True


def test_other_models_are_left_alone():
    model = nn.Identity()
    with label_maps(model, [ours()]):
        assert not hasattr(model, "return_logits")
    model = Model(return_logits=False)
    with label_maps(model, [DatasetEvaluator()]):
        assert model.return_logits is False


@torch.no_grad()
def test_results_do_not_depend_on_it(tmp_path, monkeypatch):
    with job_environment(make_scenes(tmp_path / "data", "cityscapes")):
        cfg = load_config(write_config(tmp_path, OUTPUT_DIR=str(tmp_path / "out")))
        torch.manual_seed(0)
        model = trainer.build_model(cfg).eval()
        seen = []
        model.register_forward_hook(lambda _, __, results: seen.append(results[0]["sem_seg"].ndim))
        with_labels = trainer.PanopticTrainer.test(cfg, model)
        monkeypatch.setattr(trainer, "label_maps", lambda *_: monkeypatch.context())
        with_logits = trainer.PanopticTrainer.test(cfg, model)
    assert set(seen[: len(seen) // 2]) == {2} and set(seen[len(seen) // 2 :]) == {3}
    assert str(with_labels) == str(with_logits)
