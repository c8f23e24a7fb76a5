"""Test-time augmentation: what each view is, how its maps are turned back, and what the averages give."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling import build_model
from panoptic_deeplab_models import build_pair, make_it_see, smooth_image, tiny_config
from perfect_network import THING, perfect_network, scene_image
from torch import nn

from panoptic_plugin.config import get_cfg
from panoptic_plugin.engine.inference import with_test_time_augmentation
from panoptic_plugin.engine.label_maps import label_maps
from panoptic_plugin.errors import ConfigError
from panoptic_plugin.systems.panoptic_deeplab.tta import PluginPanopticDeepLabWithTTA
from panoptic_plugin.systems.tta import SemanticSegmentorWithTTA, Views, logits_of_probabilities


def options(scales=(1.0,), *, flip=False, min_sizes=(), max_size=4000):
    return {"SCALES": list(scales), "MIN_SIZES": list(min_sizes), "MAX_SIZE": max_size, "FLIP": flip}


@pytest.fixture(scope="module")
def seeing():
    """A small convolutional network, and an image on which it sees several classes and centers."""
    torch.manual_seed(3)
    model, _ = build_pair(tiny_config())
    image = smooth_image(64, 128, seed=4)
    make_it_see(model, image)
    return model, image


def ids(output) -> torch.Tensor:
    return output["panoptic_seg"][0]


def test_sizes_of_views():
    assert Views(scales=(0.5, 1, 1.5)).sizes(64, 128) == [(32, 64), (64, 128), (96, 192)]
    assert Views(scales=(2,), max_size=200).sizes(64, 128) == [(100, 200)]
    assert Views(min_sizes=(32, 128)).sizes(128, 64) == [(64, 32), (256, 128)]
    assert Views(scales=(0.001,)).sizes(64, 128) == [(1, 1)]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"scales": ()}, "SCALES"),
        ({"scales": (0.0, 1.0)}, "SCALES"),
        ({"min_sizes": (-3,)}, "MIN_SIZES"),
        ({"max_size": 0}, "MAX_SIZE"),
    ],
)
def test_sizes_that_cannot_be_are_named(changes, named):
    with pytest.raises(ConfigError, match=f"TEST.AUG.{named}"):
        Views(**changes)


@pytest.mark.parametrize("return_logits", [True, False])
def test_one_untouched_view_is_the_plain_model_bit_by_bit(seeing, return_logits):
    model, image = seeing
    model.return_logits = return_logits
    batch = [{"image": image, "height": 90, "width": 150}, {"image": image[:, :40, :100]}]
    plain, augmented = model(batch), PluginPanopticDeepLabWithTTA(model, options())(batch)
    for one, other in zip(plain, augmented, strict=True):
        assert torch.equal(ids(one), ids(other))
        assert torch.equal(one["sem_seg"], other["sem_seg"])
        assert one["segments_info"] == other["segments_info"]


@pytest.mark.parametrize("return_logits", [True, False])
def test_averaging_one_view_changes_no_id(seeing, return_logits):
    """The way over probabilities, with what is left out for a single view: a second, equal one."""
    model, image = seeing
    model.return_logits = return_logits
    batch = [{"image": image, "height": 90, "width": 150}, {"image": image[:, :40, :100]}]
    plain, augmented = model(batch), PluginPanopticDeepLabWithTTA(model, options((1.0, 1.0)))(batch)
    for one, other in zip(plain, augmented, strict=True):
        assert len(one["segments_info"]) > 3
        assert one["sem_seg"].shape == other["sem_seg"].shape and one["sem_seg"].dtype == other["sem_seg"].dtype
        assert (ids(one) != ids(other)).float().mean() < 1e-3
        scores = [
            [segment["score"] for segment in output["segments_info"] if segment["isthing"]] for output in (one, other)
        ]
        assert scores[0] == pytest.approx(scores[1], abs=1e-4)


@pytest.mark.parametrize(
    ("sizes", "tolerance"),
    [([(64, 128)], 0.0), ([(64, 128), (64, 128)], 0.0), ([(32, 64), (64, 128), (96, 192)], 1e-4)],
)
def test_mirrored_image_gives_the_mirrored_maps(seeing, sizes, tolerance):
    """Bit by bit, except that a mirrored image is resized with other roundings."""
    model, image = seeing
    augmented = PluginPanopticDeepLabWithTTA(model, options(flip=True))
    with torch.no_grad():
        here, there = (augmented._averages([{"image": one}], [[size] for size in sizes])[0]
                       for one in (image, image.flip(-1)))  # fmt: skip
    turned = augmented.mirror(there)
    for name, values in here.items():
        torch.testing.assert_close(values, turned[name], atol=tolerance, rtol=tolerance)


def test_mirrored_image_gives_the_mirrored_result(seeing):
    model, image = seeing
    model.return_logits = False
    augmented = PluginPanopticDeepLabWithTTA(model, options(flip=True))
    here, there = (augmented([{"image": one}])[0] for one in (image, image.flip(-1)))
    assert torch.equal(here["sem_seg"], there["sem_seg"].flip(-1))
    # Instances may be numbered otherwise: of each, the other result holds exactly one with the same pixels.
    pairs = torch.stack([ids(here), ids(there).flip(-1)], dim=-1).view(-1, 2).unique(dim=0)
    assert len(pairs) == len(here["segments_info"]) == len(there["segments_info"])
    assert any(segment["isthing"] for segment in here["segments_info"])


@pytest.mark.parametrize("size", [(64, 128), (96, 96), (61, 117)])
def test_flip_leaves_a_network_that_treats_both_sides_alike(size):
    model, image = perfect_network(), scene_image(*size)
    plain = model([{"image": image}])[0]
    augmented = PluginPanopticDeepLabWithTTA(model, options(flip=True))([{"image": image}])[0]
    assert torch.equal(ids(plain), ids(augmented))
    torch.testing.assert_close(augmented["sem_seg"].exp(), plain["sem_seg"].softmax(0), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scale", [0.5, 0.75, 1.5, 2.0])
def test_a_view_alone_has_its_offsets_in_pixels_of_the_result(scale):
    model, image = perfect_network(size_divisibility=0), scene_image(64, 128)
    augmented = PluginPanopticDeepLabWithTTA(model, options([scale]))
    sizes = [[(round(64 * scale), round(128 * scale))]]
    expected = augmented.maps([{"image": image}])[0]["offset"]
    found = augmented._averages([{"image": image}], sizes)[0]["offset"]
    thing = model([{"image": image}])[0]["sem_seg"].argmax(0) == THING
    difference = (found - expected).abs()[:, thing]
    assert difference.max() < 0.6 and difference.mean() < 0.1
    assert expected.abs()[:, thing].max() > 8


def test_batches_of_images_and_results_of_different_sizes():
    augmented = PluginPanopticDeepLabWithTTA(perfect_network(size_divisibility=0), options((0.75, 1.0), flip=True))
    batch = [
        {"image": scene_image(64, 128), "height": 100, "width": 200},
        {"image": scene_image(96, 96)},
        {"image": scene_image(48, 160), "height": 48, "width": 160},
    ]
    outputs = augmented(batch)
    assert [tuple(ids(output).shape) for output in outputs] == [(100, 200), (96, 96), (48, 160)]
    for output in outputs:
        assert sum(segment["isthing"] for segment in output["segments_info"]) == 4
        assert len(output["instances"]) == 4


def test_inputs_are_left_as_they_were(seeing):
    model, image = seeing
    sample = {"image": image.clone()}
    PluginPanopticDeepLabWithTTA(model, options((0.5, 1.0), flip=True))([sample])
    assert set(sample) == {"image"} and torch.equal(sample["image"], image)


def test_evaluation_switches_the_logits_off_and_on():
    model = perfect_network()
    augmented = PluginPanopticDeepLabWithTTA(model, options((0.5, 1.0)))
    with label_maps(augmented, []):
        assert augmented([{"image": scene_image(32, 64)}])[0]["sem_seg"].dim() == 2
    assert augmented([{"image": scene_image(32, 64)}])[0]["sem_seg"].dim() == 3


def test_stages_are_timed_by_the_timer_of_the_model():
    model = perfect_network()
    augmented = PluginPanopticDeepLabWithTTA(model, options((0.5, 1.0)))
    augmented.timer.enabled = True
    augmented([{"image": scene_image(32, 64)}])
    assert {"network_ms_mean", "postprocessing_ms_mean"} <= set(model.timer.summary())


class Segmentor(nn.Module):
    """Logits from the colours of the pixels, resized to the result: what SemanticSegmentor does, in small."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 5, 1)

    def forward(self, batch):
        outputs = []
        for sample in batch:
            logits = self.layer(sample["image"][None].float() / 50)
            size = (sample.get("height", logits.shape[2]), sample.get("width", logits.shape[3]))
            outputs.append({"sem_seg": nn.functional.interpolate(logits, size=size, mode="bilinear")[0]})
        return outputs


