"""EfficientPS in whole commands: training, evaluation, speed, the demo."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from panoptic_plugin.cli.demo import main as demo
from panoptic_plugin.cli.train import main as train

pytestmark = pytest.mark.slow
# Three iterations on scenes of 64x128, with a learning rate that is heeded by the evaluation.
SHORT = ["SOLVER.MAX_ITER", "3", "SOLVER.IMS_PER_BATCH", "2", "DATALOADER.NUM_WORKERS", "0",
         "INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", "64", "INPUT.MAX_SIZE_TEST", "128",
         "INPUT.CROP.SIZE", "[64,96]", "MODEL.TIMM.NAME", "efficientnet_lite0",
         "TEST.CLASS_CHARTS", "False"]  # fmt: skip


@pytest.fixture(scope="module")
def trained(scenes: Path, repository: Path, tmp_path_factory) -> Path:
    """The folder of a training."""
    folder = tmp_path_factory.mktemp("trained")
    assert train([*_command(repository), "OUTPUT_DIR", str(folder)]) == 0
    return folder


def _command(repository: Path) -> list[str]:
    return ["--config-file", str(repository / "configs/quick/efficientps_cityscapes.yaml"), "--num-gpus", "0", *SHORT]


def test_one_evaluation_has_all_metrics(trained: Path):
    metrics = json.loads((trained / "inference" / "metrics.json").read_text())["results"]
    assert {"PQ", "SQ", "RQ"} <= metrics["panoptic_seg"].keys()
    assert "mIoU" in metrics["sem_seg"]
    assert "AP" in metrics["segm"]


def test_weights_are_evaluated_as_in_the_training(trained: Path, repository: Path, tmp_path: Path):
    command = [*_command(repository), "OUTPUT_DIR", str(tmp_path), "MODEL.WEIGHTS", str(trained / "model_final.pth")]
    command.insert(2, "--eval-only")
    assert train(command) == 0
    found, expected = (
        json.loads((folder / "inference" / "metrics.json").read_text())["results"] for folder in (tmp_path, trained)
    )
    assert found == expected
    assert train([*command, "MODEL.PANOPTIC_DEEPLAB.BENCHMARK_NETWORK_SPEED", "True"]) == 0
    assert "postprocessing" in (tmp_path / "log.txt").read_text()


def test_demo_draws_it(trained: Path, scenes: Path, repository: Path, tmp_path: Path):
    image = next((scenes / "cityscapes" / "leftImg8bit" / "val").rglob("*.png"))
    code = demo(
        ["--config-file", str(repository / "configs/quick/efficientps_cityscapes.yaml"), "--input", str(image),
         "--output", str(tmp_path / "drawn.png"), "--opts", "MODEL.WEIGHTS", str(trained / "model_final.pth"),
         "MODEL.TIMM.NAME", "efficientnet_lite0"]
    )  # fmt: skip
    assert code == 0
    assert (tmp_path / "drawn.png").stat().st_size > 0


def test_training_resumes_without_the_weights_of_the_encoder(trained: Path, repository: Path, tmp_path: Path):
    """A missing file of weights does not matter to a training that goes on."""
    weights = torch.load(trained / "model_final.pth", weights_only=True)
    (tmp_path / "last_checkpoint").write_text("model_0000002.pth")
    torch.save(weights, tmp_path / "model_0000002.pth")
    command = [*_command(repository), "OUTPUT_DIR", str(tmp_path), "MODEL.TIMM.PRETRAINED", "True"]
    command.insert(2, "--resume")
    assert train([*command, "MODEL.TIMM.WEIGHTS", "missing.pth", "SOLVER.MAX_ITER", "4"]) == 0
    assert torch.load(tmp_path / "model_final.pth", weights_only=True)["iteration"] == 3


def test_missing_weights_of_the_encoder_end_a_training_before_it_starts(
    scenes: Path, repository: Path, tmp_path: Path, capsys
):
    command = [*_command(repository), "OUTPUT_DIR", str(tmp_path), "MODEL.TIMM.PRETRAINED", "True"]
    assert train([*command, "MODEL.TIMM.WEIGHTS", "missing.pth"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: MODEL.TIMM.WEIGHTS is missing.pth, which is no file")
