"""The plugin and Detectron2's own Panoptic-DeepLab live in one process, whichever is imported first."""

from __future__ import annotations

import subprocess
import sys

import pytest

NAMES = {
    "BACKBONE": {"d2_xception_65", "d2_hrnet"},
    "META_ARCH": {"PluginPanopticDeepLab"},
    "SEM_SEG_HEADS": {"PluginPanopticDeepLabSemSegHead", "PluginDeepLabV3PlusHead"},
    "INS_EMBED_BRANCHES": {"PluginPanopticDeepLabInsEmbedHead"},
    "TARGET_GENERATOR": {"panoptic_deeplab", "semantic"},
}
DATASETS = {
    *(f"cityscapes_fine_{kind}_{split}" for kind in ("panoptic", "sem_seg") for split in ("train", "val")),
    *(f"coco_2017_{split}_panoptic" for split in ("train", "val")),
}
DETECTRON2 = {
    "META_ARCH": {"PanopticDeepLab"},
    "SEM_SEG_HEADS": {"PanopticDeepLabSemSegHead", "DeepLabV3PlusHead"},
    "INS_EMBED_BRANCHES": {"PanopticDeepLabInsEmbedHead"},
}

REPORT = """
import json, sys
from detectron2.data import DatasetCatalog
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY
from detectron2.projects.panoptic_deeplab.panoptic_seg import INS_EMBED_BRANCHES_REGISTRY
from panoptic_plugin.registry import TARGET_GENERATOR_REGISTRY
registries = [BACKBONE_REGISTRY, META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY, INS_EMBED_BRANCHES_REGISTRY]
found = {registry._name: [name for name, _ in registry] for registry in [*registries, TARGET_GENERATOR_REGISTRY]}
json.dump({**found, "DATASETS": list(DatasetCatalog)}, sys.stdout)
"""


def _registered_after(*imports: str) -> dict[str, list[str]]:
    import json

    script = "\n".join(imports) + REPORT
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


# Detectron2's project cannot be imported on current packages before the repairs: whoever imports it first in a script
# of theirs has a Detectron2 that needs none, or applies compat alone, as here.
ORDERS = {
    "the plugin first": ["import panoptic_plugin", "import detectron2.projects.panoptic_deeplab"],
    "detectron2 first": [
        "import importlib.util, pathlib",
        "path = pathlib.Path(importlib.util.find_spec('panoptic_plugin').origin).with_name('compat.py')",
        "spec = importlib.util.spec_from_file_location('compat_alone', path)",
        "compat = importlib.util.module_from_spec(spec)",
        "spec.loader.exec_module(compat)",
        "compat.apply()",
        "import detectron2.projects.panoptic_deeplab",
        "import panoptic_plugin",
    ],
}


@pytest.mark.parametrize("imports", ORDERS.values(), ids=ORDERS)
def test_both_register_side_by_side(imports: list[str]):
    found = _registered_after(*imports)
    for registry, names in NAMES.items():
        assert names | DETECTRON2.get(registry, set()) <= set(found[registry]), registry
    assert set(found["DATASETS"]) >= DATASETS
