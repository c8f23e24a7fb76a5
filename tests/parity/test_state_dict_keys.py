"""Names, shapes and dtypes of the weights are those of the published models, with our heads and with Detectron2's.

``tests/fixtures/published_state_dict_keys.txt.xz`` holds, for each model, a line "# name" and then one line
"key shape dtype" for each tensor, in the order of the state dict.
"""

from __future__ import annotations

import ast
import lzma

import detectron2.projects.panoptic_deeplab  # noqa: F401  (registers Detectron2's classes)
import pytest
import torch
from detectron2.modeling import build_backbone, build_model

from panoptic_plugin.config import load_config

MODELS = {
    "panoptic_deeplab_X_65_os16_mg124_poly_90k_bs32_crop_512_1024": 74.03,
    "panoptic_deeplab_X_65_os16_mg124_poly_90k_bs32_crop_512_1024_dsconv": 44.53,
    "panoptic_deeplab_X_65_os16_mg124_poly_200k_bs64_crop_640_640_coco_dsconv": 44.56,
    "panoptic_deeplab_H_48_os16_mg124_poly_90k_bs32_crop_512_1024": 78.66,
    "panoptic_deeplab_H_48_os16_mg124_poly_90k_bs32_crop_512_1024_dsconv": 67.73,
    "panoptic_deeplab_H_48_os16_mg124_poly_200k_bs64_crop_640_640_coco_dsconv": 67.76,
    "panoptic_deeplab_R_52_os16_mg124_poly_90k_bs32_crop_512_1024": 59.77,
    "panoptic_deeplab_R_52_os16_mg124_poly_90k_bs32_crop_512_1024_dsconv": 30.27,
    "panoptic_deeplab_R_52_os16_mg124_poly_200k_bs64_crop_640_640_coco_dsconv": 30.30,
    "deeplab_v3_plus_X_65_os16_mg124_poly_90k_bs16": 54.71,
    "deeplab_v3_plus_H_48_os4_poly_90k_bs16": 72.88,
}
DETECTRON2_PANOPTIC = [
    "MODEL.META_ARCHITECTURE",
    "PanopticDeepLab",
    "MODEL.SEM_SEG_HEAD.NAME",
    "PanopticDeepLabSemSegHead",
    "MODEL.INS_EMBED_HEAD.NAME",
    "PanopticDeepLabInsEmbedHead",
]
DETECTRON2_SEMANTIC = ["MODEL.SEM_SEG_HEAD.NAME", "DeepLabV3PlusHead"]


@pytest.fixture(scope="module")
def published(repository) -> dict[str, dict[str, tuple]]:
    """Model name -> key -> (shape, dtype)."""
    text = lzma.decompress((repository / "tests/fixtures/published_state_dict_keys.txt.xz").read_bytes()).decode()
    models: dict[str, dict[str, tuple]] = {}
    for block in text.split("# ")[1:]:
        name, *lines = block.splitlines()
        models[name] = {}
        for line in lines:
            key, rest = line.split(" ", 1)
            shape, dtype = rest.rsplit(" ", 1)
            models[name][key] = (ast.literal_eval(shape), dtype)
    return models


def _config(repository, name: str, overrides=()):
    cfg = load_config(next((repository / "configs").glob(f"*/{name}.yaml")), overrides)
    cfg.MODEL.DEVICE = "meta"
    return cfg


def _tensors(module: torch.nn.Module) -> dict[str, tuple]:
    tensors = {key: (tuple(t.shape), str(t.dtype).removeprefix("torch.")) for key, t in module.state_dict().items()}
    return {key: value for key, value in tensors.items() if key not in ("pixel_mean", "pixel_std")}


@pytest.mark.parametrize("heads", ["detectron2", "ours"])
@pytest.mark.parametrize("name", MODELS)
def test_names_shapes_and_dtypes_equal_the_published_models(name, heads, repository, published):
    overrides = DETECTRON2_SEMANTIC if name.startswith("deeplab_v3") else DETECTRON2_PANOPTIC
    cfg = _config(repository, name, overrides if heads == "detectron2" else ())
    with torch.device("meta"):
        model = build_model(cfg)
    assert _tensors(model) == published[name]
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(MODELS[name], abs=0.006)


@pytest.mark.parametrize(
    "name, keys, parameters",
    [
        ("panoptic_deeplab_X_65_os16_mg124_poly_90k_bs32_crop_512_1024", 792, 37_867_312),
        ("panoptic_deeplab_H_48_os16_mg124_poly_90k_bs32_crop_512_1024", 1830, 65_325_120),
    ],
)
def test_backbones_have_the_published_keys_in_the_published_order(name, keys, parameters, repository, published):
    with torch.device("meta"):
        backbone = build_backbone(_config(repository, name))
    found = [f"backbone.{key}" for key in backbone.state_dict()]
    assert found == [key for key in published[name] if key.startswith("backbone.")]
    assert len(found) == keys
    assert sum(p.numel() for p in backbone.parameters()) == parameters
