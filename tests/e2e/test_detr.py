"""DETR in whole commands: boxes, then masks on the frozen detector; two processes of which one has no segments."""

from __future__ import annotations

import math
import re
from pathlib import Path

import detr_job
import pytest
import torch
from detectron2.data import DatasetCatalog

from panoptic_plugin.cli.train import main as train
from panoptic_plugin.config import load_config
from panoptic_plugin.data.mapper import PanopticMapper
from panoptic_plugin.engine.launch import _free_port, start_processes
from panoptic_plugin.engine.model import build_model
from panoptic_plugin.engine.optim import build_optimizer

pytestmark = pytest.mark.slow
SHORT = ["SOLVER.MAX_ITER", "4", "SOLVER.IMS_PER_BATCH", "2", "DATALOADER.NUM_WORKERS", "0", "SOLVER.WARMUP_ITERS", "0",
         "INPUT.MIN_SIZE_TEST", "64", "INPUT.MAX_SIZE_TEST", "128"]  # fmt: skip
KEY = "MODEL.DETR.FROZEN_WEIGHTS"


def configs(repository: Path, stage: str) -> str:
    return str(repository / "configs" / "quick" / f"detr_cityscapes_{stage}.yaml")


@pytest.fixture(scope="module")
def chain(scenes: Path, repository: Path, tmp_path_factory) -> Path:
    """The folder of both stages, four iterations each."""
    folder = tmp_path_factory.mktemp("chain")
    boxes, masks = folder / "boxes", folder / "masks"
    words = ["--num-gpus", "0", *SHORT, "OUTPUT_DIR"]
    assert train(["--config-file", configs(repository, "boxes"), *words, str(boxes)]) == 0
    given = [KEY, str(boxes / "model_final.pth")]
    assert train(["--config-file", configs(repository, "masks"), *words, str(masks), *given]) == 0
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "model_final.pth", weights_only=True)["model"]


def test_the_second_stage_trains_32_tensors_and_leaves_the_detector_as_it_is(chain: Path, repository: Path):
    before, after = weights(chain / "boxes"), weights(chain / "masks")
    # Batch norms that do not train keep their running statistics, too; how many batches they saw does not matter.
    held = [name for name in before if not name.endswith("num_batches_tracked")]
    assert all(torch.equal(before[name], after[name]) for name in held)
    added = after.keys() - before.keys()
    assert {name.partition(".")[0] for name in added} == {"bbox_attention", "mask_head"} and len(added) == 32
    assert after["mask_head.out_lay.bias"] != 0  # where it starts
    cfg = load_config(configs(repository, "masks"), SHORT)
    model = build_model(cfg)
    trained = [one for group in build_optimizer(cfg, model).param_groups for one in group["params"]]
    assert {id(one) for one in trained} == {id(one) for name, one in model.named_parameters() if name in added}


def test_classes_and_boxes_are_the_same_to_the_bit_after_the_second_stage(chain: Path, repository: Path):
    cfg = load_config(configs(repository, "masks"), SHORT)
    # One model for both: where PyTorch's kernels find weights in memory may decide their last bits.
    model = build_model(cfg).eval()
    mapper = PanopticMapper(cfg, is_train=False)
    images = model.images([mapper(dict(one)) for one in DatasetCatalog.get(cfg.DATASETS.TRAIN[0])])
    padding = torch.zeros(images.tensor[:, 0].shape, dtype=torch.bool)
    found = []
    for stage in ("boxes", "masks", "boxes"):
        model.load_state_dict(weights(chain / stage), strict=False)
        with torch.no_grad():
            found.append(model.network.detect(images.tensor, padding))
    assert found[0].logits.shape[1] == 4 and bool(found[0].logits.std() > 0)
    for other in found[1:]:
        assert torch.equal(found[0].logits, other.logits) and torch.equal(found[0].boxes, other.boxes)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("missing", "does not exist"),
        ("not a DETR", "detr.transformer"),
        ("other classes", "class_embed.*FROZEN_WEIGHTS"),
    ],
)
def test_a_wrong_file_of_the_first_stage_is_an_error(chain: Path, repository: Path, tmp_path, capsys, fault, words):
    path = tmp_path / "wrong.pth"
    content = weights(chain / "boxes")
    if fault == "not a DETR":
        content = {name: value for name, value in content.items() if name.startswith("backbone.")}
    if fault == "other classes":
        content |= {name: value[:20] for name, value in content.items() if "class_embed" in name}
    if fault != "missing":
        torch.save({"model": content}, path)
    command = ["--config-file", configs(repository, "masks"), "--num-gpus", "0", *SHORT, KEY, str(path)]
    assert train([*command, "OUTPUT_DIR", str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert "error:" in message and "wrong.pth" in message
    assert re.search(words, message), message


def test_boxes_alone_are_not_evaluated_as_segments(chain: Path, repository: Path, tmp_path, capsys):
    command = ["--config-file", configs(repository, "boxes"), "--num-gpus", "0", "--eval-only", *SHORT]
    given = ["MODEL.WEIGHTS", str(chain / "boxes" / "model_final.pth"), "OUTPUT_DIR", str(tmp_path)]
    assert train([*command, *given, "DATASETS.TEST", "('cityscapes_fine_panoptic_val',)"]) == 2
    assert "MODEL.MASK_ON is False" in capsys.readouterr().err


def test_a_process_without_segments_trains_along(repository: Path, tmp_path):
    arguments = (str(tmp_path), str(repository / "configs" / "quick" / "detr_cityscapes.yaml"))
    address = f"tcp://127.0.0.1:{_free_port()}"
    start_processes(detr_job.train_beside_empty_images, 2, 1, 0, address, arguments, use_cuda=False)
    notes = [torch.load(tmp_path / f"notes.{rank}.pth", weights_only=True) for rank in (0, 1)]
    for one in notes:
        assert len(one["losses"]) == detr_job.STEPS
        assert all(math.isfinite(value) for losses in one["losses"] for value in losses.values())
    assert [losses["loss_mask"] > 0 for losses in notes[0]["losses"]] == [True] * (detr_job.STEPS - 1) + [False]
    assert all(losses["loss_mask"] == losses["loss_bbox"] == 0 for losses in notes[1]["losses"])
    assert notes[0]["digest"] == notes[1]["digest"]
