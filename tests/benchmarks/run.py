"""Measure ours against the reference: ``python tests/benchmarks/run.py [rows ...] --output results.json``.

CPU time of one thread, both in turns in one process on the same smooth scenes. Nothing fails for being slow; whether
results are equal is part of the output.

A module of :data:`ROWS` has ``measure(*, rounds: int, quick: bool)``, which yields one record (a dict) a case:

    row           the item, as the table names it: "post-processing"
    case          what was measured on: "1024x2048, 30"
    ours_ms       median CPU milliseconds of ours; :func:`measuring.interleaved` gives these three
    reference_ms  the same of the reference
    ratio         the median over the rounds of reference / ours
    reference     what ours was measured against: "Detectron2", "panopticapi", "unfolded"
    equal         bool, whether the results are as equal as ``equality`` says, looked at for this very case
    equality      what was compared: "every pixel's id", "scores within 1e-6"
    asked         the ratio to reach, None where none is set
    asked_ms      milliseconds to stay below; left out where none are set

Everything else (``rounds``, ``peak_mib``, counts of differences, ...) goes into the JSON as it is. The table of the
README is made from the JSON by ``tests/benchmarks/table.py``.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import logging
import os
import platform
import sys
from pathlib import Path
from typing import Any

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = "1"
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import cv2  # noqa: E402
import detectron2  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

import panoptic_plugin  # noqa: E402, F401

logger = logging.getLogger("benchmarks")
# One module for each row of the table, in its order; each has measure(rounds=, quick=), which yields one record a case.
ROWS = (
    "postprocessing",
    "whole_tail",
    "drawing",
    "network",
    "image_pooling",
    "instance_ap",
    "semantic_evaluation",
    "panoptic_evaluator",
    "targets",
    "query_targets",
    "query_merge",
    "semantic_grouping",
    "fusion",
    "mapper",
)
RECORD_KEYS = ("row", "case", "ours_ms", "reference_ms", "ratio", "reference", "equal", "equality", "asked")


def main(argv: list[str] | None = None) -> int:
    """Run the rows, log one line a case, write the JSON."""
    args = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    records: list[dict[str, Any]] = []
    for row in args.rows or ROWS:
        with torch.no_grad():
            for record in importlib.import_module(row).measure(rounds=args.rounds, quick=args.quick):
                record |= {"module": row, "load": round(os.getloadavg()[0], 1)}
                logger.info("%s", json.dumps(record))
                if missing := [key for key in RECORD_KEYS if key not in record]:
                    logger.warning("%s.py: the record has no %s", row, ", ".join(missing))
                records.append(record)

    def in_order(record: dict[str, Any]) -> int:
        return ROWS.index(record["module"]) if record["module"] in ROWS else len(ROWS)

    if args.output:
        output = Path(args.output)
        kept = other_rows(output, records) if args.keep else []
        content = {"machine": machine(), "records": sorted([*kept, *records], key=in_order)}
        output.write_text(json.dumps(content, indent=2) + "\n")
    return 0


def other_rows(path: Path, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records of ``path`` that ``records`` do not replace; none where it does not exist."""
    known = json.loads(path.read_text())["records"] if path.is_file() else []
    measured = {record["module"] for record in records}
    return [record for record in known if record["module"] not in measured]


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="row", help=f"of {', '.join(ROWS)}; default all")
    parser.add_argument("--rounds", type=int, default=5, help="calls of the reference a case; medians are reported")
    parser.add_argument("--quick", action="store_true", help="images of a quarter of the side, to try the harness")
    parser.add_argument("--output", help="JSON file to write")
    parser.add_argument("--keep", action="store_true", help="keep what --output holds of rows that are not run now")
    return parser


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": 1,
        "load": [round(value, 1) for value in os.getloadavg()],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "detectron2": detectron2.__version__,
        "date": datetime.date.today().isoformat(),
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    raise SystemExit(main())