@torch.no_grad()
def test_semantic_probabilities_are_averaged():
    model, image = Segmentor().eval(), smooth_image(64, 96, seed=1)
    sample = {"image": image, "height": 64, "width": 96}
    augmented = SemanticSegmentorWithTTA(model, options((0.5, 1.0), flip=True))
    small = nn.functional.interpolate(image[None].float(), size=(32, 48), mode="bilinear", antialias=True)[0]
    expected = sum(model([{**sample, "image": view}])[0]["sem_seg"].softmax(0) for view in (small, image.float())) / 2
    found = augmented([sample])[0]["sem_seg"]
    torch.testing.assert_close(found.exp(), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.softmax(0), expected, atol=1e-5, rtol=1e-4)
    plain = SemanticSegmentorWithTTA(model, options())([sample])[0]["sem_seg"]
    assert torch.equal(plain, model([sample])[0]["sem_seg"])


@torch.no_grad()
def test_deeplab_v3_plus_joins():
    cfg = tiny_config()
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.SEM_SEG_HEAD.NAME = "SemanticSegmentor", "PluginDeepLabV3PlusHead"
    cfg.TEST.AUG.SCALES = [0.5, 1.0]
    model = build_model(cfg).eval()
    augmented = with_test_time_augmentation(cfg, model)
    image = smooth_image(64, 128, seed=2)
    batch = [{"image": image, "height": 96, "width": 192}, {"image": image[:, :32, :64]}]
    found = augmented(batch)
    assert [tuple(output["sem_seg"].shape[1:]) for output in found] == [(96, 192), (32, 64)]
    turned = augmented([{**sample, "image": sample["image"].flip(-1)} for sample in batch])
    # Only the larger image fills its batch: the padding of the other one lies at its other side.
    torch.testing.assert_close(found[0]["sem_seg"], turned[0]["sem_seg"].flip(-1), atol=1e-4, rtol=1e-4)
    plain = SemanticSegmentorWithTTA(model, options())(batch)
    assert all(torch.equal(one["sem_seg"], other["sem_seg"]) for one, other in zip(plain, model(batch), strict=True))


