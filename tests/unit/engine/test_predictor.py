"""From images in any form to results; a batch changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import panoptic_deeplab_models as models
import pytest
import stub_panoptic_model as stub
import torch
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model
from PIL import Image

import panoptic_plugin
from panoptic_plugin.engine.predictor import PanopticPredictor, result_of_output
from panoptic_plugin.errors import CheckpointError, ConfigError, DatasetError, UserError

METADATA = SimpleNamespace(thing_dataset_id_to_contiguous_id={26: 1}, stuff_dataset_id_to_contiguous_id={7: 0})


@pytest.fixture
def files(tmp_path):
    """Config and weights of the stub model."""
    stub.register()
    yield tuple(map(str, stub.write_model(tmp_path)))
    stub.unregister()


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> Iterator[PanopticPredictor]:
    """A small Panoptic-DeepLab that sees several segments."""
    cfg = models.tiny_config(crop=None)
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 64, 128
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    models.make_it_see(model, models.smooth_image(64, 128, seed=3))
    weights = tmp_path_factory.mktemp("real") / "model.pth"
    torch.save({"model": model.state_dict()}, weights)
    DatasetCatalog.register(models.DATASET, list)
    yield panoptic_plugin.load_model(cfg, weights, device="cpu", batch_size=3)
    DatasetCatalog.remove(models.DATASET)


def image(height=48, width=60) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 255, (height, width, 3), dtype=np.uint8)


def test_one_image_gives_one_result(files):
    result = panoptic_plugin.load_model(*files)(image())
    assert isinstance(result, panoptic_plugin.structures.PanopticResult)
    assert result.ids.dtype == np.int32 and result.ids.shape == (48, 60)
    assert [(one["id"], one["area"], one["isthing"]) for one in result.segments] == [
        (0, 2680, False),
        (1001, 100, True),
        (1002, 100, True),
    ]
    assert np.array_equal(result.image, image())
    assert result.draw().shape == (48, 60, 3)
    assert result.to_coco(3)[0]["segments_info"][1]["category_id"] == 26


def test_paths_arrays_and_pil_images_are_the_same(files, tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(image()).save(path)
    predictor = panoptic_plugin.load_model(*files)
    for one in (path, str(path), image(), Image.fromarray(image())):
        assert np.array_equal(predictor(one).image, image())


def test_a_list_gives_a_list_in_order_in_batches_of_one_size(files):
    predictor = panoptic_plugin.load_model(*files, batch_size=3)
    sizes = [(48, 60), (60, 48), (48, 60), (48, 60)]
    assert [result.ids.shape for result in predictor([image(*size) for size in sizes])] == sizes
    assert [len(batch) for batch in stub.StubPanopticModel.batches] == [2, 1, 1]
    assert predictor([]) == []


def test_confidence_threshold(files):
    result = panoptic_plugin.load_model(*files, confidence_threshold=0.5)(image())
    assert [one["id"] for one in result.segments] == [0, 1001]
    assert (result.ids[30:40, 10:20] == -1).all()


def test_a_batch_gives_what_its_images_give_alone(real):
    images = [
        np.ascontiguousarray(models.smooth_image(*size, seed=seed).permute(1, 2, 0).numpy())
        for seed, size in enumerate([(64, 128), (80, 96), (64, 128), (96, 80)])
    ]
    together = real(images)
    assert [result.ids.shape for result in together] == [one.shape[:2] for one in images]
    assert max(len(result.segments) for result in together) > 3
    for one, result in zip(images, together, strict=True):
        alone = real(one)
        assert np.array_equal(alone.ids, result.ids)
        assert len(alone.instances) == sum(segment["isthing"] for segment in alone.segments)


@pytest.mark.parametrize(
    "wrong",
    [np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)],
)
def test_arrays_that_are_no_rgb_image(files, wrong):
    with pytest.raises(UserError, match="expected uint8"):
        panoptic_plugin.load_model(*files)(wrong)


def test_mistakes(files, tmp_path):
    config, weights = files
    with pytest.raises(DatasetError, match="gone.jpg"):
        panoptic_plugin.load_model(config, weights)(tmp_path / "gone.jpg")
    with pytest.raises(UserError, match="expected a path"):
        panoptic_plugin.load_model(config, weights)([3])
    with pytest.raises(CheckpointError, match="no weights"):
        panoptic_plugin.load_model(config, overrides=["MODEL.WEIGHTS", ""])
    with pytest.raises(ConfigError, match="nowhere"):
        panoptic_plugin.load_model(config, weights, device="nowhere")
    with pytest.raises(ConfigError, match="batch_size"):
        panoptic_plugin.load_model(config, weights, batch_size=0)
    with pytest.raises(AttributeError, match="load_modle"):
        _ = panoptic_plugin.load_modle


def test_a_missing_gpu_falls_back_unless_it_was_asked_for(files, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config, weights = files
    assert panoptic_plugin.load_model(config, weights, overrides=["MODEL.DEVICE", "cuda"]).device.type == "cpu"
    with pytest.raises(ConfigError, match="no CUDA device"):
        panoptic_plugin.load_model(config, weights, device="cuda")


def test_a_config_is_not_changed(files):
    cfg = panoptic_plugin.load_config(files[0])
    before = cfg.dump()
    panoptic_plugin.load_model(cfg, files[1], device="cpu")
    assert cfg.dump() == before


def test_outputs_with_ids_of_their_own_get_ours():
    ids = torch.tensor([[0, 4, 4], [9, 9, 7]])
    segments = [
        {"id": 4, "category_id": 1, "isthing": True, "score": 0.5},
        {"id": 7, "category_id": 0, "isthing": False},
        {"id": 9, "category_id": 1, "isthing": True},
    ]
    result = result_of_output({"panoptic_seg": (ids, segments)}, METADATA)
    assert result.ids.tolist() == [[-1, 1001, 1001], [1002, 1002, 0]]
    assert [(one["id"], one["area"], one["score"]) for one in result.segments] == [
        (1001, 2, 0.5),
        (0, 1, None),
        (1002, 2, None),
    ]


def test_outputs_without_segments_are_listed():
    result = result_of_output({"panoptic_seg": (torch.tensor([[-1, 0, 1001]]), None)}, METADATA)
    assert [(one["id"], one["category_id"], one["isthing"]) for one in result.segments] == [
        (0, 0, False),
        (1001, 1, True),
    ]
