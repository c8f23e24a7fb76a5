"""When previews are drawn, which files stay, and that a training does not notice them."""

from __future__ import annotations

import random

import cv2
import numpy as np
import pytest
import torch
from detectron2.engine import TrainerBase
from torch import nn

from panoptic_plugin.config import get_cfg
from panoptic_plugin.engine.preview import (
    PICTURE,
    PreviewHook,
    as_it_was,
    build_preview_hooks,
    predicted_ids,
    preview_iterations,
    shrink,
    spread,
    stack_rows,
    surplus,
)
from panoptic_plugin.errors import ConfigError


class Loop(TrainerBase):
    def run_step(self):
        pass


def picture() -> np.ndarray:
    red = np.zeros((20, 30, 3), dtype=np.uint8)
    red[..., 0] = 250
    return red


@pytest.mark.parametrize(("period", "expected"), [(2, [1, 3, 4]), (5, [4]), (100, [4]), (1, [0, 1, 2, 3, 4])])
def test_a_picture_every_period_and_at_the_end(tmp_path, period, expected):
    loop = Loop()
    loop.register_hooks([PreviewHook(tmp_path / "previews", period=period, draw=picture, max_files=20)])
    loop.train(0, 5)
    assert preview_iterations(tmp_path / "previews") == expected
    assert [(name, step) for name, _, step in loop.storage._vis_data] == [(PICTURE, step) for step in expected]
    assert loop.storage._vis_data[0][1].shape == (3, 20, 30)
    written = cv2.imread(str(tmp_path / "previews" / "iter_0000004.jpg"))
    assert written.shape == (20, 30, 3) and written[..., 2].mean() > 240 and written[..., :2].mean() < 10


def test_the_number_of_files_is_bounded_and_they_are_spread(tmp_path):
    (tmp_path / "iter_of_mine.jpg").touch()
    loop = Loop()
    loop.register_hooks([PreviewHook(tmp_path, period=1, draw=picture, max_files=5)])
    loop.train(0, 64)
    kept = preview_iterations(tmp_path)
    assert len(kept) == 5 and kept[0] == 0 and kept[-1] == 63
    assert max(np.diff(kept)) <= 3 * min(np.diff(kept[:-1]))
    assert (tmp_path / "iter_of_mine.jpg").is_file()


def test_what_is_surplus():
    assert surplus([0, 10, 20], 3) == []
    assert surplus([0, 10, 11, 20], 3) in ([10], [11])
    assert surplus([0, 1, 2, 3], 2) == [1, 2]
    assert surplus([5], 2) == []


def test_a_picture_that_fails_is_one_warning(tmp_path, caplog):
    calls = []

    def fail():
        calls.append(1)
        raise OSError("disk full")

    loop = Loop()
    loop.register_hooks([PreviewHook(tmp_path, period=1, draw=fail, max_files=5)])
    loop.train(0, 3)
    assert loop.iter == 3 and len(calls) == 1
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == ["No more previews: OSError: disk full"]


def test_modes_and_random_states_are_as_they_were():
    model = nn.Sequential(nn.BatchNorm2d(2), nn.Dropout(), nn.Sequential(nn.BatchNorm2d(2)))
    model[2].eval()  # frozen
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ZeroDivisionError), as_it_was(model):
        model.eval()
        model(torch.randn(1, 2, 3, 3))
        random.random(), np.random.rand()
        raise ZeroDivisionError
    assert [module.training for module in model.modules()] == [True, True, True, False, False]
    assert random.getstate() == states[0] and np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_ids_of_panoptic_and_semantic_models():
    ids = torch.tensor([[7, -1]])
    segments = [{"id": 7, "category_id": 0}]
    found, listed = predicted_ids({"panoptic_seg": (ids, None), "segments_info": segments}, 1000)
    assert found.tolist() == [[7, -1]] and listed == segments
    logits = torch.tensor([[[0.0, 2.0]], [[1.0, 0.0]]])
    for semantic in (logits, logits.argmax(0)):
        found, listed = predicted_ids({"sem_seg": semantic}, 1000)
        assert found.tolist() == [[1000, 0]] and listed is None


def test_images_are_spread_over_the_dataset():
    assert spread(list("abcde"), 3) == ["a", "c", "e"]
    assert spread(list("ab"), 3) == ["a", "b"]
    assert spread(list("abc"), 1) == ["a"]


def test_ids_shrink_to_those_of_the_nearest_pixels():
    ids = np.arange(24).reshape(4, 6)
    assert shrink(ids, (4, 6)) is ids
    assert shrink(ids, (2, 3)).tolist() == [[7, 9, 11], [19, 21, 23]]


def test_rows_of_different_width_are_stacked():
    stacked = stack_rows([np.zeros((2, 3, 3), np.uint8), np.zeros((1, 5, 3), np.uint8)])
    assert stacked.shape == (3, 5, 3) and (stacked[:2, 3:] == 255).all() and not stacked[2].any()


def test_the_config_switches_previews(tmp_path):
    cfg = get_cfg()
    assert build_preview_hooks(cfg, lambda: None) == []
    cfg.VIS_PERIOD = 5
    assert len(build_preview_hooks(cfg, lambda: None)) == 1
    cfg.PREVIEW.NUM_IMAGES = 0
    with pytest.raises(ConfigError, match=r"PREVIEW.NUM_IMAGES is 0"):
        build_preview_hooks(cfg, lambda: None)
    cfg.PREVIEW.NUM_IMAGES, cfg.PREVIEW.MAX_FILES = 1, 1
    with pytest.raises(ConfigError, match=r"PREVIEW.MAX_FILES is 1"):
        build_preview_hooks(cfg, lambda: None)
