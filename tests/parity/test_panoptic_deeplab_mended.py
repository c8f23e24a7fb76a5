"""One test for each fault of Detectron2's Panoptic-DeepLab that is mended here: theirs has it, ours has not."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.projects.panoptic_deeplab.post_processing import find_instance_center
from detectron2.projects.panoptic_deeplab.post_processing import group_pixels as upstream_group_pixels
from panoptic_deeplab_models import (
    build_pair,
    see_scene,
    smooth_image,
    tiny_config,
    training_sample,
    upstream_config,
)

from panoptic_plugin.postprocessing.centers import find_centers
from panoptic_plugin.postprocessing.grouping import group_pixels

STUFF, THING = 0, 5


def object_scene(height, width, boxes_and_centers):
    """Logits, heatmap and exact offsets of rectangles (y0, x0, y1, x1) of one thing class with given centers (y, x)."""
    logits = torch.zeros(8, height, width)
    logits[STUFF] = 4.0
    heatmap = torch.zeros(1, height, width)
    offsets = torch.zeros(2, height, width)
    grid = torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")).float()
    for (y0, x0, y1, x1), center in boxes_and_centers:
        logits[THING, y0:y1, x0:x1] = 8.0
        center = torch.tensor(center).view(2, 1, 1)
        offsets[:, y0:y1, x0:x1] = (center - grid)[:, y0:y1, x0:x1]
        heatmap[0] = torch.maximum(heatmap[0], 0.9 * torch.exp(-((grid - center) ** 2).sum(0) / 18))
    return logits, heatmap, offsets


def results(scene, output_size):
    """(ours, theirs) on a scene, at an output size."""
    ours, theirs = build_pair(tiny_config())
    image = torch.zeros((3, *scene[0].shape[-2:]), dtype=torch.uint8)
    found = []
    for model in (ours, theirs):
        see_scene(model, *scene)
        found.append(model([{"image": image, "height": output_size[0], "width": output_size[1]}])[0])
    return found


def test_loss_type_cross_entropy_crashes():
    cfg = tiny_config()
    cfg.MODEL.SEM_SEG_HEAD.LOSS_TYPE = "cross_entropy"
    ours, theirs = build_pair(cfg)
    batch = [training_sample(64, 128)] * 2
    with pytest.raises(TypeError):
        theirs.train()(batch)
    losses = ours.train()(batch)
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_offsets_resized_without_rescaling():
    bar, box = ((10, 4, 20, 60), (15, 30)), ((20, 50, 30, 60), (25, 55))
    scene = object_scene(40, 64, [bar, box])
    ours, theirs = results(scene, (120, 192))
    right_end_of_bar = (45, 177)
    for result, same_as_left_end in ((ours, True), (theirs, False)):
        panoptic = result["panoptic_seg"][0]
        assert bool(panoptic[right_end_of_bar] == panoptic[45, 20]) == same_as_left_end
    expected_area = 9 * 10 * 56
    areas = ours["instances"].pred_masks.sum((1, 2))
    assert (areas.float() / expected_area - 1).abs().min() < 0.02


def test_kth_center_dropped():
    heatmap = torch.zeros(1, 20, 20)
    for k, value in enumerate((0.5, 0.7, 0.9)):
        heatmap[0, 5 * k + 3, 5] = value
    assert find_instance_center(heatmap.clone(), 0.1, 3, 2).tolist() == [[13, 5]]
    centers, scores = find_centers(heatmap, 0.1, 3, 2)
    assert centers.tolist() == [[8, 5], [13, 5]]
    torch.testing.assert_close(scores, torch.tensor([0.7, 0.9]))


def test_centers_tied_at_the_kth_score_all_dropped():
    heatmap = torch.zeros(1, 30, 8)
    heatmap[0, 3::6, 4] = 0.5
    assert len(find_instance_center(heatmap.clone(), 0.1, 3, 5)) == 0
    assert find_centers(heatmap, 0.1, 3, 5)[0].tolist() == [[y, 4] for y in (3, 9, 15, 21, 27)]
    assert find_centers(heatmap, 0.1, 3, 2)[0].tolist() == [[3, 4], [9, 4]]


def test_top_k_above_the_number_of_pixels_crashes():
    heatmap = torch.zeros(1, 5, 7)
    heatmap[0, 2, 3] = 0.6
    with pytest.raises(RuntimeError):
        find_instance_center(heatmap.clone(), 0.1, 3, 200)
    assert find_centers(heatmap, 0.1, 3, 200)[0].tolist() == [[2, 3]]


def test_even_nms_kernel_crashes():
    heatmap = torch.zeros(1, 16, 16)
    heatmap[0, 4, 4], heatmap[0, 4, 5], heatmap[0, 12, 12] = 0.6, 0.5, 0.8
    with pytest.raises((RuntimeError, IndexError)):
        find_instance_center(heatmap.clone(), 0.1, 4, 3)
    assert find_centers(heatmap, 0.1, 4, 3)[0].tolist() == [[4, 4], [12, 12]]


def test_one_center_for_each_pixel_of_a_plateau():
    heatmap = torch.zeros(1, 16, 16)
    heatmap[0, 4:6, 4:7] = 0.6
    assert len(find_instance_center(heatmap.clone(), 0.1, 7, 200)) == 6
    assert find_centers(heatmap, 0.1, 7, 200)[0].tolist() == [[4, 5]]


@torch.no_grad()
def test_fixed_pooling_window_refuses_other_sizes():
    ours, theirs = build_pair(tiny_config(crop=(64, 128)))
    image = smooth_image(96, 160, seed=0)
    with pytest.raises(ValueError, match="pool_kernel_size"):
        theirs([{"image": image, "height": 96, "width": 160}])
    assert ours([{"image": image}])[0]["panoptic_seg"][0].shape == (96, 160)


def test_crop_that_the_stride_does_not_divide_is_refused():
    cfg = tiny_config(crop=(72, 100))
    with pytest.raises(ValueError, match="divisible by encoder stride"):
        build_model(upstream_config(cfg))
    losses = build_model(cfg).train()([training_sample(72, 100, seed=seed) for seed in (0, 1)])
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_center_score_read_at_the_mask_centroid():
    # The center stands at the left end of a bar, far from the middle of its mask.
    scene = object_scene(40, 64, [((15, 4, 25, 60), (20, 8))])
    ours, theirs = results(scene, (40, 64))
    assert torch.equal(ours["instances"].pred_masks, theirs["instances"].pred_masks)
    probability = scene[0].softmax(0)[THING, 20, 20]
    torch.testing.assert_close(ours["instances"].scores, (probability * 0.9)[None])
    assert theirs["instances"].scores.item() < 0.01
    assert ours["segments_info"][-1]["center_yx"] == (20, 8)


def test_instances_missing_without_things():
    scene = object_scene(40, 64, [])
    ours, theirs = results(scene, (40, 64))
    assert "instances" not in theirs
    assert len(ours["instances"]) == 0
    assert ours["instances"].pred_masks.shape == (0, 40, 64)
    assert ours["instances"].pred_boxes.tensor.shape == (0, 4)


def test_coordinates_in_half_precision_move_pixels():
    """Coordinates above 256 do not fit bfloat16; ours are lifted to float32 before they are added."""
    centers = torch.tensor([[4, x] for x in range(300, 600, 25)])
    offsets = torch.randn((2, 8, 600)).mul(10).bfloat16()
    mask = torch.ones((8, 600), dtype=torch.bool)
    exact = group_pixels(centers, offsets.float(), mask)
    assert not torch.equal(upstream_group_pixels(centers, offsets)[0], exact)
    assert torch.equal(group_pixels(centers, offsets, mask), exact)
