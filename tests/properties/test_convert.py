"""What must hold of any label map, any overlap and any broken JSON."""

from __future__ import annotations

import copy
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from panoptic_sets import assert_consistent, read_ids, write_set

from panoptic_plugin.data.convert import masks
from panoptic_plugin.data.convert.coco_instances import InstanceOptions, convert_coco_instances
from panoptic_plugin.data.convert.cvat import convert_cvat
from panoptic_plugin.data.convert.drawings import DrawingOptions
from panoptic_plugin.data.convert.labelme import convert_labelme
from panoptic_plugin.data.convert.layers import OVERLAP_RULES, Layer, flatten
from panoptic_plugin.data.convert.to_instances import convert_to_instances
from panoptic_plugin.data.convert.two_channel import convert_from_two_channel, convert_to_two_channel
from panoptic_plugin.data.prepare.split import divide
from panoptic_plugin.data.prepare.subset import Choice, subset
from panoptic_plugin.errors import DatasetError

SEEDS = st.integers(0, 2**32 - 1)


def random_map(seed):
    """Ids of any size, void among them, with categories and crowds (one a class at most)."""
    rng = np.random.default_rng(seed)
    values = np.unique(rng.integers(1, 1 << 24, rng.integers(1, 9)))
    ids = np.append(values, 0)[rng.integers(0, len(values) + 1, tuple(rng.integers(2, 12, 2)))].astype(np.int32)
    present = [int(id_) for id_ in np.unique(ids) if id_]
    rng.shuffle(present)
    # Stuff has one segment a class, as the formats want it.
    kinds = [(3, 0), (21, 0), (7, 1)]
    return ids, {id_: kinds[n] if n < 3 and rng.random() < 0.7 else (7, 0) for n, id_ in enumerate(present)}


def equal_up_to_names(one, other):
    """Whether two maps cut the image into the same regions, void being the same."""
    pairs = set(zip(one.ravel().tolist(), other.ravel().tolist(), strict=True))
    return len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs}) and ((0, 0) in pairs or 0 not in one)


@given(SEEDS)
@settings(max_examples=25, deadline=None)
def test_round_trips_keep_regions_classes_and_crowds(seed):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        source = write_set(root / "set", [random_map(seed)])
        old = read_ids(root / "set/panoptic/image_1.png")
        convert_to_instances(source, root / "set/panoptic", root / "all.json", with_stuff=True)
        before = json.loads(source.read_text())["annotations"][0]["segments_info"]
        if before:
            convert_coco_instances(root / "all.json", root / "instances", InstanceOptions())
        convert_to_two_channel(source, root / "set/panoptic", root / "two")
        convert_from_two_channel(root / "two", source, root / "channels")
        for name in ("instances", "channels") if before else ("channels",):
            content = assert_consistent(root / name / "panoptic.json", root / name / "panoptic")
            new = read_ids(root / name / "panoptic/image_1.png")
            assert equal_up_to_names(old, new)
            names = dict(zip(old.ravel().tolist(), new.ravel().tolist(), strict=True))
            after = {s["id"]: (s["category_id"], s["iscrowd"]) for s in content["annotations"][0]["segments_info"]}
            assert after == {names[s["id"]]: (s["category_id"], s["iscrowd"]) for s in before}
        # A second time changes nothing any more.
        convert_to_two_channel(root / "channels/panoptic.json", root / "channels/panoptic", root / "again")
        assert (root / "two/image_1.png").read_bytes() == (root / "again/image_1.png").read_bytes()


@given(SEEDS, st.sampled_from(sorted(OVERLAP_RULES)))
@settings(max_examples=60, deadline=None)
def test_each_pixel_has_one_owner_that_claims_it(seed, overlap):
    rng = np.random.default_rng(seed)
    size = tuple(int(n) for n in rng.integers(1, 15, 2))
    claimed = [rng.random(size) < rng.random() for _ in range(rng.integers(0, 7))]
    layers = [Layer(masks.encode(mask), int(rng.integers(1, 4)), bool(rng.random() < 0.3)) for mask in claimed]
    flat = flatten(layers, size, overlap)
    union = np.any(claimed, axis=0) if claimed else np.zeros(size, bool)
    assert np.array_equal(flat.ids > 0, union)
    assert set(flat.segments) == set(np.unique(flat.ids[union]).tolist())
    assert len(flat.segments) + flat.num_hidden == len(layers)
    assert flat.num_shared == (np.sum(claimed, axis=0) > 1).sum() if claimed else flat.num_shared == 0
    for id_, (category, crowd) in flat.segments.items():
        mask = flat.ids == id_
        assert claimed[id_ - 1][mask].all()
        assert (category, crowd) == (layers[id_ - 1].category_id, int(layers[id_ - 1].is_crowd))
        for other, layer in enumerate(layers):
            if other != id_ - 1 and claimed[other][mask].any():
                assert layer.is_crowd or not layers[id_ - 1].is_crowd
    if not any(layer.is_crowd for layer in layers) and overlap == "later-first":
        for index, mask in enumerate(claimed):
            assert (flat.ids[mask] >= index + 1).all()
    # What is flat stays as it is.
    again = flatten([Layer(masks.encode(flat.ids == id_), *flat.segments[id_]) for id_ in flat.segments], size, overlap)
    assert equal_up_to_names(flat.ids, again.ids) and again.num_shared == again.num_hidden == 0


