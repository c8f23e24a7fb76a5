"""Street-like scenes from a seed, with exact panoptic labels.

Scene i of a split depends on (seed, split, i) and the size alone: not on how many scenes are asked for, nor on which
worker draws it. Of eight scenes one has no things, one an odd size of its own, and two hold a crowd group. Neighbours
of one class touch: parked cars bumper to bumper, people side by side.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from panoptic_plugin.data.canvas import Canvas, SceneSegment, shade
from panoptic_plugin.data.street_objects import draw_bicycle, draw_bin, draw_car, draw_person, draw_truck, pick

HORIZON_Z = 90.0
SMALLEST_AREA = 12  # pixels of a thing that can still be recognised; less becomes void
FACADES = ((196, 164, 128), (172, 104, 84), (206, 190, 160), (150, 132, 122), (214, 176, 140), (140, 98, 84))
LEAVES = ((58, 112, 44), (44, 92, 40), (84, 128, 48), (70, 104, 36))
# Amplitude of fine and of coarse texture, in grey levels, by class.
TEXTURE = {
    "road": (7, 4), "sidewalk": (6, 6), "building": (4, 8), "vegetation": (20, 26), "terrain": (13, 12), "sky": (1, 2),
    "car": (2, 4), "truck": (2, 4), "person": (4, 4), "bicycle": (3, 3),
}  # fmt: skip


@dataclass(frozen=True)
class Scene:
    """One picture and its label.

    Attributes:
        image: uint8 (H, W, 3), RGB.
        ids: int32 (H, W), a segment's place in ``segments``; 0 is unlabelled.
        segments: what each id is; names are Cityscapes'.
    """

    image: np.ndarray
    ids: np.ndarray
    segments: tuple[SceneSegment, ...]


@dataclass(frozen=True)
class Street:
    """How a street is laid out, in metres to the right of the camera."""

    road: tuple[float, float]
    sidewalk: float  # width
    open_side: int  # -1 or 1: grass and trees there instead of buildings; 0 neither


def make_scene(
    seed: int, split: str, index: int, height: int, width: int, *, odd_sizes: bool = True, supersample: int = 2
) -> Scene:
    """Draw scene ``index`` of a split.

    Args:
        seed: any number of at least 0; another seed gives another dataset.
        split: name of the split; train and val share no scene.
        index: which scene.
        height, width: nominal size in pixels.
        odd_sizes: let every eighth scene have a smaller size with odd height and width.
        supersample: how many times finer it is drawn than it is shown, which smooths the edges of the picture.
    """
    rng = np.random.default_rng([seed, zlib.crc32(split.encode()), index])
    if odd_sizes and index % 8 == 5:
        height, width = (int(size * rng.uniform(0.8, 0.97)) | 1 for size in (height, width))
    canvas = _empty_canvas(rng, height * supersample, width * supersample)
    street = _make_street(rng)
    _draw_surroundings(canvas, rng, street)
    if index % 8 != 3:
        _draw_things(canvas, rng, street, has_crowd=index % 4 == 1)
    _draw_ego_vehicle(canvas, rng)
    return _develop(canvas, rng, supersample)


def _empty_canvas(rng: np.random.Generator, height: int, width: int) -> Canvas:
    vanishing = (height * rng.uniform(0.36, 0.46), width * rng.uniform(0.4, 0.6))
    return Canvas(height, width, vanishing, focal=height * rng.uniform(1.0, 1.25))


def _make_street(rng: np.random.Generator) -> Street:
    left, right = -rng.uniform(4.2, 6.0), rng.uniform(3.6, 5.0)
    return Street((left, right), rng.uniform(2.2, 3.4), int(rng.choice((-1, 0, 1))))


def _draw_surroundings(canvas: Canvas, rng: np.random.Generator, street: Street) -> None:
    """Everything that is not an object, from the sky to the kerb."""
    _draw_sky(canvas, rng)
    _draw_skyline(canvas, rng)
    _draw_ground(canvas, rng, street)
    for side in (-1, 1):
        line = (street.road[1] + street.sidewalk) if side > 0 else (street.road[0] - street.sidewalk)
        if side == street.open_side:
            _draw_trees(canvas, rng, line + side * 2.0, side, (6.0, 60.0), int(rng.integers(5, 9)))
        else:
            _draw_facades(canvas, rng, line, side)
            _draw_trees(canvas, rng, line - side * 0.5, side, (12.0, 40.0), int(rng.integers(0, 3)))
        for z in np.arange(34.0, 6.0, -rng.uniform(11, 16)):
            _draw_lamp(canvas, line - side * (street.sidewalk - 0.4), z)


def _draw_sky(canvas: Canvas, rng: np.random.Generator) -> None:
    top = np.asarray(((86, 140, 206), (120, 164, 214), (150, 172, 196))[rng.integers(3)], dtype=np.float32)
    bottom = np.asarray((224, 230, 234), dtype=np.float32)
    rows = int(canvas.vanishing_yx[0]) + 4  # the ground hides the rest
    down = np.linspace(0, 1, rows, dtype=np.float32)[:, None, None]
    clouds = _smooth_noise(rng, rows, canvas.width, 5, 6)[..., None].clip(0, None) * (1 - down)
    sky = top * (1 - down) + bottom * down + clouds * 70
    canvas.image[:rows] = sky.clip(0, 255).astype(np.uint8)
    canvas.ids[:rows] = canvas.stuff("sky")


def _draw_skyline(canvas: Canvas, rng: np.random.Generator) -> None:
    """Distant houses and trees where the street ends."""
    unit = canvas.height
    x, base = -0.05 * unit, canvas.vanishing_yx[0] + 0.03 * unit
    while x < canvas.width:
        wide, tall = unit * rng.uniform(0.1, 0.25), unit * rng.uniform(0.05, 0.15)
        if rng.random() < 0.5:
            for _ in range(4):
                center = (x + wide * rng.random(), base - tall * rng.uniform(0.1, 0.6))
                canvas.ellipse(center, (wide * 0.4, tall * 0.5), shade(pick(rng, LEAVES), 1.15),
                               canvas.stuff("vegetation"))  # fmt: skip
        else:
            box = [(x, base), (x + wide, base), (x + wide, base - tall), (x, base - tall)]
            canvas.polygon(box, shade(pick(rng, FACADES), 1.05), canvas.stuff("building"))
        x += wide * 0.8


def _draw_ground(canvas: Canvas, rng: np.random.Generator, street: Street) -> None:
    near, (left, right) = 0.5, street.road
    grass, pavement, asphalt = (112, 132, 62), (170, 160, 152), pick(rng, ((92, 92, 98), (78, 80, 86)))
    canvas.ground((-400, 400), (near, HORIZON_Z * 4), grass, canvas.stuff("terrain"))
    canvas.ground((left - street.sidewalk, right + street.sidewalk), (near, HORIZON_Z * 4), pavement,
                  canvas.stuff("sidewalk"))  # fmt: skip
    for z in np.geomspace(2.0, 40.0, 14):
        canvas.ground((left - street.sidewalk, right + street.sidewalk), (z, z * 1.02), shade(pavement, 0.86), None)
    canvas.ground((left - 0.2, right + 0.2), (near, HORIZON_Z * 4), shade(pavement, 1.22), None)
    canvas.ground((left, right), (near, HORIZON_Z * 4), asphalt, canvas.stuff("road"))
    middle = (left + right) / 2 - 0.3
    for z in np.arange(rng.uniform(1, 4), 70.0, 5.0):
        canvas.ground((middle - 0.09, middle + 0.09), (z, z + 2.5), (226, 226, 218), None)
    if rng.random() < 0.25:
        z = rng.uniform(7, 14)
        for x in np.arange(left + 0.5, right - 0.5, 1.1):
            canvas.ground((x, x + 0.55), (z, z + 3.0), (222, 222, 216), None)


def _draw_facades(canvas: Canvas, rng: np.random.Generator, line: float, side: int) -> None:
    """A row of houses along the street, the farthest first."""
    z = HORIZON_Z
    segment = canvas.stuff("building")
    while z > 0.6:
        near = max(z - rng.uniform(7, 14), 0.5)
        color, top = pick(rng, FACADES), rng.uniform(4.5, 11.0)
        light = 0.78 if side > 0 else 1.05
        far_edge = line + side * 12
        canvas.front(sorted((line, far_edge)), (0, top), near, shade(color, light * 0.85), segment)
        canvas.side(line, (0, top), (near, z), shade(color, light), segment)
        canvas.side(line, (top - 0.35, top), (near, z), shade(color, light * 0.6), segment)
        canvas.side(line, (0, 0.5), (near, z), shade(color, light * 0.7), segment)
        _draw_windows(canvas, rng, line, (near, z), top, shade((70, 84, 102), light))
        z = near - rng.uniform(1.5, 4) if rng.random() < 0.18 else near


def _draw_windows(
    canvas: Canvas, rng: np.random.Generator, line: float, z: tuple[float, float], top: float, color: Any
) -> None:
    if z[0] > 45:  # too small to be seen
        return
    storey, segment = rng.uniform(2.6, 3.2), canvas.stuff("building")
    step = rng.uniform(2.0, 2.8)
    for y in np.arange(1.0, top - 2.0, storey):
        for begin in np.arange(z[0] + 0.6, z[1] - 1.4, step):
            pane = color if rng.random() < 0.8 else (226, 208, 150)
            canvas.side(line, (y - 0.08, y + 1.58), (begin - 0.08, begin + 1.18), (222, 216, 206), segment)
            canvas.side(line, (y, y + 1.5), (begin, begin + 1.1), pane, segment)


def _draw_trees(
    canvas: Canvas, rng: np.random.Generator, x: float, side: int, depths: tuple[float, float], count: int
) -> None:
    segment = canvas.stuff("vegetation")
    for z in np.sort(rng.uniform(*depths, count))[::-1]:
        at, tall, metre = x + side * rng.uniform(0, 3.5), rng.uniform(4.0, 7.5), canvas.scale(z)
        canvas.shadow((at - 1.4, at + 1.4), (z - 0.5, z + 0.8), 0.75)
        canvas.front((at - 0.17, at + 0.17), (0, tall * 0.55), z, (78, 60, 46), segment)
        color = pick(rng, LEAVES)
        crown = canvas.project([(at, tall * 0.66, z)])[0]
        for puff in range(14):
            away = rng.normal(0, 0.75, 2) * metre * (1.0, 0.8)
            size = metre * rng.uniform(0.7, 1.2) * tall / 6
            canvas.ellipse(crown + away, (size, size * 0.85), shade(color, 0.78 + 0.035 * puff), segment)


def _draw_lamp(canvas: Canvas, x: float, z: float) -> None:
    """A lamp post. Cityscapes calls it a pole; so thin an object is left unjudged here, as a "polegroup"."""
    segment = canvas.stuff("polegroup")
    canvas.front((x - 0.06, x + 0.06), (0, 4.6), z, (58, 60, 62), segment)
    canvas.front((x - 0.3, x + 0.3), (4.5, 4.75), z, (92, 94, 92), segment)


def _draw_things(canvas: Canvas, rng: np.random.Generator, street: Street, has_crowd: bool) -> None:
    """Vehicles, people and bins, from the farthest to the nearest."""
    placed = [*_place_vehicles(rng, street), *_place_people(rng, street, has_crowd)]
    for _, draw in sorted(placed, key=lambda item: -item[0]):
        draw(canvas, rng)


Placed = tuple[float, Callable[[Canvas, np.random.Generator], None]]


def _thing(name: str, draw: Callable[..., None], x: float, z: float) -> Placed:
    return z, lambda canvas, rng: draw(canvas, rng, x, z, canvas.thing(name))


def _place_vehicles(rng: np.random.Generator, street: Street) -> list[Placed]:
    left, right = street.road
    placed = []
    for lane in (left + 0.95, right - 0.95):
        z = rng.uniform(5.0, 9.0)
        for _ in range(rng.integers(0, 4)):
            placed.append(_thing("car", draw_car, lane, z))
            z += rng.uniform(4.7, 5.2) if rng.random() < 0.6 else rng.uniform(7, 11)
    if rng.random() < 0.5:
        placed.append(_thing("car", draw_car, rng.uniform(-0.9, 0.9), rng.uniform(8.0, 17.0)))
    if rng.random() < 0.55:
        lane = left + 1.3 if rng.random() < 0.5 else rng.uniform(-0.6, 0.6)
        placed.append(_thing("truck", draw_truck, lane, rng.uniform(9.0, 20.0)))
    return placed


def _place_people(rng: np.random.Generator, street: Street, has_crowd: bool) -> list[Placed]:
    left, right = street.road

    def on_sidewalk() -> float:
        inner = rng.uniform(0.4, street.sidewalk - 0.3)
        return right + inner if rng.random() < 0.5 else left - inner

    placed: list[Placed] = []
    for _ in range(rng.integers(1, 4)):
        x, z = on_sidewalk(), rng.uniform(6.0, 13.0)
        placed.append(_thing("person", draw_person, x, z))
        if rng.random() < 0.4:
            placed.append(_thing("person", draw_person, x + rng.uniform(0.45, 0.6), z + rng.uniform(0.1, 0.4)))
    for _ in range(rng.integers(0, 4)):
        placed.append(_thing("bicycle", draw_bicycle, on_sidewalk(), rng.uniform(5.5, 10.0)))
    if rng.random() < 0.4:
        x, z = on_sidewalk(), rng.uniform(5.0, 9.0)
        placed.append((z, lambda canvas, rng: draw_bin(canvas, rng, x, z, canvas.stuff("static"))))
    if has_crowd:
        group_x, group_z = on_sidewalk(), rng.uniform(10.0, 14.0)
        placed.append((group_z, lambda canvas, rng: _draw_crowd(canvas, rng, group_x, group_z)))
    return placed


def _draw_crowd(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    segment = canvas.thing("person", is_crowd=True)
    for step in range(int(rng.integers(5, 9))):
        draw_person(canvas, rng, x + rng.uniform(-1.1, 1.1), z + 1.2 - 0.12 * step, segment)


def _draw_ego_vehicle(canvas: Canvas, rng: np.random.Generator) -> None:
    """The bonnet of the car that holds the camera, and the border that its lens does not see well: both void."""
    height, width = canvas.height, canvas.width
    tall = height * rng.uniform(0.04, 0.075)
    across = np.linspace(-0.02, 1.02, 32)
    bonnet = np.stack([across * width, height - tall * (1 - (2 * across - 1) ** 4)], axis=1)
    outline = np.concatenate([bonnet, [(width, height), (0, height)]])
    canvas.polygon(outline, (34, 36, 42), canvas.stuff("ego vehicle"))
    canvas.polygon(outline + (0, tall * 0.45), (64, 68, 78), None)
    border = max(2, width // 200)
    edge = canvas.stuff("out of roi")
    canvas.ids[:, :border] = canvas.ids[:, -border:] = edge


def _develop(canvas: Canvas, rng: np.random.Generator, supersample: int) -> Scene:
    """Texture, light and grain; then down to the size that was asked for."""
    height, width = canvas.height // supersample, canvas.width // supersample
    picture = cv2.resize(canvas.image, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)
    ids = canvas.ids[supersample // 2 :: supersample, supersample // 2 :: supersample].copy()
    strength = np.array([TEXTURE.get(segment.name, (3, 3)) for segment in canvas.segments], dtype=np.float32)[ids]
    picture += (rng.standard_normal((height, width), dtype=np.float32) * strength[..., 0])[..., None]
    picture += (_smooth_noise(rng, height, width, height // 7 + 2, width // 7 + 2) * strength[..., 1])[..., None]
    light = np.float32(rng.uniform(0.82, 1.12)) * (
        1 + np.float32(rng.uniform(-0.05, 0.05)) * np.array([1, 0, -1], dtype=np.float32)
    )
    down, across = np.linspace(-1, 1, height, dtype=np.float32), np.linspace(-1, 1, width, dtype=np.float32)
    vignette = 1 - 0.07 * (down[:, None] ** 2 + across[None, :] ** 2)
    picture = picture * light * vignette[..., None] + rng.standard_normal(picture.shape, dtype=np.float32) * 1.5
    return Scene(picture.clip(0, 255).astype(np.uint8), *_keep_recognisable(ids, canvas.segments))


def _keep_recognisable(ids: np.ndarray, segments: list[SceneSegment]) -> tuple[np.ndarray, tuple[SceneSegment, ...]]:
    """Number the visible segments 1, 2, ... again; what is left of almost hidden things becomes unlabelled."""
    areas = np.bincount(ids.ravel(), minlength=len(segments))
    kept = [0] + [
        number
        for number, segment in enumerate(segments)
        if number and areas[number] >= (SMALLEST_AREA if segment.is_thing else 1)
    ]
    table = np.zeros(len(segments), dtype=np.int32)
    table[kept] = np.arange(len(kept), dtype=np.int32)
    return table[ids], tuple(segments[number] for number in kept)


def _smooth_noise(rng: np.random.Generator, height: int, width: int, rows: int, columns: int) -> np.ndarray:
    """float32 (height, width) noise of about unit strength, smooth between rows x columns knots."""
    knots = rng.standard_normal((rows, columns), dtype=np.float32)
    return cv2.resize(knots, (width, height), interpolation=cv2.INTER_CUBIC)
