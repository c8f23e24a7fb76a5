"""What a network with attention looks at, as one figure an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

MAX_POINTS, MAX_QUERIES = 4, 8
COLUMNS = 4
POINT_COLOR = "#d55e00"


def attention_figure(
    image: np.ndarray,
    attention: Mapping[str, np.ndarray],
    segments: Sequence[Mapping[str, Any]],
    class_names: Sequence[str],
    *,
    ids: np.ndarray,
    points_yx: Sequence[tuple[float, float]] | None = None,
) -> np.ndarray:
    """Encoder attention of some points, and decoder attention of the queries that made the largest segments.

    Args:
        image: uint8 RGB (H, W, 3).
        attention: ``"encoder"`` float (h, w, h, w), how a cell (the first two) attends to cells; ``"decoder"`` float
            (K, h, w), how each query does; ``"queries"`` integers (K,), their numbers.
        segments: of the result, with ``query``, ``category_id``, ``area`` and ``id``.
        class_names: by contiguous category.
        ids: int (H, W), the ids of the segments.
        points_yx: pixels to show; by default one within each of the largest segments.

    Returns:
        uint8 RGB of the figure.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patheffects import withStroke

    shown = sorted(segments, key=lambda one: -int(one["area"]))
    points = list(points_yx) if points_yx is not None else [_inside(ids == one["id"]) for one in shown[:MAX_POINTS]]
    place = {int(query): number for number, query in enumerate(attention["queries"])}
    queries = [one for one in shown if one.get("query") in place][:MAX_QUERIES]
    rows = 1 + -(-len(points) // COLUMNS) + -(-len(queries) // COLUMNS)
    height, width = image.shape[:2]
    figure = Figure(figsize=(3.2 * COLUMNS, rows * (3.2 * height / width + 0.35) + 0.4), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    grid = figure.add_gridspec(rows, COLUMNS)
    whole = figure.add_subplot(grid[0, 0])
    whole.imshow(image)
    whole.set_title("points", fontsize=9)
    for number, (y, x) in enumerate(points, start=1):
        whole.plot(x, y, "o", color=POINT_COLOR, markeredgecolor="white", markersize=8)
        label = whole.annotate(str(number), (x, y), xytext=(6, 4), textcoords="offset points", color="white")
        label.set(weight="bold", path_effects=[withStroke(linewidth=2.5, foreground="black")])
    whole.axis("off")
    for number, (y, x) in enumerate(points):
        axes = figure.add_subplot(grid[1 + number // COLUMNS, number % COLUMNS])
        _heat(axes, image, _of_cell(attention["encoder"], (y / height, x / width)), f"encoder, point {number + 1}")
        axes.plot(x, y, "o", color=POINT_COLOR, markeredgecolor="white", markersize=8)
    first = 1 + -(-len(points) // COLUMNS)
    for number, one in enumerate(queries):
        axes = figure.add_subplot(grid[first + number // COLUMNS, number % COLUMNS])
        name = class_names[int(one["category_id"])]
        _heat(axes, image, attention["decoder"][place[int(one["query"])]], f"query {one['query']}: {name}")
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()


def _inside(mask: np.ndarray) -> tuple[float, float]:
    """The pixel of a mask that is farthest from its edge, (y, x)."""
    padded = np.pad(mask.astype(np.uint8), 1)
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(int(distance.argmax()), distance.shape)
    return float(y), float(x)


def _of_cell(encoder: np.ndarray, share_yx: tuple[float, float]) -> np.ndarray:
    """float (h, w): attention of the cell that holds a point, given in shares of height and width."""
    height, width = encoder.shape[:2]
    row, column = min(int(share_yx[0] * height), height - 1), min(int(share_yx[1] * width), width - 1)
    return encoder[row, column]


def _heat(axes: Any, image: np.ndarray, heat: np.ndarray, title: str) -> None:
    """Grey image under the heat, which is scaled to its own highest value."""
    height, width = image.shape[:2]
    grey = np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[:, :, None], 3, axis=2)
    axes.imshow(grey, alpha=0.6)
    axes.imshow(heat / max(float(heat.max()), 1e-12), cmap="inferno", alpha=0.65, vmin=0, vmax=1,
                extent=(-0.5, width - 0.5, height - 0.5, -0.5), interpolation="bilinear")  # fmt: skip
    axes.set_title(title, fontsize=9)
    axes.axis("off")
