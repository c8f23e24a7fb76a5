"""compat.apply repairs what is missing, leaves alone what is there, and may be called twice."""

from __future__ import annotations

import importlib.util
import json
import random
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from panoptic_plugin import compat


def test_a_second_call_repairs_nothing():
    assert compat.apply() == []


def test_where_nothing_is_missing_nothing_changes(monkeypatch: pytest.MonkeyPatch):
    """On a faked set-up that has everything, with values that are recognisably not ours."""
    marks = {name: object() for name in ("LINEAR", "in1d", "int", "_C", "pkg_resources")}
    monkeypatch.setattr(Image, "LINEAR", marks["LINEAR"], raising=False)
    for name in ("in1d", "int"):
        monkeypatch.setitem(np.__dict__, name, marks[name])
    monkeypatch.setitem(sys.modules, "detectron2._C", marks["_C"])
    monkeypatch.setitem(sys.modules, "pkg_resources", marks["pkg_resources"])
    assert compat.apply() == []
    assert Image.LINEAR is marks["LINEAR"]
    assert np.__dict__["in1d"] is marks["in1d"]
    assert np.__dict__["int"] is marks["int"]
    assert sys.modules["detectron2._C"] is marks["_C"]
    assert sys.modules["pkg_resources"] is marks["pkg_resources"]


def test_pillow_linear(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(Image, "LINEAR", raising=False)
    assert compat._pillow_linear()
    assert Image.LINEAR is Image.Resampling.BILINEAR
    monkeypatch.setattr(Image, "LINEAR", Image.Resampling.BILINEAR)


@pytest.mark.parametrize("name", ["int", "float", "object"])
def test_numpy_aliases(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(np.__dict__, name, raising=False)
    assert compat._numpy_aliases()
    assert getattr(np, name) is {"int": int, "float": float, "object": object}[name]
    assert np.zeros(2, dtype=getattr(np, name)).shape == (2,)


def test_numpy_in1d(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(np.__dict__, "in1d", raising=False)
    assert compat._numpy_in1d()
    assert np.in1d(np.array([[1, 2], [3, 4]]), [2, 3]).tolist() == [False, True, True, False]
    assert np.in1d([1, 2], [2], invert=True).tolist() == [True, False]


def test_compiled_operators_explain_themselves():
    """The stand-in lets Detectron2 be imported, and names the operator when a model really needs it."""
    import detectron2

    operators = sys.modules.get("detectron2._C")
    if "Stands in" not in (getattr(operators, "__doc__", None) or ""):
        pytest.skip("this Detectron2 has its compiled operators or does without them")
    assert detectron2._C is operators
    with pytest.raises(ImportError, match=r"detectron2\._C\.deform_conv_forward is a compiled operator"):
        _ = operators.deform_conv_forward
    assert not hasattr(operators, "__path__")


def test_pkg_resources_finds_the_model_zoo(monkeypatch: pytest.MonkeyPatch):
    find_spec = importlib.util.find_spec
    monkeypatch.delitem(sys.modules, "pkg_resources", raising=False)
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "pkg_resources" else find_spec(name, *rest)
    )
    assert compat._pkg_resources()
    stub = sys.modules["pkg_resources"]
    assert stub.resource_filename("panoptic_plugin", "py.typed").endswith("py.typed")
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        stub.resource_filename("no_such_package", "file")
    monkeypatch.delitem(sys.modules, "pkg_resources")


def test_sampling_takes_a_set_again():
    sampler = compat._SequenceSampling(7)
    assert sampler.sample({3, 1, 2}, k=1)[0] in {1, 2, 3}
    assert compat._SequenceSampling(7).sample({3, 1, 2}, k=2) == random.Random(7).sample([1, 2, 3], k=2)


def test_a_failing_example_is_replaced():
    """Detectron2's MapDataset draws another index from a set when the mapper gives None."""
    from detectron2.data.common import MapDataset

    dataset = MapDataset([0, 1, 2, 3], lambda value: None if value == 0 else value)
    assert dataset[0] in {1, 2, 3}


def test_the_random_module_itself_is_untouched():
    assert random.Random.sample is not compat._SequenceSampling.sample
    assert type(random._inst) is random.Random


def test_in_a_fresh_process_it_opens_detectron2_and_reports_each_repair_once():
    """Loaded from its file alone, before anything of Detectron2, as a script that comes with nothing else would."""
    script = (
        "import importlib.util, json\n"
        f"spec = importlib.util.spec_from_file_location('compat_alone', {compat.__file__!r})\n"
        "compat = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(compat)\n"
        "repairs = [compat.apply(), compat.apply()]\n"
        "import detectron2.projects.panoptic_deeplab, detectron2.model_zoo, detectron2.data.transforms\n"
        "print(json.dumps(repairs))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = json.loads(done.stdout.splitlines()[-1])
    assert second == []
    assert all(callable(getattr(compat, f"_{name}")) for name in first)
