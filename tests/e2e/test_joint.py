"""The joint network in whole commands: the chain of experiments, two processes, the demo, speed, one batch learnt."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from tiny_training import job_environment

from panoptic_plugin.cli import joint_chain
from panoptic_plugin.cli.demo import main as demo
from panoptic_plugin.cli.train import main as train
from panoptic_plugin.config import load_config
from panoptic_plugin.engine.pretrained import load_pretrained_parts
from panoptic_plugin.errors import CheckpointError

pytestmark = pytest.mark.slow
SHORT = ["SOLVER.MAX_ITER", "3", "DATALOADER.NUM_WORKERS", "0", "SOLVER.IMS_PER_BATCH", "2"]
EXPERIMENTS = ("exp1", "exp2", "exp3", "exp3_ce", "exp4", "exp5")
FROZEN = {"exp2": "semantic_branch.", "exp4": "ins_embed_head.", "exp5": "semantic_branch."}


@pytest.fixture(scope="module")
def chain(tmp_path_factory) -> Iterator[Path]:
    """The folder of a chain of trainings of three iterations each."""
    folder = tmp_path_factory.mktemp("chain")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        words = ["--output", str(folder), "--num-train", "4", "--num-val", "2", *SHORT]
        assert joint_chain.main(words) == 0
    with job_environment(folder / "datasets"):
        yield folder


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return torch.load(folder / name / "model_final.pth", weights_only=True)["model"]


def test_the_chain_starts_each_experiment_from_the_one_before_and_freezes_what_it_says(chain: Path):
    rows = json.loads((chain / "table.json").read_text())
    assert tuple(row["experiment"] for row in rows) == EXPERIMENTS
    assert all(row["mIoU"] is not None and row["PQ"] is not None for row in rows)
    # exp1 has no instances.
    assert all(row["AP"] is not None and row["AR"] is not None for row in rows if row["experiment"] != "exp1")
    assert (chain / "table.md").read_text().count("\n") == len(EXPERIMENTS) + 2
    for step in joint_chain.STEPS:
        if prefix := FROZEN.get(step.name):
            before, after = weights(chain, step.start), weights(chain, step.name)
            held = [name for name in after if name.startswith(prefix)]
            assert held
            assert all(torch.equal(before[name], after[name]) for name in held), step.name
    changed = weights(chain, "exp3"), weights(chain, "exp4")
    assert not torch.equal(*(state["semantic_branch.ocr.predictor.weight"] for state in changed))


def test_model_weights_win_over_pretrained_ones_and_a_label_set_may_change(chain: Path, repository: Path, tmp_path):
    config = repository / "configs" / "quick" / "joint_exp2_instance.yaml"
    exp1 = str(chain / "exp1" / "model_final.pth")
    code = train(["--config-file", str(config), "--num-gpus", "0", "OUTPUT_DIR", str(tmp_path), *SHORT,
                  "SOLVER.MAX_ITER", "1", "MODEL.WEIGHTS", str(chain / "exp3" / "model_final.pth"),
                  joint_chain.PRETRAINED, exp1])  # fmt: skip
    assert code == 0
    kept, given = torch.load(tmp_path / "model_final.pth", weights_only=True)["model"], weights(chain, "exp3")
    name = "semantic_branch.ocr.predictor.weight"
    assert torch.equal(kept[name], given[name])
    assert not torch.equal(kept[name], weights(chain, "exp1")[name])
    cfg = load_config(config, ["MODEL.DEVICE", "cpu", joint_chain.PRETRAINED, exp1,
                               "MODEL.PANOPTIC_DEEPLAB.SEMANTIC.IGNORE_HEAD", "True"])  # fmt: skip
    report = load_pretrained_parts(cfg, build_model(cfg))
    assert sorted(report.ignored) == sorted(
        f"ocr.{layer}.{kind}" for layer in ("regions.3", "predictor") for kind in ("weight", "bias")
    )
    cfg.MODEL.PANOPTIC_DEEPLAB.SEMANTIC.PRETRAINED = str(tmp_path / "config.yaml")
    with pytest.raises(CheckpointError, match="config.yaml"):
        load_pretrained_parts(cfg, build_model(cfg))


def test_two_processes_leave_the_frozen_branch_alone_and_agree(chain: Path, repository: Path, tmp_path):
    config = repository / "configs" / "quick" / "joint_exp2_instance.yaml"
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         str(Path(__file__).with_name("joint_job.py")), "--config-file", str(config), "--num-gpus", "0",
         "OUTPUT_DIR", str(tmp_path), *SHORT, "SOLVER.MAX_ITER", "5", "DATASETS.TEST", "()",
         joint_chain.PRETRAINED, str(chain / "exp1" / "model_final.pth")],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    notes = [(tmp_path / f"notes.{rank}").read_text().split() for rank in (0, 1)]
    assert notes[0] == notes[1]
    assert notes[0][0] == notes[0][1]


def test_evaluation_with_augmentation_speed_and_demo(chain: Path, repository: Path, tmp_path):
    config = str(repository / "configs" / "quick" / "joint_exp3.yaml")
    model = str(chain / "exp3" / "model_final.pth")
    words = ["--config-file", config, "--num-gpus", "0", "--eval-only", "--weights", model, "OUTPUT_DIR", str(tmp_path)]
    assert train([*words, "TEST.AUG.ENABLED", "True", "TEST.AUG.SCALES", "[1.0]"]) == 0
    assert (tmp_path / "inference" / "metrics.json").is_file()
    assert train([*words, "MODEL.PANOPTIC_DEEPLAB.BENCHMARK_NETWORK_SPEED", "True"]) == 0
    assert (tmp_path / "benchmark.json").is_file()
    image = next((chain / "datasets" / "cityscapes" / "leftImg8bit" / "val").rglob("*.png"))
    assert demo(["--config-file", config, "--input", str(image), "--output", str(tmp_path / "drawn"), "--device", "cpu",
                 "--opts", "MODEL.WEIGHTS", model]) == 0  # fmt: skip
    assert list((tmp_path / "drawn").iterdir())
