"""EfficientPS with a SOLOv2 head: the whole model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks

from panoptic_plugin.config import get_cfg, load_config
from panoptic_plugin.errors import ConfigError

CONFIGS = Path(__file__).resolve().parents[3] / "configs" / "EfficientPS"
ORIGINAL = "efficientps_B5_cityscapes_1024_2048_30k_bs16_coco_grids.yaml"


def _tiny(**solov2):
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = "PluginEfficientPS"
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.BACKBONE.FREEZE_AT = "build_timm_two_way_fpn_backbone", 0
    cfg.MODEL.TIMM.NAME, cfg.MODEL.TIMM.LAST_STAGE = "efficientnet_lite0", "blocks"
    cfg.MODEL.TWO_WAY_FPN.OUT_CHANNELS = 32
    cfg.MODEL.SEM_SEG_HEAD.NAME = "EfficientPSSemSegHead"
    cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES = ["p2", "p3", "p4", "p5"]
    cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM, cfg.MODEL.SEM_SEG_HEAD.NORM = 16, "BN"
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 19
    cfg.DATASETS.TRAIN = ("cityscapes_fine_panoptic_train",)
    narrow = {"CHANNELS": 16, "NUM_CONVS": 1, "NUM_KERNELS": 16, "MASK_CHANNELS": 16, "NUM_GRIDS": [8, 6, 4, 3, 2]}
    for key, value in {**narrow, **solov2}.items():
        cfg.MODEL.SOLOV2[key] = value
    torch.manual_seed(0)
    return cfg


def _training_sample(size: tuple[int, int], num_objects: int) -> dict[str, torch.Tensor]:
    index = torch.zeros(size, dtype=torch.int16)
    for number in range(num_objects):
        index[4 + 4 * number : 30 + 4 * number, 8 + 20 * number : 24 + 20 * number] = number + 1
    return {
        "image": torch.randint(0, 256, (3, *size), dtype=torch.uint8),
        "sem_seg": torch.where(index > 0, 13, 0).long(),
        "instance_index": index,
        "instance_classes": torch.full((num_objects,), 2),
    }


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], 45_235_595),
        (["MODEL.TIMM.LAST_STAGE", "blocks"], 43_396_491),
        (["MODEL.SOLOV2.CHANNELS", 256, "MODEL.SOLOV2.NUM_CONVS", 2, "MODEL.SOLOV2.NUM_KERNELS", 128], 30_149_131),
        (["MODEL.SOLOV2.CONV", "dwsep"], 29_158_455),
    ],
)
def test_parameters_of_the_whole_model(overrides, expected):
    cfg = load_config(CONFIGS / ORIGINAL, ["MODEL.DEVICE", "meta", *overrides])
    with torch.device("meta"):
        model = build_model(cfg)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


def test_results_have_the_sizes_asked_for_in_a_batch_of_unlike_images():
    model = build_model(_tiny()).eval()
    batch = [
        {"image": torch.randint(0, 256, (3, 61, 97), dtype=torch.uint8), "height": 123, "width": 77},
        {"image": torch.randint(0, 256, (3, 90, 50), dtype=torch.uint8)},
    ]
    with torch.no_grad():
        first, second = model(batch)
    for result, size in ((first, (123, 77)), (second, (90, 50))):
        assert result["sem_seg"].shape == (19, *size)
        assert result["panoptic_seg"][0].shape == size
        assert result["panoptic_seg"][0].dtype == torch.int64
        assert result["instances"].image_size == size
        assert result["instances"].pred_masks.shape[1:] == size


def test_an_image_in_a_batch_has_the_result_it_has_alone_on_the_same_canvas():
    model = build_model(_tiny(SCORE_THR=0.009, UPDATE_THR=0.001)).eval()
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    with torch.no_grad():
        alone = model([{"image": image}])[0]
        beside = model([{"image": image}, {"image": image[:, :50, :70]}])[0]
    assert len(alone["instances"])
    torch.testing.assert_close(alone["sem_seg"], beside["sem_seg"], atol=1e-4, rtol=1e-4)
    assert (alone["panoptic_seg"][0] == beside["panoptic_seg"][0]).float().mean() > 0.999


def test_boxes_are_around_the_masks():
    model = build_model(_tiny(SCORE_THR=0.009, UPDATE_THR=0.001, MAX_PER_IMG=5)).eval()
    with torch.no_grad():
        instances = model([{"image": torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)}])[0]["instances"]
    assert 0 < len(instances) <= 5
    assert set(instances.pred_classes.tolist()) <= set(range(11, 19))
    assert torch.equal(instances.pred_boxes.tensor, BitMasks(instances.pred_masks).get_bounding_boxes().tensor)


@pytest.mark.parametrize("objects", [(2, 1), (2, 0), (0, 0)])
@pytest.mark.parametrize("half", [False, True])
def test_losses_and_gradients_are_finite_with_and_without_objects(objects, half):
    model = build_model(_tiny()).train()
    batch = [_training_sample(size, number) for size, number in zip(((64, 96), (60, 70)), objects, strict=True)]
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        losses = model(batch)
    assert set(losses) == {"loss_sem_seg", "loss_category", "loss_mask"}
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_results_in_half_precision_are_finite():
    model = build_model(_tiny()).eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        result = model([{"image": torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)}])[0]
    assert result["sem_seg"].isfinite().all()


def test_categories_of_a_training_that_needs_no_logits():
    model = build_model(_tiny()).eval()
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    with torch.no_grad():
        logits = model([{"image": image}])[0]["sem_seg"]
        model.return_logits = False
        labels = model([{"image": image}])[0]["sem_seg"]
    assert torch.equal(labels, logits.argmax(dim=0))


def test_batch_without_the_targets_says_what_makes_them():
    model = build_model(_tiny()).train()
    sample = _training_sample((64, 64), 1)
    del sample["instance_index"]
    with pytest.raises(ConfigError, match="the training batch has no 'instance_index' but .*INPUT.TARGET_GENERATOR"):
        model([sample])


@pytest.mark.parametrize(
    ("solov2", "words"),
    [
        (
            {"NUM_CLASSES": 3},
            "NUM_CLASSES is 3, but the dataset 'cityscapes_fine_panoptic_train' of DATASETS.TRAIN has 8",
        ),
        ({"STRIDES": [8, 8]}, "lists of unlike length (IN_FEATURES 5, NUM_GRIDS 5, STRIDES 2, SCALE_RANGES 5)"),
    ],
)
def test_keys_that_do_not_fit(solov2, words):
    with pytest.raises(ConfigError) as caught:
        build_model(_tiny(**solov2))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("MODEL.SOLOV2.NMS_KERNEL", "NMS_KERNEL is 'typo', expected one of gaussian, linear"),
        ("MODEL.PANOPTIC_FUSION.OUTSIDE", "OUTSIDE is 'typo', expected one of neg_inf, zero"),
    ],
)
def test_names_that_only_inference_reads_are_checked_before(key, words):
    cfg = _tiny()
    cfg.merge_from_list([key, "typo"])
    with pytest.raises(ConfigError, match=words):
        build_model(cfg)