def test_logits_of_a_probability_of_zero_are_finite():
    assert logits_of_probabilities(torch.tensor([[0.0], [1.0]])).isfinite().all()


def test_the_config_chooses_the_wrapper():
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE, cfg.TEST.AUG.SCALES, cfg.TEST.AUG.FLIP = "PluginPanopticDeepLab", [0.5], False
    wrapped = with_test_time_augmentation(cfg, perfect_network())
    assert isinstance(wrapped, PluginPanopticDeepLabWithTTA) and not wrapped.training
    assert wrapped.views == Views(scales=(0.5,), flip=False)
    cfg.MODEL.META_ARCHITECTURE = "SemanticSegmentor"
    assert isinstance(with_test_time_augmentation(cfg, Segmentor()), SemanticSegmentorWithTTA)
    cfg.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    with pytest.raises(ConfigError, match="TEST.AUG.ENABLED"):
        with_test_time_augmentation(cfg, Segmentor())


def test_the_reach_of_the_grouping_is_scaled_to_the_result_as_without_augmentation(seeing, monkeypatch):
    model, image = seeing
    scales = []
    plain = model.result_of_maps

    def note(source, heatmap, offsets, scale=1.0):
        scales.append(scale)
        return plain(source, heatmap, offsets, scale)

    monkeypatch.setattr(model, "result_of_maps", note)
    sample = {"image": image, "height": 128, "width": 256}
    with torch.no_grad():
        model([sample])
    PluginPanopticDeepLabWithTTA(model, options((0.5, 1.0, 2.0), flip=True))([sample])
    assert scales == [2.0, 2.0]
