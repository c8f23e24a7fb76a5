"""Things that stand or drive on a generated street. Each function draws one object and returns nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from panoptic_plugin.data.canvas import Canvas, Color, shade

GLASS = (52, 66, 82)
TYRE = (22, 22, 25)
CAR_COLORS = ((176, 28, 36), (28, 62, 150), (208, 210, 214), (36, 38, 44), (120, 126, 134), (214, 150, 26))
CLOTHES = ((222, 60, 96), (238, 118, 42), (250, 214, 70), (150, 72, 190), (60, 190, 200), (246, 246, 240))
TROUSERS = ((36, 42, 72), (60, 52, 48), (24, 24, 28), (92, 96, 120))
SKIN = ((240, 200, 170), (198, 146, 110), (128, 84, 60))
HAIR = ((40, 28, 20), (96, 64, 32), (190, 160, 96), (90, 90, 92))
CARGO = ((236, 232, 220), (64, 132, 96), (226, 172, 58), (210, 216, 226))
FRAMES = ((20, 190, 150), (240, 90, 40), (70, 130, 240), (236, 220, 60))


def pick(rng: np.random.Generator, colors: Sequence[Color]) -> Color:
    """One of the colours, slightly varied."""
    return shade(colors[rng.integers(len(colors))], rng.uniform(0.9, 1.08))


def draw_box(
    canvas: Canvas,
    x: Sequence[float],
    y: Sequence[float],
    z: Sequence[float],
    color: Color,
    segment: int,
) -> None:
    """A box of which the near face, the inner side and the roof can be seen."""
    if x[0] > 0:
        canvas.side(x[0], y, z, shade(color, 0.72), segment)
    if x[1] < 0:
        canvas.side(x[1], y, z, shade(color, 0.72), segment)
    if y[1] < 1.4:
        canvas.face([(x[0], y[1], z[0]), (x[1], y[1], z[0]), (x[1], y[1], z[1]), (x[0], y[1], z[1])],
                    shade(color, 1.2), segment)  # fmt: skip
    canvas.front(x, y, z[0], color, segment)


def draw_car(canvas: Canvas, rng: np.random.Generator, x: float, z: float, segment: int) -> None:
    """A car whose near end stands at depth z, its middle at x; seen from behind or from the front."""
    color = pick(rng, CAR_COLORS)
    half, length, top = rng.uniform(0.86, 0.95), rng.uniform(3.7, 4.6), rng.uniform(1.42, 1.62)
    sides, belt = (x - half, x + half), 0.92
    canvas.shadow((x - half * 1.15, x + half * 1.15), (z - 0.35, z + length))
    _car_wheels(canvas, x, half, z, length, segment)
    draw_box(canvas, sides, (0.28, belt), (z, z + length), color, segment)
    inset, cabin = half * 0.16, (z + 0.35, z + length * 0.72)
    roof = (x - half + 1.6 * inset, x + half - 1.6 * inset)
    inner = roof[0] if x > 0 else roof[1]
    edge = x - half + inset / 2 if x > 0 else x + half - inset / 2
    canvas.face([(edge, belt, cabin[0] - 0.2), (edge, belt, cabin[1] + 0.5), (inner, top, cabin[1]),
                 (inner, top, cabin[0])], shade(GLASS, 0.8), segment)  # fmt: skip
    canvas.face([(x - half + inset / 2, belt, z + 0.1), (x + half - inset / 2, belt, z + 0.1),
                 (roof[1], top, cabin[0]), (roof[0], top, cabin[0])], shade(color, 0.95), segment)  # fmt: skip
    canvas.face([(x - half * 0.8, belt + 0.06, z + 0.12), (x + half * 0.8, belt + 0.06, z + 0.12),
                 (roof[1] - 0.08, top - 0.1, cabin[0]), (roof[0] + 0.08, top - 0.1, cabin[0])],
                GLASS, segment)  # fmt: skip
    lamp = (226, 40, 36) if rng.random() < 0.7 else (252, 244, 200)
    for outer in (-1, 1):
        canvas.front(sorted((x + outer * half * 0.62, x + outer * half * 0.96)), (0.62, 0.84), z, lamp, segment)
    canvas.front((x - 0.28, x + 0.28), (0.5, 0.64), z, (236, 236, 228), segment)
    canvas.front((x - half, x + half), (0.28, 0.42), z, shade(color, 0.45), segment)


def _car_wheels(canvas: Canvas, x: float, half: float, z: float, length: float, segment: int) -> None:
    inner = x - half if x > 0 else x + half
    for axle in (z + 0.75, z + length - 0.8):
        canvas.side(inner, (0.0, 0.5), (axle - 0.32, axle + 0.32), TYRE, segment)
    for outer in (-1, 1):
        canvas.front(sorted((x + outer * half * 0.6, x + outer * half * 0.95)), (0.0, 0.34), z + 0.3, TYRE, segment)


def draw_truck(canvas: Canvas, rng: np.random.Generator, x: float, z: float, segment: int) -> None:
    """A box truck seen from behind."""
    color = pick(rng, CARGO)
    half, length, top = 1.2, rng.uniform(5.5, 7.5), rng.uniform(3.0, 3.5)
    canvas.shadow((x - half * 1.1, x + half * 1.1), (z - 0.4, z + length))
    inner = x - half if x > 0 else x + half
    for axle in (z + 0.9, z + length - 0.6):
        canvas.side(inner, (0.0, 0.9), (axle - 0.5, axle + 0.5), TYRE, segment)
    for outer in (-1, 1):
        canvas.front(sorted((x + outer * 0.55, x + outer * 1.1)), (0.0, 0.7), z + 0.2, TYRE, segment)
    draw_box(canvas, (x - half, x + half), (0.65, top), (z, z + length), color, segment)
    canvas.front((x - half, x + half), (0.5, 0.75), z, (48, 48, 54), segment)
    canvas.front((x - 0.03, x + 0.03), (0.8, top - 0.15), z, shade(color, 0.55), segment)
    for outer in (-1, 1):
        canvas.front(sorted((x + outer * half * 0.86, x + outer * half)), (0.8, top), z, shade(color, 0.7), segment)
        canvas.front(sorted((x + outer * 0.75, x + outer * 1.15)), (0.52, 0.72), z, (230, 50, 40), segment)
    canvas.front((x - half, x + half), (top - 0.15, top), z, shade(color, 0.7), segment)
    stripe = pick(rng, CLOTHES)
    canvas.front((x - half * 0.84, x + half * 0.84), (1.5, 1.85), z, stripe, segment)


def draw_person(canvas: Canvas, rng: np.random.Generator, x: float, z: float, segment: int) -> None:
    """A walking person, feet at (x, z)."""
    tall = rng.uniform(1.6, 1.92)
    hip, shoulder, stride = 0.48 * tall, 0.82 * tall, rng.uniform(0.04, 0.2)
    shirt, trousers, skin = pick(rng, CLOTHES), pick(rng, TROUSERS), pick(rng, SKIN)
    canvas.shadow((x - 0.32, x + 0.32), (z - 0.15, z + 0.2), 0.65)
    for leg, light in ((-1, 0.8), (1, 1.0)):
        foot = x + leg * (0.08 + stride)
        canvas.face([(foot - 0.09, 0, z), (foot + 0.12, 0, z), (x + leg * 0.1 + 0.12, hip, z),
                     (x + leg * 0.1 - 0.12, hip, z)], shade(trousers, light), segment)  # fmt: skip
    swing = rng.uniform(0.02, 0.14)
    for arm, light in ((-1, 0.75), (1, 0.9)):
        hand = x + arm * (0.3 + swing)
        canvas.face([(hand - 0.07, hip * 0.98, z), (hand + 0.07, hip * 0.98, z), (x + arm * 0.2 + 0.07, shoulder, z),
                     (x + arm * 0.2 - 0.07, shoulder, z)], shade(shirt, light), segment)  # fmt: skip
    canvas.face([(x - 0.19, hip - 0.05, z), (x + 0.19, hip - 0.05, z), (x + 0.25, shoulder, z),
                 (x - 0.25, shoulder, z)], shirt, segment)  # fmt: skip
    head = canvas.project([(x, tall - 0.13, z)])[0]
    radius = 0.135 * canvas.scale(z)
    canvas.front((x - 0.06, x + 0.06), (shoulder - 0.02, tall - 0.2), z, shade(skin, 0.85), segment)
    canvas.ellipse(head, (radius * 0.92, radius * 1.1), pick(rng, HAIR), segment)
    canvas.ellipse(head + (0.12 * radius, 0.22 * radius), (radius * 0.7, radius * 0.85), skin, segment)


def draw_bicycle(canvas: Canvas, rng: np.random.Generator, x: float, z: float, segment: int) -> None:
    """A bicycle seen from the side; spokes count as bicycle, as Cityscapes' annotators have it."""
    color, metre = pick(rng, FRAMES), canvas.scale(z)
    radius, direction = 0.37, rng.choice((-1, 1))
    rear, front = x - direction * 0.52, x + direction * 0.52
    canvas.shadow((x - 0.9, x + 0.9), (z - 0.12, z + 0.12), 0.65)
    for hub in canvas.project([(rear, radius, z), (front, radius, z)]):
        canvas.ellipse(hub, (radius * metre, radius * metre), TYRE, segment)
        canvas.ellipse(hub, (radius * metre * 0.78, radius * metre * 0.78), (170, 174, 180), segment)
        canvas.ellipse(hub, (radius * metre * 0.2, radius * metre * 0.2), TYRE, segment)
    crank, seat, stem = (x - direction * 0.05, 0.3), (x - direction * 0.22, 0.92), (x + direction * 0.36, 0.95)
    bars = ((crank, seat), (crank, stem), (seat, stem), ((rear, radius), seat), ((rear, radius), crank),
            ((front, radius), stem))  # fmt: skip
    for begin, end in bars:
        _bar(canvas, begin, end, z, 0.055, color, segment)
    _bar(canvas, (seat[0] - 0.14, 0.96), (seat[0] + 0.14, 0.96), z, 0.05, TYRE, segment)
    _bar(canvas, (stem[0] - 0.12, 1.05), (stem[0] + 0.12, 1.02), z, 0.04, TYRE, segment)


