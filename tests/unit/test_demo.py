"""The demo: pictures, ids and JSON where they belong, videos, one clear line for each mistake."""

from __future__ import annotations

import json
import signal
import threading

import cv2
import numpy as np
import pytest
import stub_panoptic_model as stub

from panoptic_plugin.cli import demo, demo_inputs, demo_outputs
from panoptic_plugin.data.panoptic_json import load_records, metadata_from_categories, read_categories
from panoptic_plugin.errors import UserError
from panoptic_plugin.structures import rgb_to_ids
from panoptic_plugin.visualization.video import VideoReader, VideoWriter


@pytest.fixture
def base(tmp_path, monkeypatch):
    """The demo's command line without input and output; two images and a video lie in the folder."""
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    stub.register()
    stub.write_model(tmp_path)
    for name in ("a.jpg", "b.png"):
        cv2.imwrite(str(tmp_path / name), np.full((48, 60, 3), 90, np.uint8))
    writer = VideoWriter(tmp_path / "v.mp4", 25, (48, 64))
    for _ in range(7):
        writer.write(np.full((48, 64, 3), 90, np.uint8))
    writer.close()
    yield ["--config-file", f"{tmp_path}/config.yaml", "--device", "cpu"]
    stub.unregister()


@pytest.fixture
def words(base, tmp_path):
    """With the two images as input."""
    return [*base, "--input", f"{tmp_path}/a.jpg", f"{tmp_path}/b.png"]


def ids_of(path):
    return rgb_to_ids(cv2.imread(str(path))[..., ::-1])


def made(folder) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_pictures(words, tmp_path):
    assert demo.main([*words, "--output", f"{tmp_path}/out"]) == 0
    assert made(tmp_path / "out") == {"a.jpg", "b.png"}
    picture = cv2.imread(str(tmp_path / "out" / "b.png"))
    assert picture.shape == (48, 60, 3) and (picture != 90).any()


def test_all_formats(words, tmp_path):
    assert demo.main([*words, "--output", f"{tmp_path}/out", "--output-format", "overlay", "ids", "json"]) == 0
    out = tmp_path / "out"
    assert made(out) == {
        "a.jpg", "b.png", "ids/a.png", "ids/b.png", "predictions.json", "predictions/a.png", "predictions/b.png",
    }  # fmt: skip
    assert ids_of(out / "ids" / "b.png")[15, 15] == 1002
    content = json.loads((out / "predictions.json").read_text())
    assert content["categories"] == [
        {"id": 7, "name": "road", "isthing": 0},
        {"id": 26, "name": "car", "isthing": 1},
    ]
    assert [one["area"] for one in content["annotations"][1]["segments_info"]] == [2680, 100, 100]


def test_the_json_is_a_panoptic_dataset(words, tmp_path):
    assert demo.main([*words, "--output", f"{tmp_path}/out", "--output-format", "json"]) == 0
    path = str(tmp_path / "out" / "predictions.json")
    metadata = metadata_from_categories(read_categories(path))
    records = load_records(path, str(tmp_path), str(tmp_path / "out" / "predictions"), metadata)
    assert [record["image_id"] for record in records] == ["a", "b"]
    assert [one["category_id"] for one in records[0]["segments_info"]] == [0, 1, 1]


def test_confidence_threshold_drops_things(words, tmp_path):
    words += ["--output", f"{tmp_path}/out", "--confidence-threshold", "0.5", "--output-format", *demo.FORMATS]
    assert demo.main(words) == 0
    out = tmp_path / "out"
    annotations = json.loads((out / "predictions.json").read_text())["annotations"]
    assert [len(one["segments_info"]) for one in annotations] == [2, 2]
    ids = ids_of(out / "ids" / "b.png")
    assert ids[15, 15] == 1002 and ids[35, 15] == 0
    assert cv2.imread(str(out / "b.png"))[35, 15].tolist() == [90, 90, 90]


