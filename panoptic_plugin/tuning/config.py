"""Config keys of ``panoptic tune``."""

from __future__ import annotations

from detectron2.config import CfgNode


def add_tuning_keys(cfg: CfgNode) -> None:
    """Add TUNE.*; training and evaluation do not read them."""
    cfg.TUNE = CfgNode()
    # What is searched, by name: center, offset, learning_rate, beta, tau; see tuning/space.py.
    cfg.TUNE.PARAMETERS = ["center", "offset"]
    # Or in full, which wins: a list of {NAME, KEY, LOW, HIGH, SCALE: log | linear, RELATION: value | factor | ratio}.
    cfg.TUNE.SPACE = []
    # What is maximised on the tuning split: "PQ", or "PQ_AP" for 0.5 PQ + 0.5 AP.
    cfg.TUNE.OBJECTIVE = "PQ"
    # Trainings of the search, the baseline included.
    cfg.TUNE.TRIALS = 20
    # Seeds of each point of the identifiability check and of each finalist.
    cfg.TUNE.SEEDS = 3
    cfg.TUNE.FINALISTS = 3
    # Evaluations of a training; after the first GRACE of it the worse part, all but 1 / REDUCTION, is stopped.
    cfg.TUNE.EVALUATIONS = 5
    cfg.TUNE.GRACE = 0.3
    cfg.TUNE.REDUCTION = 2
    # Of the proposals and of the trainings: the search trains with SEED, later phases with seeds of their own.
    cfg.TUNE.SEED = 0
    # The tuning split: groups (cities or folders) of DATASETS.TRAIN, or else at least this share of its images.
    cfg.TUNE.SPLIT = CfgNode({"CITIES": [], "SHARE": 0.15})
    # Grids of `panoptic tune --postprocessing`: a list of {KEY, VALUES}; empty is the grid of docs/tuning.md.
    cfg.TUNE.GRID = []
