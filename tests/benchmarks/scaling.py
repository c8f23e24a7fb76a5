"""How the time from network outputs to results grows: ``python tests/benchmarks/scaling.py --json F --plot F.png``.

Ours and Detectron2's over pixels, instances and classes, CPU time of one thread. With ``--redraw`` the plot is made
from the JSON without measuring.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import run as harness  # first: it sets the number of threads
import torch
from measuring import interleaved
from postprocessing import enlarge
from scenes import Scene, smooth_scene
from whole_tail import build_pair, differences

logger = logging.getLogger("scaling")
SIZES = ((128, 256), (256, 512), (512, 1024), (1024, 2048))
INSTANCES = (5, 15, 50, 150)
CLASSES = (8, 19, 50, 133)
SIZE = (512, 1024)  # of the curves over instances and classes
THING_SHARE = 0.15
# Colours that a colour-blind reader tells apart, and dark enough on white.
OURS, REFERENCE = "#0072B2", "#D55E00"
TITLES = {
    "pixels": "pixels (30 objects)",
    "instances": "objects (512x1024)",
    "classes": "classes (512x1024, 30 objects)",
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True, help="figures to write, or to read with --redraw")
    parser.add_argument("--plot", type=Path, required=True, help="PNG to write")
    parser.add_argument("--rounds", type=int, default=2, help="calls of the reference a point (default: %(default)s)")
    parser.add_argument("--redraw", action="store_true", help="only draw")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if not args.redraw:
        torch.set_num_threads(1)
        with torch.no_grad():
            content = {"machine": harness.machine(), "curves": measure(args.rounds)}
        args.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    plot(json.loads(args.json.read_text(encoding="utf-8")), args.plot)
    return 0


def measure(rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Points by curve; each has ``x``, times, ratio and what is not equal."""
    pixels = {size[0] * size[1]: smooth_scene(size, 30, THING_SHARE) for size in SIZES}
    instances = {number: smooth_scene(SIZE, number, THING_SHARE) for number in INSTANCES}
    many = smooth_scene(SIZE, 30, THING_SHARE, coco=True)
    classes = {number: with_classes(many, number) for number in CLASSES}
    curves = {"pixels": pixels, "instances": instances, "classes": classes}
    return {name: [_point(name, x, scene, rounds) for x, scene in points.items()] for name, points in curves.items()}


def with_classes(scene: Scene, number: int) -> Scene:
    """The scene with fewer classes: each is the highest of some stuff classes, or of some thing classes."""
    first_thing, total = scene.arguments["thing_ids"].start, len(scene.logits)
    num_stuff = max(1, round(number * first_thing / total))
    groups = [range(one, first_thing, num_stuff) for one in range(num_stuff)]
    groups += [range(first_thing + one, total, number - num_stuff) for one in range(number - num_stuff)]
    logits = torch.stack([scene.logits[list(group)].amax(dim=0) for group in groups])
    return Scene(logits, scene.heatmap, scene.offsets, {**scene.arguments, "thing_ids": range(num_stuff, number)})


def _point(curve: str, x: int, scene: Scene, rounds: int) -> dict[str, Any]:
    ours, theirs = build_pair(scene)
    ours.return_logits = False
    size = [4 * side for side in scene.heatmap.shape[-2:]]
    batch = [{"image": torch.zeros((0, *size)), "height": size[0], "width": size[1]}]
    compare = partial(differences, heatmap=enlarge(scene.heatmap))
    figures = interleaved(lambda: ours(batch)[0], lambda: theirs(batch)[0], compare, rounds=rounds)
    logger.info("%s %d: %s", curve, x, json.dumps(figures))
    return {"x": x, **figures}


def plot(content: dict[str, Any], path: Path) -> None:
    """Three panels on one time axis, logarithmic; the ratio stands over the last points."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 3, figsize=(12, 4.2), sharey=True, layout="constrained")
    for panel, (name, points) in zip(panels, content["curves"].items(), strict=True):
        positions = [point["x"] for point in points]
        for key, label, colour, marker in (
            ("reference_ms", "Detectron2", REFERENCE, "s"),
            ("ours_ms", "this package", OURS, "o"),
        ):
            panel.plot(positions, [point[key] for point in points], marker=marker, color=colour, label=label)
        panel.set(xscale="log", yscale="log", xlabel=TITLES[name])
        panel.set_xticks(positions, [_short(x) for x in positions])
        panel.set_xticks([], minor=True)
        panel.grid(True, which="major", color="0.85")
        for point in points:
            middle = (point["ours_ms"] * point["reference_ms"]) ** 0.5
            panel.annotate(f"{point['ratio']:.0f}x", (point["x"], middle), ha="center", va="center", color="0.3")
        panel.margins(x=0.12)
    panels[0].yaxis.set_major_formatter("{x:,.0f}")
    panels[0].set_ylabel("CPU milliseconds an image")
    panels[0].legend(loc="upper left", framealpha=1, edgecolor="white")
    machine = content["machine"]
    figure.suptitle(f"Network outputs to panoptic result with instances: one thread, {machine['cpu']}", fontsize=11)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _short(x: int) -> str:
    """32768 as "33 k", 2097152 as "2.1 M"."""
    if x >= 1_000_000:
        return f"{x / 1e6:.1f} M"
    return f"{x / 1000:.0f} k" if x >= 1000 else str(x)


if __name__ == "__main__":
    raise SystemExit(main())
