"""The demo script: pictures where they belong, one clear line for each mistake."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY

from panoptic_plugin.cli import demo
from panoptic_plugin.errors import UserError

DATASET = "demo_scenes"


class StubPanopticModel(torch.nn.Module):
    """A road, a sure car and a doubtful one, at the size that is asked for."""

    def __init__(self, cfg):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(3))

    def forward(self, inputs):
        outputs = []
        for one in inputs:
            assert one["image"].shape[0] == 3 and min(one["image"].shape[1:]) == 64
            ids = torch.zeros(one["height"], one["width"], dtype=torch.int64)
            ids[10:20, 10:20], ids[30:40, 10:20] = 1001, 1002
            segments = [
                {"id": 0, "category_id": 0, "isthing": False, "score": None},
                {"id": 1001, "category_id": 1, "isthing": True, "score": 0.9},
                {"id": 1002, "category_id": 1, "isthing": True, "score": 0.2},
            ]
            outputs.append({"panoptic_seg": (ids, None), "segments_info": segments})
        return outputs


@pytest.fixture
def words(tmp_path, monkeypatch):
    """The demo's command line for two images, without --output."""
    monkeypatch.setitem(META_ARCH_REGISTRY._obj_map, "StubPanopticModel", StubPanopticModel)
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(demo, "check_dataset_names", lambda cfg: None)
    MetadataCatalog.get(DATASET).set(stuff_classes=["road", "car"], thing_dataset_id_to_contiguous_id={26: 1})
    torch.save({"model": StubPanopticModel(None).state_dict()}, tmp_path / "model.pth")
    (tmp_path / "demo.yaml").write_text(
        f"MODEL:\n  META_ARCHITECTURE: StubPanopticModel\n  WEIGHTS: {tmp_path}/model.pth\n  DEVICE: cpu\n"
        f"DATASETS:\n  TEST: [{DATASET}]\nINPUT:\n  MIN_SIZE_TEST: 64\n"
    )
    for name in ("a.jpg", "b.png"):
        cv2.imwrite(str(tmp_path / name), np.full((48, 60, 3), 90, np.uint8))
    yield ["--config-file", f"{tmp_path}/demo.yaml", "--input", f"{tmp_path}/a.jpg", f"{tmp_path}/b.png"]
    MetadataCatalog.pop(DATASET)


def test_pictures_and_ids(words, tmp_path):
    assert demo.main([*words, "--output", f"{tmp_path}/out", "--save-ids"]) == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"a.jpg", "a_ids.png", "a_segments.json", "b.png", "b_ids.png", "b_segments.json"}
    assert cv2.imread(str(tmp_path / "out" / "b.png")).shape == (48, 60, 3)
    assert cv2.imread(str(tmp_path / "out" / "b_ids.png"))[15, 15, ::-1].tolist() == [1002 % 256, 1002 // 256, 0]
    segments = json.loads((tmp_path / "out" / "b_segments.json").read_text())
    assert [(one["category"], one["area"]) for one in segments] == [("road", 2680), ("car", 100), ("car", 100)]


def test_confidence_threshold_drops_things(words, tmp_path):
    words += ["--output", f"{tmp_path}/out", "--save-ids", "--confidence-threshold", "0.5"]
    assert demo.main(words) == 0
    assert len(json.loads((tmp_path / "out" / "b_segments.json").read_text())) == 2
    ids = cv2.imread(str(tmp_path / "out" / "b_ids.png"))
    assert ids[15, 15].any() and not ids[35, 15].any()
    assert cv2.imread(str(tmp_path / "out" / "b.png"))[35, 15].tolist() == [90, 90, 90]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "no display"),
        (["--output", "{}/out", "--webcam"], "--webcam is not available yet"),
        (["--output", "{}/out", "--video-input", "v.mp4"], "--video-input is not available yet"),
        (["--output", "{}/out", "--input", "{}/none.jpg"], "none.jpg does not exist"),
        (["--output", "{}/out", "--input", "{}/*.gif"], "no file matches"),
        (["--output", "{}/out", "--input", "{}/demo.yaml"], "demo.yaml"),
        (["--output", "{}/out.png"], "is one file"),
        (["--output", "{}/a.jpg", "--input", "{}/a.jpg"], "would replace the input"),
        (["--output", "{}/out", "--confidence-threshold", "7"], "from 0 to 1"),
        (["--output", "{}/out", "--opts", "MODEL.WEIGHTS", ""], "no weights"),
        (["--output", "{}/out", "--weights", "{}/gone.pth"], "gone.pth"),
        (["--output", "{}/out", "--opts", "MODEL.WIEGHTS", "x"], "MODEL.WIEGHTS"),
    ],
)
def test_mistakes_are_one_line(words, tmp_path, capsys, more, message):
    assert demo.main(words + [word.format(tmp_path) for word in more]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error


def test_inputs(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("2.jpg", "1.PNG", "notes.txt", "sub/1.jpg"):
        (tmp_path / name).touch()
    assert [path.name for path in demo.find_inputs([str(tmp_path)])] == ["1.PNG", "2.jpg"]
    assert [path.name for path in demo.find_inputs([f"{tmp_path}/**/*.jpg"])] == ["2.jpg", "1.jpg"]
    with pytest.raises(UserError, match="holds no image"):
        (tmp_path / "empty").mkdir()
        demo.find_inputs([str(tmp_path / "empty")])


def test_names_do_not_clash(tmp_path):
    inputs = [tmp_path / name for name in ("x/a.jpg", "y/a.jpg", "z/x/a.jpg", "z/x/a.jpg", "c.webp")]
    names = [path.name for path in demo.output_paths(inputs, str(tmp_path / "out"))]
    assert names == ["a.jpg", "y_a.jpg", "x_a.jpg", "a_panoptic.jpg", "c.png"]
    assert demo.output_paths(inputs[:1], str(tmp_path / "x"))[0].name == "x_a.jpg"  # not over the input
    assert demo.output_paths(inputs[:1], str(tmp_path / "one.png")) == [tmp_path / "one.png"]
