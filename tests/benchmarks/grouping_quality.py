"""What grouping by class and offset brings, by mistake of the network: ``python tests/benchmarks/grouping_quality.py``.

Prints PQ of things, AP and AR of each rule on the scenes of ``tests/grouping_scenes.py``; with ``--lambdas`` a sweep.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import panoptic_plugin  # noqa: F401, I001
from grouping_scenes import MODES, SIGMA, WRONG, make_scene, predict, quality
from panoptic_plugin.postprocessing.semantic_grouping import GroupingOptions

logger = logging.getLogger("grouping")


def rules(weights: list[float]) -> dict[str, GroupingOptions]:
    """The rules by the name of their column."""
    named = {"majority": GroupingOptions(), "class_strict": GroupingOptions("class_strict")}
    for weight in weights:
        named[f"semantic_map {weight:g}"] = GroupingOptions("semantic_map", weight=weight, sigma=SIGMA)
    return named


def compare(mode: str, confidence: str, num_scenes: int, weights: list[float]) -> dict[str, dict[str, float]]:
    """Column -> PQ_th, AP, AR over some scenes."""
    scenes = [make_scene(seed, mode, confidence) for seed in range(num_scenes)]
    found = {name: quality(scenes, [predict(s, rule) for s in scenes]) for name, rule in rules(weights).items()}
    outputs = [predict(s, rules(weights)[f"semantic_map {weights[0]:g}"], constant_score=True) for s in scenes]
    return {**found, "scores of 1": quality(scenes, outputs)}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=60, help="scenes a mode")
    parser.add_argument("--lambdas", type=float, nargs="+", default=[1.0, 4.0], help="weights of the class")
    parser.add_argument("--output", help="JSON file to write")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    found = {}
    for confidence in WRONG:
        for mode in MODES:
            row = found[f"{mode}, {confidence}"] = compare(mode, confidence, args.scenes, args.lambdas)
            cells = (f"{name} {v['PQ_th']:.1f}/{v['AP']:.1f}/{v['AR']:.1f}" for name, v in row.items())
            logger.info("%-32s %s", f"{mode}, {confidence}:", "  ".join(cells))
    if args.output:
        Path(args.output).write_text(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
