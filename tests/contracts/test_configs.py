"""Every YAML under configs/: how it is written, what it resolves to, and that its model can be built."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from detectron2.config import CfgNode
from detectron2.modeling import build_model

from panoptic_plugin.config import get_cfg, load_config
from panoptic_plugin.data.catalog import register_custom_datasets

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
ALL = sorted(str(file.relative_to(CONFIGS)) for file in CONFIGS.rglob("*.yaml"))
FRAGMENTS = [name for name in ALL if name.startswith("_base_/")]
RECIPES = [name for name in ALL if not name.startswith("_base_/")]
MAX_DEPTH = 3

# What a fragment of each kind may set: a key matches where one of these is a prefix of it.
SECTIONS = {
    "systems": (
        *("MODEL.META_ARCHITECTURE", "MODEL.SEM_SEG_HEAD", "MODEL.INS_EMBED_HEAD", "MODEL.PANOPTIC_DEEPLAB"),
        *("MODEL.DETR", "MODEL.MASK_ON", "MODEL.SOLOV2", "MODEL.PANOPTIC_FUSION"),
        *("INPUT.TARGET_GENERATOR", "INPUT.GAUSSIAN_SIGMA"),
    ),
    "backbones": (
        *("MODEL.WEIGHTS", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD", "MODEL.BACKBONE", "MODEL.RESNETS", "MODEL.HRNET"),
        *("MODEL.TIMM", "MODEL.TWO_WAY_FPN", "INPUT.FORMAT"),
    ),
    "datasets": ("DATASETS", "INPUT", "MODEL.SEM_SEG_HEAD.NUM_CLASSES"),
    # A schedule that heeds the evaluations says when they are.
    "schedules": ("SOLVER", "DATALOADER", "TEST.EVAL_PERIOD"),
}

# Of each published model: number of state-dict entries and the SHA-256 (first 16 digits) of its sorted lines
# "key shape dtype", each ended by a newline, as in "backbone.conv1.weight (32, 3, 3, 3) float32".
STATE_DICTS = {
    "deeplab_v3_plus_H_48_os4_poly_90k_bs16": (1918, "f64befe4994248f4"),
    "deeplab_v3_plus_X_65_os16_mg124_poly_90k_bs16": (844, "803fbda73092e71d"),
    "panoptic_deeplab_H_48_os16_mg124_poly_200k_bs64_crop_640_640_coco_dsconv": (2080, "06b8969d57994baa"),
    "panoptic_deeplab_H_48_os16_mg124_poly_90k_bs32_crop_512_1024": (2044, "36a41c3c76399619"),
    "panoptic_deeplab_H_48_os16_mg124_poly_90k_bs32_crop_512_1024_dsconv": (2080, "dff30655b3c34877"),
    "panoptic_deeplab_R_52_os16_mg124_poly_200k_bs64_crop_640_640_coco_dsconv": (544, "d4fe34503eeea643"),
    "panoptic_deeplab_R_52_os16_mg124_poly_90k_bs32_crop_512_1024": (508, "8b018ca2c82098b7"),
    "panoptic_deeplab_R_52_os16_mg124_poly_90k_bs32_crop_512_1024_dsconv": (544, "eb1701205d14e8a9"),
    "panoptic_deeplab_X_65_os16_mg124_poly_200k_bs64_crop_640_640_coco_dsconv": (1006, "88de25e053a2bd91"),
    "panoptic_deeplab_X_65_os16_mg124_poly_90k_bs32_crop_512_1024": (970, "0cd3b2f35f119c56"),
    "panoptic_deeplab_X_65_os16_mg124_poly_90k_bs32_crop_512_1024_dsconv": (1006, "8b71c0a9f07f3e80"),
}


def _read(name: str | Path) -> dict[str, Any]:
    return yaml.safe_load((CONFIGS / name).read_text(encoding="utf-8"))


def _bases(name: str | Path) -> list[Path]:
    bases = _read(name).get("_BASE_", [])
    return [((CONFIGS / name).parent / base).resolve() for base in ([bases] if isinstance(bases, str) else bases)]


def _leaves(node: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        elif key not in ("_BASE_", "VERSION"):
            yield f"{prefix}{key}", value


def _inherited(name: str | Path) -> dict[str, Any]:
    """The dotted keys that the bases of a file set, later ones winning."""
    merged: dict[str, Any] = {}
    for base in _bases(name):
        merged |= _inherited(base) | dict(_leaves(_read(base)))
    return merged


def _depth(name: str | Path) -> int:
    return 1 + max((_depth(base) for base in _bases(name)), default=0)


@pytest.mark.parametrize("name", ALL)
def test_is_plain_data(name: str):
    """The safe loader reads it: no Python tag, no code; our loader refuses a key that stands twice."""
    assert isinstance(_read(name), dict)
    assert "!!" not in (CONFIGS / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ALL)
def test_builds_on_few_levels_and_repeats_nothing(name: str):
    assert _depth(name) <= MAX_DEPTH
    inherited = _inherited(name)
    repeated = [key for key, value in _leaves(_read(name)) if key in inherited and inherited[key] == value]
    assert not repeated, f"{name} repeats what its _BASE_ says"


@pytest.mark.parametrize("name", FRAGMENTS)
def test_a_fragment_sets_only_its_own_sections(name: str):
    sections = SECTIONS[name.split("/")[1]]
    foreign = [key for key, _ in _leaves(_read(name)) if not f"{key}.".startswith(tuple(f"{s}." for s in sections))]
    assert not foreign


@pytest.mark.parametrize("name", RECIPES)
def test_fragments_of_different_kinds_do_not_overwrite_each_other(name: str):
    setters: dict[str, str] = {}
    for base in _bases(name):
        kind = base.parent.name
        for key in {**_inherited(base), **dict(_leaves(_read(base)))}:
            assert setters.setdefault(key, kind) == kind, f"{key} is set by {setters[key]} and by {kind}"


@pytest.mark.parametrize("name", ALL)
def test_resolves(name: str):
    assert isinstance(load_config(CONFIGS / name), CfgNode)


@pytest.mark.parametrize("name", RECIPES)
def test_both_loaders_resolve_alike(name: str):
    """Detectron2's own loader, given our keys, merges the fragments in the same order as load_config."""
    cfg = get_cfg()
    cfg.merge_from_file(str(CONFIGS / name))
    assert cfg == load_config(CONFIGS / name)