def _bar(
    canvas: Canvas,
    begin: tuple[float, float],
    end: tuple[float, float],
    z: float,
    half: float,
    color: Color,
    segment: int,
) -> None:
    (x0, y0), (x1, y1) = begin, end
    length = max(np.hypot(x1 - x0, y1 - y0), 1e-6)
    across_x, across_y = -(y1 - y0) / length * half, (x1 - x0) / length * half
    canvas.face([(x0 + across_x, y0 + across_y, z), (x1 + across_x, y1 + across_y, z),
                 (x1 - across_x, y1 - across_y, z), (x0 - across_x, y0 - across_y, z)], color, segment)  # fmt: skip


def draw_bin(canvas: Canvas, rng: np.random.Generator, x: float, z: float, segment: int) -> None:
    """A litter bin: an object that Cityscapes leaves out of its evaluation ("static")."""
    color = pick(rng, ((70, 76, 84), (40, 84, 70), (96, 70, 52)))
    canvas.shadow((x - 0.35, x + 0.35), (z - 0.2, z + 0.4), 0.65)
    draw_box(canvas, (x - 0.3, x + 0.3), (0, 1.05), (z, z + 0.5), color, segment)
    canvas.front((x - 0.34, x + 0.34), (1.0, 1.12), z, shade(color, 0.6), segment)
