from __future__ import annotations

import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone, build_model
from panoptic_deeplab_models import FixedOutputs, see_scene, smooth_image, tiny_config, training_sample
from torch import nn

from panoptic_plugin.errors import ConfigError

STRIDES = {"res2": 4, "res3": 8, "res5": 32}


@BACKBONE_REGISTRY.register()
class OneConvolutionForTests(Backbone):
    """Three strided convolutions: the heads and the meta-architecture are what is tested."""

    size_divisibility = 32

    def __init__(self, cfg, input_shape):
        super().__init__()
        self.convs = nn.ModuleDict({name: nn.Conv2d(3, 8, stride, stride) for name, stride in STRIDES.items()})

    def output_shape(self):
        return {name: ShapeSpec(channels=8, stride=stride) for name, stride in STRIDES.items()}

    def forward(self, x):
        return {name: conv(x) for name, conv in self.convs.items()}


def quick_config(**keys):
    cfg = tiny_config(crop=(32, 64))
    cfg.MODEL.BACKBONE.NAME = "OneConvolutionForTests"
    cfg.merge_from_list([word for pair in keys.items() for word in pair])
    return cfg


def test_registered_under_their_names():
    model = build_model(quick_config())
    names = [type(module).__name__ for module in (model, model.sem_seg_head, model.ins_embed_head)]
    assert names == ["PluginPanopticDeepLab", "PluginPanopticDeepLabSemSegHead", "PluginPanopticDeepLabInsEmbedHead"]


@pytest.mark.parametrize("size", [(32, 64), (37, 51), (1, 70)], ids=str)
@torch.no_grad()
def test_any_image_and_output_size(size):
    model = build_model(quick_config()).eval()
    image = torch.randint(0, 255, (3, *size), dtype=torch.uint8)
    own, enlarged = model([{"image": image}, {"image": image, "height": 60, "width": 33}])
    for result, expected in ((own, size), (enlarged, (60, 33))):
        assert result["sem_seg"].shape == (8, *expected) and result["sem_seg"].dtype == torch.float32
        panoptic, segments = result["panoptic_seg"]
        assert panoptic.shape == expected and panoptic.dtype == torch.int64 and segments is None
        assert result["instances"].image_size == expected


def test_images_are_padded_to_the_size_divisibility():
    image = {"image": torch.zeros(3, 33, 40)}
    assert build_model(quick_config()).images([image]).tensor.shape[-2:] == (64, 64)
    model = build_model(quick_config(**{"MODEL.PANOPTIC_DEEPLAB.SIZE_DIVISIBILITY": 96}))
    assert model.images([image]).tensor.shape[-2:] == (96, 96)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_trains_under_autocast(dtype):
    model = build_model(quick_config())
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        losses = model([training_sample(32, 64), training_sample(27, 50, seed=1)])
    assert losses.keys() == {"loss_sem_seg", "loss_center", "loss_offset"}
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_trains_without_pixel_weights():
    sample = training_sample(32, 64)
    del sample["sem_seg_weights"]
    assert torch.isfinite(build_model(quick_config())([sample, sample])["loss_sem_seg"])


def test_missing_targets_explain_themselves():
    sample = training_sample(32, 64)
    del sample["center"]
    with pytest.raises(ConfigError, match="no 'center'.*INPUT.TARGET_GENERATOR"):
        build_model(quick_config())([sample])


@torch.no_grad()
def test_benchmark_reports_network_and_postprocessing_apart():
    model = build_model(quick_config(**{"MODEL.PANOPTIC_DEEPLAB.BENCHMARK_NETWORK_SPEED": True})).eval()
    assert model.timer.summary() == {}
    for _ in range(5):
        assert len(model([{"image": smooth_image(32, 64, seed=0)}])) == 1
    summary = model.timer.summary()
    assert summary["num_calls"] == 5
    for name in ("network_ms_mean", "network_ms_median", "postprocessing_ms_mean", "postprocessing_ms_median"):
        assert summary[name] > 0
    assert summary["images_per_second"] > 0
    model.timer.reset()
    assert model.timer.summary() == {}


@torch.no_grad()
def test_without_instances():
    model = build_model(quick_config(**{"MODEL.PANOPTIC_DEEPLAB.PREDICT_INSTANCES": False})).eval()
    assert "instances" not in model([{"image": torch.zeros(3, 32, 64)}])[0]


def test_half_precision_outputs_are_grouped_in_float32():
    model = build_model(quick_config()).eval()
    logits, heatmap, offsets = torch.randn(8, 16, 300), torch.rand(1, 16, 300), torch.randn(2, 16, 300) * 9
    halves = [tensor.bfloat16() for tensor in (logits, heatmap, offsets)]
    results = []
    for outputs in (halves, [tensor.float() for tensor in halves]):
        see_scene(model, *outputs)
        results.append(model([{"image": torch.zeros(3, 16, 300)}])[0]["panoptic_seg"][0])
    assert torch.equal(*results)
    assert isinstance(model.backbone, FixedOutputs)


@pytest.mark.parametrize(
    "key, value, expected",
    [
        ("MODEL.BACKBONE.NAME", "d2_xception65", "MODEL.BACKBONE.NAME .* Did you mean 'd2_xception_65'"),
        ("MODEL.SEM_SEG_HEAD.NAME", "PluginPanopticDeepLabSemSeg", "MODEL.SEM_SEG_HEAD.NAME .* Did you mean"),
        ("MODEL.INS_EMBED_HEAD.NAME", "InsEmbedHead", "MODEL.INS_EMBED_HEAD.NAME .* There is: "),
        ("MODEL.INS_EMBED_HEAD.PROJECT_CHANNELS", [16], "MODEL.INS_EMBED_HEAD.PROJECT_CHANNELS has 1 entries"),
        ("MODEL.SEM_SEG_HEAD.NUM_CLASSES", 19, "NUM_CLASSES is 19, .* has 8 classes; set it to 8"),
        ("MODEL.PANOPTIC_DEEPLAB.USE_DEPTHWISE_SEPARABLE_CONV", True, "set both to the same value"),
        ("MODEL.PANOPTIC_DEEPLAB.TOP_K_INSTANCE", 1000, "TOP_K_INSTANCE is 1000, expected 1 to 999"),
        ("MODEL.PANOPTIC_DEEPLAB.NMS_KERNEL", 0, "NMS_KERNEL is 0"),
        ("DATASETS.TRAIN", (), "DATASETS.TRAIN is empty"),
        ("DATASETS.TRAIN", ("nothing_registered_for_tests",), "'nothing_registered_for_tests', which has no thing_"),
    ],
)
def test_wrong_keys_explain_themselves(key, value, expected):
    with pytest.raises(ConfigError, match=expected):
        build_model(quick_config(**{key: value}))


def test_metadata_that_names_things_alone_is_accepted():
    MetadataCatalog.get("things_alone_for_tests").set(thing_dataset_id_to_contiguous_id={7: 3})
    model = build_model(quick_config(**{"DATASETS.TRAIN": ("things_alone_for_tests",)}))
    assert model.postprocessing_arguments["thing_ids"] == (3,)
    assert model.postprocessing_arguments["label_divisor"] == 1000
