"""Each fault is found, alone, and in a clean set nothing is."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from dataset_faults import FAULTS, PanopticFolder, cut, flip_byte, label_ids, put
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from panoptic_plugin.data.segments import measure_segments
from panoptic_plugin.data.validate.finding import CODES, ERROR
from panoptic_plugin.data.validate.pixels import measure_ids
from panoptic_plugin.data.validate.run import count_segments, validate, validate_together
from panoptic_plugin.data.validate.source import FAST, FULL, Settings, Source
from panoptic_plugin.errors import DatasetError


@pytest.fixture
def data(tmp_path):
    return PanopticFolder(tmp_path / "set")


def look(data, depth=FULL, **options):
    return validate(source(data), Settings(depth, num_workers=1, **options), show_progress=False)


def source(data, **more):
    return Source(data.root.name, str(data.json), str(data.images), str(data.labels), **more)


def codes(report):
    return [finding.code for finding in report.findings]


@pytest.mark.parametrize("depth", [FULL, FAST])
def test_a_clean_set_has_no_findings(data, depth):
    report = look(data, depth)
    assert report.findings == [] and len(report.inspections) == 4


@pytest.mark.parametrize("fault", FAULTS)
def test_one_fault_one_finding(data, fault):
    code = fault.split(" ")[0]
    put(data, fault)
    found = codes(look(data))
    assert found == [code]


@pytest.mark.parametrize("fault", [fault for fault, (_, shows) in FAULTS.items() if shows])
def test_what_needs_no_pixels_is_found_fast(data, fault, monkeypatch):
    put(data, fault)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    assert codes(look(data, FAST)) == [fault.split(" ")[0]]


def test_all_faults_at_once_are_all_found(tmp_path):
    """One image a fault, so that none hides another; the thirteen kinds of the promise and those of the JSON."""
    chosen = {
        1: "zero-byte", 2: "missing-image", 3: "truncated", 4: "crc-error", 5: "wrong-mode", 6: "wrong-size",
        7: "only-in-png", 8: "only-in-json", 9: "area-mismatch", 10: "bbox-mismatch", 11: "unknown-category",
        12: "duplicate-segment-id", 13: "exif-rotation", 14: "wrong-extension",
    }  # fmt: skip
    data = PanopticFolder(tmp_path / "set", range(1, 16))
    (data.images / "1.jpg").write_bytes(b"")
    (data.images / "2.png").unlink()
    cut(data.labels / "3.png")
    flip_byte(data.labels / "4.png")
    Image.open(data.labels / "5.png").convert("L").save(data.labels / "5.png")
    Image.open(data.labels / "6.png").resize((9, 9), 0).save(data.labels / "6.png")
    ids = label_ids()
    ids[0, 0] = 9
    data.write_label(7, ids)
    data.segments(8).append({"id": 44, "category_id": 1, "iscrowd": 0, "area": 3, "bbox": [0, 0, 1, 3]})
    data.segments(9)[0]["area"] = 1
    data.segments(10)[0]["bbox"] = [0, 0, 1, 1]
    data.segments(11)[0]["category_id"] = 99
    data.segments(12).append(dict(data.segments(12)[0]))
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.open(data.images / "13.jpg").save(data.images / "13.jpg", exif=exif)
    Image.open(data.images / "14.png").save(data.images / "x.jpg")
    (data.images / "x.jpg").replace(data.images / "14.png")
    data.content["images"].append(dict(data.content["images"][14]))
    data.write()
    report = look(data)
    of_records = {finding.image_id: finding.code for finding in report.findings if finding.image_id != 15}
    assert of_records == chosen
    assert sorted(codes(report)) == sorted([*chosen.values(), "duplicate-image-id"])


def test_findings_say_where_and_what_to_do(data):
    put(data, "area-mismatch")
    (finding,) = look(data).findings
    assert (finding.file, finding.index, finding.image_id, finding.segment_id) == (str(data.json), 1, 2, 5)
    assert (finding.found, finding.expected) == ("area 25", "24, as in the PNG")
    assert finding.severity == ERROR and "--repair" in finding.remedy and finding.dataset == "set"
    assert all(severity in ("error", "warning") and remedy for severity, remedy in CODES.values())


def test_malformed_json_names_path_and_line(data):
    data.json.write_text(data.json.read_text().replace('"annotations"', '\n"annotations" oops'))
    (finding,) = look(data).findings
    assert finding.code == "malformed-json" and f"{data.json}:2:" in finding.found
    data.json.unlink()
    with pytest.raises(DatasetError, match=r"panoptic\.json does not exist"):
        look(data)


def test_splits_that_share_a_picture(data, tmp_path):
    other = PanopticFolder(tmp_path / "other", range(1, 3), seed=1)
    pictures = Image.open(data.images / "2.png")
    pictures.save(other.images / "2.png", compress_level=1)  # the same pixels in other bytes
    (other.images / "1.jpg").write_bytes((data.images / "3.jpg").read_bytes())
    for depth, expected in ((FULL, [1, 2]), (FAST, [1])):
        settings_ = Settings(depth, num_workers=1)
        first, second = validate_together([source(data), source(other)], settings_, show_progress=False)
        assert first.findings == []
        assert [finding.image_id for finding in second.findings] == expected
        assert {finding.code for finding in second.findings} == {"split-overlap"}
    assert str(data.images / "3.jpg") in second.findings[0].found
    (against,) = validate_together([source(other)], settings_, others=[source(data)], show_progress=False)
    assert codes(against) == ["split-overlap"]


def test_more_segments_than_the_model_predicts(data):
    data.segments(1)[1]["iscrowd"] = 1
    data.write()
    things = look(data, max_segments=1, max_segments_key="MODEL.TOP_K")
    assert [finding.image_id for finding in things.findings] == [2, 3, 4]
    assert things.findings[0].found == "2 things" and "MODEL.TOP_K" in things.findings[0].expected
    assert things.num_errors == 0
    everything = look(data, max_segments=2, things_only=False)
    assert codes(everything) == ["too-many-segments"] * 3


def test_a_large_image_is_refused_before_it_is_decoded(data, monkeypatch):
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    report = look(data, max_pixels=200)
    assert codes(report) == ["over-pixel-budget"] * 8
    assert report.findings[0].found == "12x20 = 240 pixels"


def test_label_of_a_turned_image_may_be_stored_either_way(data):
    put(data, "exif-rotation")
    assert codes(look(data)) == ["exif-rotation"]
    Image.open(data.labels / "1.png").transpose(Image.Transpose.ROTATE_90).save(data.labels / "1.png")
    assert [code for code in codes(look(data)) if code != "bbox-mismatch"] == ["exif-rotation"]


def test_a_resized_label_is_one_finding(data):
    smooth = Image.open(data.labels / "2.png").resize((40, 24), Image.Resampling.BICUBIC).resize((20, 12))
    smooth.save(data.labels / "2.png")
    found = [finding for finding in look(data).findings if finding.code == "only-in-png"]
    assert len(found) == 1 and "was the label resized" in found[0].found


def test_semantic_labels(data):
    folder = data.root / "semantic"
    folder.mkdir()
    for number in range(1, 5):
        Image.fromarray(np.zeros((12, 20), np.uint8)).save(folder / f"{number}.png")
    settings_ = Settings(num_workers=1)
    with_semantic = source(data, semantic_root=str(folder))
    assert validate(with_semantic, settings_, show_progress=False).findings == []
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(folder / "2.png")
    Image.fromarray(np.zeros((12, 20, 3), np.uint8)).save(folder / "3.png")
    (folder / "4.png").unlink()
    found = codes(validate(with_semantic, settings_, show_progress=False))
    assert found == ["wrong-size", "wrong-mode", "missing-label"]


def test_links_may_lead_into_allowed_folders(data, monkeypatch):
    put(data, "path-outside (link)")
    monkeypatch.setenv("PANOPTIC_LINK_ROOTS", os.pathsep.join(["/nowhere", str(data.root.parent)]))
    assert look(data).findings == []
    loop = data.images / "loop"
    loop.symlink_to(data.images)
    assert look(data).findings == []


def test_user_files_stay_as_they_are(data):
    before = {path: path.read_bytes() for path in data.root.rglob("*") if path.is_file()}
    look(data)
    assert {path: path.read_bytes() for path in data.root.rglob("*") if path.is_file()} == before


def test_numbers_of_workers_give_the_same(data):
    for fault in ("area-mismatch", "missing-image", "zero-byte"):
        FAULTS[fault][0](data)
    data.write()
    one = look(data).findings
    many = validate(source(data), Settings(num_workers=3), show_progress=False).findings
    assert one == many and len(one) == 3


def test_areas_are_counted_from_the_labels(data):
    data.segments(1)[0]["area"] = 7
    data.write()
    assert count_segments(look(data)) == {1: [24, 50] * 4, 2: [146] * 4}
    assert count_segments(look(data, FAST))[2] == [7, 146, 146, 146]


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_runs_measure_what_pixels_measure(seed, height, width):
    ids = np.random.default_rng(seed).integers(0, 4, (height, width)) * 65793
    expected = {value: shape for value, shape in measure_segments(ids.astype(np.int32)).items() if value}
    assert measure_ids(ids.astype(np.uint32)) == expected


def test_other_numbers_are_equal_numbers(data):
    data.segments(1)[0].update(area=146.0, bbox=[0.0, 1.0, 20.0, 11.0])
    data.write()
    assert look(data).findings == []
    data.segments(1)[0].update(area="146", bbox=None)
    data.write()
    assert codes(look(data)) == ["area-mismatch", "bbox-mismatch"]


def test_content_is_plain_json(data):
    put(data, "unknown-category")
    assert json.dumps([finding.as_dict() for finding in look(data).findings])