def test_a_damaged_image_is_reported_and_the_rest_is_done(words, tmp_path, capsys):
    (tmp_path / "bad.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:300])
    words[words.index("--input") + 1 :] = [f"{tmp_path}/{name}" for name in ("a.jpg", "bad.jpg", "b.png")]
    assert demo.main([*words, "--output", f"{tmp_path}/out", "--batch-size", "2"]) == 2
    assert made(tmp_path / "out") == {"a.jpg", "b.png"}
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: 1 of 3 images could not be read") and "bad.jpg" in error


def test_batches(words, tmp_path):
    assert demo.main([*words, "--output", f"{tmp_path}/out", "--batch-size", "2"]) == 0
    assert [len(batch) for batch in stub.StubPanopticModel.batches] == [2]


def test_one_picture_into_one_file(base, tmp_path):
    one = [*base, "--input", f"{tmp_path}/a.jpg", "--output", f"{tmp_path}/x/one.png"]
    assert demo.main(one) == 0
    assert demo.main([*one[:-1], f"{tmp_path}/x/ids.png", "--output-format", "ids"]) == 0
    assert made(tmp_path / "x") == {"one.png", "ids.png"}
    assert ids_of(tmp_path / "x" / "ids.png")[15, 15] == 1002


def test_video(base, tmp_path):
    words = [*base, "--video-input", f"{tmp_path}/v.mp4", "--output", f"{tmp_path}/out", "--batch-size", "3"]
    assert demo.main([*words, "--output-format", "overlay", "json"]) == 0
    reader = VideoReader(str(tmp_path / "out" / "v.mp4"))
    assert len(list(reader)) == 7 and reader.fps == 25
    annotations = json.loads((tmp_path / "out" / "predictions.json").read_text())["annotations"]
    assert [one["file_name"] for one in annotations][::6] == ["v_000000.png", "v_000006.png"]
    assert {tuple(s.get("track_id") for s in one["segments_info"]) for one in annotations} == {(None, 1, 2)}
    assert [len(batch) for batch in stub.StubPanopticModel.batches] == [3, 3, 1]


def test_video_files(base, tmp_path):
    words = [*base, "--video-input", f"{tmp_path}/v.mp4", "--output"]
    assert demo.main([*words, f"{tmp_path}/w.avi"]) == 0
    assert len(list(VideoReader(str(tmp_path / "w.avi")))) == 7
    assert demo.main([*words, str(tmp_path)]) == 0
    assert len(list(VideoReader(str(tmp_path / "v_panoptic.mp4")))) == 7  # not over the input


def test_webcam_into_a_file(base, tmp_path, monkeypatch):
    opened = []

    def camera(source):
        opened.append(source)
        return VideoReader(str(tmp_path / "v.mp4"))

    monkeypatch.setattr(demo, "VideoReader", camera)
    assert demo.main([*base, "--webcam", "3", "--output", f"{tmp_path}/out"]) == 0
    assert opened == [3]
    assert 1 <= len(list(VideoReader(str(tmp_path / "out" / "camera_3.mp4")))) <= 7


def test_window(words, monkeypatch):
    shown = []
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(demo_outputs.cv2, "namedWindow", lambda *_: None)
    monkeypatch.setattr(demo_outputs.cv2, "imshow", lambda _, picture: shown.append(threading.current_thread()))
    monkeypatch.setattr(demo_outputs.cv2, "waitKey", lambda _: demo_outputs.ESCAPE)
    monkeypatch.setattr(demo_outputs.cv2, "destroyAllWindows", lambda: None)
    assert demo.main(words) == 0
    assert shown == [threading.main_thread()]  # Escape ended it after the first picture


def test_a_full_disk_is_one_line(words, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cv2, "imwrite", lambda *_: False)
    assert demo.main([*words, "--output", f"{tmp_path}/out"]) == 2
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "no display"),
        (["--output", "{}/out", "--webcam"], "several of them"),
        (["--output", "{}/out", "--input", "{}/none.jpg"], "none.jpg does not exist"),
        (["--output", "{}/out", "--input", "{}/*.gif"], "no file matches"),
        (["--output", "{}/out", "--input", "{}/v.mp4"], "--video-input"),
        (["--output", "{}/out", "--input", "{}/config.yaml"], "config.yaml"),
        (["--output", "{}/out.png"], "is one file"),
        (["--output", "{}/out.mp4"], "is a video"),
        (["--output", "{}/a.jpg", "--input", "{}/a.jpg"], "would replace the input"),
        (["--output", "{}/o.png", "--input", "{}/a.jpg", "--output-format", "json"], "needs a folder"),
        (["--output-format", "json"], "needs a folder"),
        (["--output", "{}/out", "--confidence-threshold", "7"], "from 0 to 1"),
        (["--output", "{}/out", "--batch-size", "0"], "1 or more"),
        (["--output", "{}/out", "--opts", "MODEL.WEIGHTS", ""], "no weights"),
        (["--output", "{}/out", "--weights", "{}/gone.pth"], "gone.pth"),
        (["--output", "{}/out", "--opts", "MODEL.WIEGHTS", "x"], "MODEL.WIEGHTS"),
    ],
)
def test_mistakes_are_one_line(words, tmp_path, capsys, more, message):
    assert demo.main(words + [word.format(tmp_path) for word in more]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--output", "{}/out"], "no input"),
        (["--video-input", "{}/gone.mp4", "--output", "{}/out"], "gone.mp4 does not exist"),
        (["--video-input", "{}/config.yaml", "--output", "{}/out"], "cannot be decoded"),
        (["--video-input", "{}/v.mp4", "--output", "{}/v.mp4"], "would replace the input"),
        (["--video-input", "{}/v.mp4", "--output", "{}/v.png"], "is an image"),
        (["--video-input", "{}/v.mp4", "--output", "{}/w.mp4", "--output-format", "ids"], "needs a folder"),
        (["--video-input", "{}/v.mp4"], "no display"),
        (["--webcam", "77", "--output", "{}/out"], "camera 77"),
    ],
)
def test_mistakes_with_videos_are_one_line(base, tmp_path, capsys, more, message):
    assert demo.main(base + [word.format(tmp_path) for word in more]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error


def test_ids_never_replace_an_input(base, tmp_path, capsys):
    (tmp_path / "ids").mkdir()
    cv2.imwrite(str(tmp_path / "ids" / "x.png"), np.full((48, 60, 3), 90, np.uint8))
    words = [*base, "--input", f"{tmp_path}/ids/x.png", "--output", str(tmp_path), "--output-format", "ids"]
    assert demo.main(words) == 2
    assert "would replace the input" in capsys.readouterr().err


def test_inputs(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("2.jpg", "1.PNG", "notes.txt", "sub/1.jpg"):
        (tmp_path / name).touch()
    assert [path.name for path in demo_inputs.find_inputs([str(tmp_path)])] == ["1.PNG", "2.jpg"]
    assert [path.name for path in demo_inputs.find_inputs([f"{tmp_path}/**/*.jpg"])] == ["2.jpg", "1.jpg"]
    several = [f"{tmp_path}/sub", f"{tmp_path}/*.jpg", f"{tmp_path}/2.jpg"]
    assert [path.name for path in demo_inputs.find_inputs(several)] == ["1.jpg", "2.jpg"]
    with pytest.raises(UserError, match="holds no image"):
        (tmp_path / "empty").mkdir()
        demo_inputs.find_inputs([str(tmp_path / "empty")])


def test_names_do_not_clash(tmp_path):
    inputs = [tmp_path / name for name in ("x/a.jpg", "y/a.png", "z/x/a.jpg", "z/x/a.jpg", "c.webp")]
    names = [path.name for path in demo_outputs.output_paths(inputs, str(tmp_path / "out"))]
    assert names == ["a.jpg", "y_a.png", "x_a.jpg", "a_panoptic.jpg", "c.png"]
    assert demo_outputs.output_paths(inputs[:1], str(tmp_path / "x"))[0].name == "x_a.jpg"  # not over the input
    assert demo_outputs.output_paths(inputs[:1], str(tmp_path / "one.png")) == [tmp_path / "one.png"]


def test_image_ids_are_those_of_the_ground_truths(tmp_path):
    output = demo_outputs.CocoJson(tmp_path, None)
    stems = ["000000000139", "139", "berlin_000000_000019_leftImg8bit", "photo"]
    assert [output._image_id(stem) for stem in stems] == [139, "139", "berlin_000000_000019", "photo"]


def test_the_first_ctrl_c_asks_to_stop_and_the_second_interrupts():
    before = signal.getsignal(signal.SIGINT)
    with demo._stop_on_interrupt() as stop:
        assert not stop.is_set()
        signal.raise_signal(signal.SIGINT)
        assert stop.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_an_interrupted_writer_finishes_the_file(base, tmp_path, monkeypatch):
    """Ctrl-C twice while frames wait to be written: the file holds what was written, and plays."""
    write = demo_outputs.Video.write

    def write_and_interrupt(self, shot):
        write(self, shot)
        if shot.stem == "v_000003":
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(demo_outputs.Video, "write", write_and_interrupt)
    assert demo.main([*base, "--video-input", f"{tmp_path}/v.mp4", "--output", f"{tmp_path}/out"]) == 130
    assert 4 <= len(list(VideoReader(str(tmp_path / "out" / "v.mp4")))) <= 7
