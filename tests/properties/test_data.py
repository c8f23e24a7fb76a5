"""What must hold of any label, any turn and any damaged file."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from panoptic_plugin.data.reading import read_image, read_label
from panoptic_plugin.data.segments import measure_segments
from panoptic_plugin.data.targets import PanopticDeepLabTargets
from panoptic_plugin.data.transforms import Rotate90Transform
from panoptic_plugin.errors import DatasetError


@given(st.integers(0, 3), st.integers(1, 7), st.integers(1, 7))
def test_quarter_turns_undo_and_points_follow(turns, height, width):
    image = np.arange(height * width, dtype=np.float32).reshape(height, width)
    turn = Rotate90Transform(turns, height, width)
    turned = turn.apply_image(image)
    assert np.array_equal(turn.inverse().apply_image(turned), image)
    y, x = height // 2, width // 3
    (new_x, new_y) = turn.apply_coords(np.array([[x + 0.5, y + 0.5]]))[0]
    assert turned[int(new_y), int(new_x)] == image[y, x]


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_targets_of_a_mirrored_label_are_mirrored(seed):
    ids = np.random.default_rng(seed).integers(0, 5, (9, 14)).astype(np.int32)
    segments = [{"id": number, "category_id": number % 3, "iscrowd": 0} for number in range(1, 5)]
    make = PanopticDeepLabTargets(ignore_label=255, thing_ids=[1, 2], sigma=2, ignore_stuff_in_offset=True)
    plain, mirrored = make(ids, segments), make(np.ascontiguousarray(ids[::-1]), segments)
    for key in ("sem_seg", "sem_seg_weights"):
        assert torch.equal(mirrored[key], plain[key].flip(0))
    assert torch.equal(mirrored["offset_weights"], plain["offset_weights"].flip(1))
    assert torch.allclose(mirrored["offset"][0], -plain["offset"][0].flip(0), atol=1e-5)
    assert torch.allclose(mirrored["offset"][1], plain["offset"][1].flip(0), atol=1e-5)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_areas_and_boxes_are_counted(seed):
    ids = np.random.default_rng(seed).integers(0, 6, (8, 11)) * 1000
    measured = measure_segments(ids)
    assert sum(shape.area for shape in measured.values()) == ids.size
    for value, shape in measured.items():
        x, y, width, height = shape.bbox
        inside = ids[y : y + height, x : x + width] == value
        assert inside.sum() == shape.area == (ids == value).sum()
        assert inside[0].any() and inside[-1].any() and inside[:, 0].any() and inside[:, -1].any()


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_damaged_bytes_give_pixels_or_an_error_with_the_file_name(tmp_path, suffix):
    rng = np.random.default_rng(0)
    path = tmp_path / f"image{suffix}"
    Image.fromarray(rng.integers(0, 255, (16, 24, 3), dtype=np.uint8)).save(path)
    whole = path.read_bytes()
    for trial in range(150):
        damaged = bytearray(whole)
        if trial % 2:
            del damaged[rng.integers(0, len(whole)) :]
        else:
            damaged[rng.integers(0, len(whole))] ^= 1 << rng.integers(0, 8)
        path.write_bytes(damaged)
        for read in (lambda: read_image(str(path), "RGB"), lambda: read_label(str(path), "RGB", str(path), (16, 24))):
            try:
                read()
            except DatasetError as error:
                assert str(path) in str(error)
