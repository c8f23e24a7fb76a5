"""A user's own Detectron2 script needs one more line: ``import panoptic_plugin``.

The scripts below are in the style of such scripts. They use Detectron2's config functions, not ours, so none of our
keys is there.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BACKBONE_SCRIPT = """
import panoptic_plugin  # registers d2_hrnet
import torch
from detectron2.config import get_cfg
from detectron2.engine import default_argument_parser
from detectron2.modeling import build_backbone
from detectron2.projects.panoptic_deeplab import add_panoptic_deeplab_config


def setup(args):
    cfg = get_cfg()
    add_panoptic_deeplab_config(cfg)
    cfg.merge_from_list(args.opts)
    cfg.freeze()
    return cfg


def main(args):
    cfg = setup(args)
    backbone = build_backbone(cfg).eval()
    with torch.no_grad():
        features = backbone(torch.zeros(1, 3, 64, 128))
    for name, feature in features.items():
        spec = backbone.output_shape()[name]
        assert feature.shape == (1, spec.channels, 64 // spec.stride, 128 // spec.stride), (name, feature.shape)
        print(name, spec.channels, spec.stride)


if __name__ == "__main__":
    main(default_argument_parser().parse_args())
"""

MODEL_SCRIPT = """
import panoptic_plugin
import sys
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from detectron2.projects.panoptic_deeplab import add_panoptic_deeplab_config

for config_file in sys.argv[1:]:
    cfg = get_cfg()
    add_panoptic_deeplab_config(cfg)
    cfg.merge_from_file(config_file)
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = build_model(cfg)
    print(type(model).__name__, len(model.state_dict()))
"""


def _run(tmp_path: Path, script: str, *arguments: str) -> str:
    file = tmp_path / "train_net.py"
    file.write_text(script, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(file), *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_builds_and_runs_d2_hrnet(tmp_path: Path):
    options = [
        *("MODEL.BACKBONE.NAME", "d2_hrnet", "MODEL.RESNETS.DEPTH", "18", "MODEL.RESNETS.NORM", "BN"),
        *("MODEL.RESNETS.OUT_FEATURES", "['res2', 'res3', 'res4', 'res5']"),
    ]
    lines = _run(tmp_path, BACKBONE_SCRIPT, *options).splitlines()
    assert lines[-4:] == ["res2 18 4", "res3 36 8", "res4 72 16", "res5 144 32"]


def test_builds_the_published_configs(tmp_path: Path, repository: Path):
    names = [
        f"panoptic_deeplab_{name}_os16_mg124_poly_90k_bs32_crop_512_1024.yaml" for name in ("H_48", "X_65", "R_52")
    ]
    configs = [str(repository / "configs" / "Cityscapes-PanopticSegmentation" / name) for name in names]
    lines = _run(tmp_path, MODEL_SCRIPT, *configs).splitlines()
    assert lines[-3:] == [f"PluginPanopticDeepLab {entries}" for entries in (2044, 970, 508)]