@given(st.lists(st.integers(0, 12), min_size=3, max_size=60), SEEDS)
@settings(max_examples=60, deadline=None)
def test_no_image_is_in_two_parts(contents, seed):
    hashes = [str(n) for n in contents]
    fractions = {"train": 0.6, "val": 0.2, "tuning": 0.2}
    if len(set(hashes)) < 3:
        return
    parts = divide(hashes, fractions, seed)
    assert sorted(sum(parts.values(), [])) == list(range(len(hashes)))
    owners = [{hashes[index] for index in members} for members in parts.values()]
    assert all(owners) and sum(map(len, owners)) == len(set(hashes))


RUBBISH = st.sampled_from(
    [
        None,
        True,
        -1,
        0,
        3,
        1.5,
        10**30,
        "",
        "x",
        "../x",
        "/x",
        "a\0b",
        "\ud800",
        ".",
        [],
        [1],
        [[]],
        {},
        {"id": 1},
        [None],
    ]
)


def places(content, above=()):
    """All paths into a JSON value."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        yield (*above, key)
        yield from places(value, (*above, key))


def broken(content, data):
    """The content with one value replaced or removed."""
    content = copy.deepcopy(content)
    *above, last = data.draw(st.sampled_from(list(places(content))))
    parent = content
    for key in above:
        parent = parent[key]
    if data.draw(st.booleans()) and data.draw(st.booleans()):
        del parent[last]
    else:
        parent[last] = data.draw(RUBBISH)
    return content


INSTANCES = {
    "images": [{"id": 1, "file_name": "a.jpg", "height": 5, "width": 6}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 2, "segmentation": [[1, 1, 4, 1, 4, 4]], "iscrowd": 0},
        {"id": 2, "image_id": 1, "category_id": 2, "segmentation": {"size": [5, 6], "counts": [10, 20]}, "iscrowd": 1},
        {"id": 3, "image_id": 1, "category_id": 2, "segmentation": {"size": [5, 6], "counts": ":d0"}, "iscrowd": 0},
    ],
    "categories": [{"id": 2, "name": "nut"}],
}
LABELME = {
    "imagePath": "a.jpg",
    "imageHeight": 5,
    "imageWidth": 6,
    "shapes": [{"label": "nut", "points": [[1, 1], [4, 1], [4, 4]], "shape_type": "polygon", "group_id": None}],
}
CVAT = {
    "categories": {"label": {"labels": [{"name": "nut"}]}},
    "items": [
        {
            "id": "a",
            "image": {"path": "a.jpg", "size": [5, 6]},
            "annotations": [
                {"type": "polygon", "label_id": 0, "points": [1, 1, 4, 1, 4, 4], "z_order": 0, "group": 1},
                {"type": "bbox", "label_id": 0, "bbox": [1, 1, 2, 2], "z_order": 0, "group": 1},
                {"type": "mask", "label_id": 0, "rle": {"size": [5, 6], "counts": [10, 20]}, "z_order": 0, "group": 0},
            ],
        }
    ],
}


@pytest.mark.parametrize("kind", ["instances", "labelme", "cvat"])
@given(data=st.data())
@settings(max_examples=120, deadline=None)
def test_broken_annotations_convert_or_name_their_file(kind, data):
    content = broken({"instances": INSTANCES, "labelme": LABELME, "cvat": CVAT}[kind], data)
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder, "in/source.json"), Path(folder, "out")
        source.parent.mkdir()
        source.write_text(json.dumps(content))
        try:
            if kind == "instances":
                convert_coco_instances(source, out, InstanceOptions(num_workers=1))
            elif kind == "labelme":
                convert_labelme(source.parent, out, DrawingOptions(num_workers=1))
            else:
                convert_cvat(source, out, DrawingOptions(num_workers=1))
        except DatasetError as error:
            assert folder in str(error) and not out.exists()
        else:
            assert_consistent(out / "panoptic.json", out / "panoptic")
        assert sorted(path.name for path in Path(folder).iterdir()) in (["in"], ["in", "out"])


@given(data=st.data())
@settings(max_examples=120, deadline=None)
def test_a_broken_panoptic_json_converts_or_names_its_file(data):
    ids = np.array([[0, 5, 5], [9, 9, 5]], np.int32)
    with tempfile.TemporaryDirectory() as folder:
        source = write_set(Path(folder, "set"), [(ids, {5: (7, 0), 9: (3, 0)})])
        source.write_text(json.dumps(broken(json.loads(source.read_text()), data)))
        for run in (
            lambda: convert_to_instances(source, source.parent / "panoptic", Path(folder, "out.json"), num_workers=1),
            lambda: convert_to_two_channel(source, source.parent / "panoptic", Path(folder, "two"), num_workers=1),
            lambda: subset(source, Path(folder, "part.json"), Choice(count=1)),
        ):
            try:
                run()
            except DatasetError as error:
                assert folder in str(error)


@given(st.binary(max_size=80), st.booleans())
@settings(max_examples=100, deadline=None)
def test_any_bytes_as_json(content, keep_head):
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "source.json")
        source.write_bytes(json.dumps(INSTANCES).encode()[:150] + content if keep_head else content)
        with pytest.raises(DatasetError, match="source.json"):
            convert_coco_instances(source, Path(folder, "out"), InstanceOptions())
