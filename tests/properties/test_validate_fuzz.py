"""Whatever bytes a dataset is made of: findings or an error that names the file, never a bare traceback."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
from dataset_faults import PanopticFolder
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from panoptic_plugin.data.panoptic_json import load_records, metadata_from_categories, read_categories
from panoptic_plugin.data.reading import read_image, read_label
from panoptic_plugin.data.validate.report import as_json, format_report
from panoptic_plugin.data.validate.run import validate
from panoptic_plugin.data.validate.source import FAST, FULL, Settings, Source
from panoptic_plugin.errors import DatasetError
from panoptic_plugin.integrity import find_damage

BOUNDED = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 1 << 40) | st.floats() | st.text(max_size=6) | st.just("1.png"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "name", "file_name"]), inner),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return PanopticFolder(tmp_path_factory.mktemp("fuzz") / "set", range(1, 3))


def look(data, depth=FULL):
    source = Source("fuzzed", str(data.json), str(data.images), str(data.labels))
    report = validate(source, Settings(depth, num_workers=1), show_progress=False)
    assert format_report(report) and json.dumps(as_json([report]))
    return report


def load(data):
    metadata = metadata_from_categories(read_categories(str(data.json)))
    return load_records(str(data.json), str(data.images), str(data.labels), metadata)


def places(node, path=()):
    """Every place in a JSON value."""
    yield path
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield from places(value, (*path, key))


def put_at(node, path, value):
    if not path:
        return value
    inner = node
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return node


@given(choice=st.randoms(use_true_random=False), value=JSON_VALUES)
@BOUNDED
def test_any_value_anywhere_in_the_json(data, choice, value):
    path = choice.choice(list(places(data.content)))
    data.json.write_text(json.dumps(put_at(copy.deepcopy(data.content), path, value)))
    for depth in (FULL, FAST):
        look(data, depth)
    try:
        load(data)
    except DatasetError as error:
        assert str(data.json) in str(error) or str(data.root) in str(error)


@given(st.binary(max_size=40), st.integers(0, 2000), st.booleans())
@BOUNDED
def test_any_bytes_in_the_json(data, junk, position, replace):
    text = json.dumps(data.content).encode()
    data.json.write_bytes(text[:position] + junk + text[position + len(junk) if replace else position :])
    report = look(data)
    if any(finding.code == "malformed-json" for finding in report.findings):
        assert str(data.json) in report.findings[0].found
    try:
        load(data)
    except DatasetError as error:
        assert str(data.json) in str(error) or str(data.root) in str(error)


@pytest.mark.parametrize("name", ["images/1.jpg", "images/2.png", "labels/1.png"])
@given(junk=st.binary(min_size=1, max_size=12), where=st.floats(0, 1), how=st.sampled_from(["over", "into", "cut"]))
@BOUNDED
def test_any_bytes_in_a_file(data, name, junk, where, how):
    data.write()
    path = data.root / name
    whole = path.read_bytes()
    at = int(where * len(whole))
    rest = {"over": whole[at + len(junk) :], "into": whole[at:], "cut": b""}[how]
    path.write_bytes(whole[:at] + junk + rest)
    try:
        found = [finding for finding in look(data).findings if finding.file == str(path)]
        look(data, FAST)
        try:
            if name.startswith("images"):
                read_image(str(path), "RGB")
            else:
                read_label(str(path), "RGB", str(data.images / "1.jpg"), (12, 20))
        except DatasetError as error:
            assert str(path) in str(error) and found
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize("name", ["images/2.png", "labels/1.png"])
def test_no_flipped_bit_of_a_png_goes_unseen(data, name):
    whole = (data.root / name).read_bytes()
    end = whole.index(b"IEND") + 8
    rng = np.random.default_rng(0)
    for position in range(end):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << int(rng.integers(0, 8))
        if position < 8:  # no PNG any more
            assert not bytes(damaged).startswith(b"\x89PNG\r\n\x1a\n")
        else:
            assert find_damage(bytes(damaged)) is not None, position


@pytest.mark.parametrize("name", ["images/1.jpg", "images/2.png", "labels/1.png"])
def test_every_cut_is_seen(data, name):
    whole = (data.root / name).read_bytes()
    assert find_damage(whole) is None
    signature = 2 if name.endswith("jpg") else 8  # cut shorter, it is no such file any more
    assert all(find_damage(whole[:length]) for length in range(signature, len(whole)))