@pytest.mark.parametrize("name", RECIPES, ids=[Path(name).stem for name in RECIPES])
def test_its_model_builds_with_the_published_weight_names(name: str, shared_root: Path, monkeypatch):
    """On the meta device, where tensors have shapes and no memory."""
    cfg = load_config(CONFIGS / name, ["MODEL.DEVICE", "meta"])
    monkeypatch.setenv("DETECTRON2_DATASETS", str(shared_root))
    _write_categories(cfg, shared_root)
    register_custom_datasets(cfg)
    with torch.device("meta"):
        state = build_model(cfg).state_dict()
    stem = Path(name).stem
    if stem in STATE_DICTS:
        lines = [
            f"{key} {tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}\n" for key, value in state.items()
        ]
        count, digest = STATE_DICTS[stem]
        assert len(lines) == count
        assert hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()[:16] == digest


@pytest.fixture(scope="module")
def shared_root(tmp_path_factory) -> Path:
    """Configs share custom datasets, and a name is registered once in a process."""
    return tmp_path_factory.mktemp("datasets")


def _write_categories(cfg: CfgNode, root: Path) -> None:
    """The categories of each custom dataset, which is all that building a model reads of it."""
    num_classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    # Nuclei have one thing class; things of the construction site begin at 17.
    num_stuff = 17 if num_classes == 65 else 1
    categories = [{"id": one, "name": str(one), "isthing": int(one >= num_stuff)} for one in range(num_classes)]
    for entry in cfg.DATASETS.CUSTOM:
        file = root / entry["PANOPTIC_JSON"]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"categories": categories, "images": [], "annotations": []}))


def test_every_published_model_has_a_config():
    assert STATE_DICTS.keys() <= {Path(name).stem for name in RECIPES}
