# SPDX-License-Identifier: Apache-2.0
"""Objects of a street scene: the canvas, the perspective, and how each object is drawn.

Legend: x to the right and y down, in pixels; a depth is 0 at the horizon, 1 at the bottom edge.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import SupportsIndex

import cv2
import numpy as np

CLASSES = (
    "sky", "building", "pole", "road", "pavement", "tree",
    "sign", "fence", "car", "person", "bicyclist",
)  # fmt: skip
SKY, BUILDING, POLE, ROAD, PAVEMENT, TREE, SIGN, FENCE, CAR, PERSON, BICYCLIST = range(11)
SIZE = 128

Color = tuple[float, ...]
Point = tuple[float, float]


class Canvas:
    """Image and label drawn together: every shape is drawn in both, so they always agree."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.image = np.zeros((SIZE, SIZE, 3), np.uint8)
        self.label = np.full((SIZE, SIZE), SKY, np.uint8)

    def polygon(self, points: list[Point], color: Color, cls: int | None) -> None:
        corners = np.rint(np.array(points)).astype(np.int32)
        cv2.fillPoly(self.image, [corners], color)
        if cls is not None:
            cv2.fillPoly(self.label, [corners], cls)

    def box(self, x0: float, y0: float, x1: float, y1: float, color: Color, cls: int | None) -> None:
        self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], color, cls)

    def line(self, a: Point, b: Point, color: Color, width: float, cls: int | None) -> None:
        start, end, thick = _pixel(a), _pixel(b), max(1, round(width))
        cv2.line(self.image, start, end, color, thick)
        if cls is not None:
            cv2.line(self.label, start, end, cls, thick)

    def ellipse(self, center: Point, axes: Point, color: Color, cls: int | None, thick: int = -1) -> None:
        size = (max(1, round(axes[0])), max(1, round(axes[1])))
        cv2.ellipse(self.image, _pixel(center), size, 0, 0, 360, color, thick)
        if cls is not None:
            cv2.ellipse(self.label, _pixel(center), size, 0, 0, 360, cls, thick)

    def color(self, low: int, high: int, saturation: float = 1.0) -> Color:
        """Draw a random colour between low and high; saturation 0 is grey, 1 unrestricted."""
        rgb = self.rng.uniform(low, high, 3)
        return tuple(float(c) for c in rgb.mean() + saturation * (rgb - rgb.mean()))


@dataclass(frozen=True)
class Street:
    """Geometry of the ground, in pixels."""

    horizon: float
    vanish_x: float
    road_left: float  # x of the road's edges at the bottom of the picture
    road_right: float
    pavement: float  # width of each pavement at the bottom

    def y(self, depth: float) -> float:
        return self.horizon + depth * (SIZE - self.horizon)

    def x(self, bottom_x: float, depth: float) -> float:
        """Return the x at a depth of the line from `bottom_x`, at the bottom, to the vanishing point."""
        return self.vanish_x + (bottom_x - self.vanish_x) * depth

    def point(self, bottom_x: float, depth: float) -> Point:
        return self.x(bottom_x, depth), self.y(depth)


Draw = Callable[[Canvas, Street, float, float], None]
"""Draws an object at an x and a depth."""


def _pixel(point: Point) -> tuple[int, int]:
    return round(point[0]), round(point[1])


def shade(color: Color, factor: float) -> Color:
    return tuple(min(255.0, c * factor) for c in color)


def draw_objects(canvas: Canvas, street: Street) -> None:
    """Draw all objects from the horizon to the viewer, so that near objects hide far ones."""
    rng = canvas.rng
    left, right, wide = street.road_left, street.road_right, street.pavement
    plan: list[tuple[float, Draw, float]] = []

    def place(count: SupportsIndex, draw: Draw, spots: tuple[Point, ...], low: float, high: float) -> None:
        for _ in range(count):
            a, b = spots[rng.integers(len(spots))]
            plan.append((float(rng.uniform(low, high) ** 1.3), draw, float(rng.uniform(a, b))))

    walks = ((left - wide, left - 4), (right + 4, right + wide))
    kerbs = ((left - 10, left - 2), (right + 2, right + 10))
    verges = ((left - 2.2 * wide, left - wide * 0.6), (right + wide * 0.6, right + 2.2 * wide))
    for side, edge in ((-1, left - wide), (1, right + wide)):
        if rng.random() < 0.45:
            _draw_fence(canvas, street, edge + side * 2)
    place(rng.integers(0, 5), _draw_tree, verges, 0.2, 0.9)
    place(rng.integers(2, 6), _draw_pole, kerbs + walks, 0.2, 0.9)
    place(rng.integers(1, 5), _draw_sign, kerbs + walks, 0.3, 0.9)
    place(rng.integers(1, 4), _draw_car, ((left + 8, right - 8),), 0.15, 0.8)
    place(rng.integers(1, 6), _draw_person, (*walks, *walks, (left, right)), 0.3, 0.95)
    place(rng.integers(0, 4), _draw_bicyclist, ((left + 4, right - 4), *walks), 0.3, 0.95)
    for depth, draw, foot in sorted(plan, key=lambda item: item[0]):
        draw(canvas, street, street.x(foot, depth), depth)


def _draw_shadow(canvas: Canvas, x: float, y: float, half: float, flat: float) -> None:
    x0, x1 = int(np.clip(x - half, 0, SIZE)), int(np.clip(x + half * 1.4, 0, SIZE))
    y0, y1 = int(np.clip(y - flat, 0, SIZE)), int(np.clip(y + flat, 0, SIZE))
    canvas.image[y0:y1, x0:x1] = (canvas.image[y0:y1, x0:x1] * 0.6).astype(np.uint8)


def _draw_fence(canvas: Canvas, street: Street, foot: float) -> None:
    rng = canvas.rng
    color = canvas.color(50, 200, 0.5)
    high, near, far = rng.uniform(20, 34), rng.uniform(0.7, 1.3), rng.uniform(0.08, 0.25)
    solid = rng.random() < 0.5

    def at(depth: float, up: float) -> Point:
        return street.x(foot, depth), street.y(depth) - up * high * depth

    outline = [at(far, 0), at(near, 0), at(near, 1), at(far, 1)]
    cv2.fillPoly(canvas.label, [np.rint(np.array(outline)).astype(np.int32)], FENCE)
    if solid:
        canvas.polygon(outline, shade(color, 0.8), FENCE)
    for depth in np.geomspace(far, near, 22):
        canvas.line(at(depth, 0), at(depth, 1), color, 1 + depth, FENCE)
    for up in (0.15, 0.6, 1.0):
        canvas.line(at(far, up), at(near, up), color, 1.4, FENCE)


def _draw_tree(canvas: Canvas, street: Street, x: float, depth: float) -> None:
    rng = canvas.rng
    y, high = street.y(depth), rng.uniform(80, 130) * depth
    bark = (rng.uniform(55, 95), rng.uniform(45, 70), rng.uniform(30, 55))
    canvas.line((x, y), (x, y - 0.55 * high), bark, 6 * depth, TREE)
    green = np.array([rng.uniform(35, 110), rng.uniform(75, 140), rng.uniform(25, 70)])
    for _ in range(9):
        spot = x + rng.normal(0, 0.16) * high, y - rng.uniform(0.45, 1.0) * high
        leaf = tuple(green * rng.uniform(0.65, 1.35))
        canvas.ellipse(spot, (rng.uniform(0.1, 0.2) * high, rng.uniform(0.08, 0.16) * high), leaf, TREE)


def _draw_pole(canvas: Canvas, street: Street, x: float, depth: float) -> None:
    rng = canvas.rng
    y, high = street.y(depth), rng.uniform(75, 125) * depth
    grey, wide = canvas.color(45, 170, 0.2), max(2.0, 7 * depth)
    canvas.line((x, y), (x, y - high), grey, wide, POLE)
    kind = rng.random()
    if kind < 0.45:  # a street lamp
        tip = x + rng.choice([-1, 1]) * 16 * depth, y - high
        canvas.line((x, y - high), tip, grey, max(1.0, 3 * depth), POLE)
        canvas.ellipse(tip, (3 * depth + 1, 1.5 * depth), (235, 230, 190), POLE)
    elif kind < 0.7:  # traffic lights
        top, half = y - high, 3.5 * depth
        canvas.box(x - half, top, x + half, top + 16 * depth, (30, 32, 30), SIGN)
        lamp = [(230, 40, 30), (240, 180, 30), (40, 220, 80)][rng.integers(3)]
        canvas.ellipse((x, top + rng.uniform(3, 13) * depth), (2 * depth, 2 * depth), lamp, SIGN)


def _draw_sign(canvas: Canvas, street: Street, x: float, depth: float) -> None:
    rng = canvas.rng
    y, high, r = street.y(depth), rng.uniform(42, 62) * depth, rng.uniform(7, 11) * depth + 1
    canvas.line((x, y), (x, y - high), canvas.color(110, 190, 0.1), max(1.6, 3 * depth), POLE)
    rim = [(205, 30, 35), (25, 70, 190), (240, 190, 20), (30, 130, 60)][rng.integers(4)]
    plate = (245, 245, 240) if rng.random() < 0.6 else shade(rim, 0.9)
    top = y - high
    kind = rng.integers(3)
    if kind == 0:
        canvas.ellipse((x, top), (r, r), rim, SIGN)
        canvas.ellipse((x, top), (r * 0.62, r * 0.62), plate, SIGN)
    elif kind == 1:
        canvas.polygon([(x - r, top + r * 0.8), (x + r, top + r * 0.8), (x, top - r)], rim, SIGN)
        canvas.polygon([(x - r / 2, top + r / 2), (x + r / 2, top + r / 2), (x, top - r / 2)], plate, SIGN)
    else:
        canvas.box(x - r * 1.2, top - r * 0.8, x + r * 1.2, top + r * 0.8, rim, SIGN)
        canvas.line((x - r * 0.7, top), (x + r * 0.7, top), plate, r / 3, SIGN)


def _draw_car(canvas: Canvas, street: Street, x: float, depth: float) -> None:
    rng = canvas.rng
    y, scale = street.y(depth), depth * rng.uniform(0.85, 1.2)
    half, high = 30 * scale, 22 * scale
    paint = canvas.color(25, 235, 0.9)
    _draw_shadow(canvas, x, y, half, 3 * scale)
    for wheel in (-0.65, 0.65):
        canvas.ellipse((x + wheel * half, y - 2 * scale), (5 * scale, 6 * scale), (22, 22, 24), CAR)
    canvas.box(x - half, y - high * 0.62, x + half, y - 3 * scale, paint, CAR)
    roof, sill = y - high * 1.15, y - high * 0.6
    cabin, window = (0.85, 0.55, roof, shade(paint, 0.85)), (0.68, 0.45, roof + 2 * scale, (55, 70, 85))
    for below, above, top, color in (cabin, window):
        corners = [(x - half * below, sill), (x - half * above, top), (x + half * above, top), (x + half * below, sill)]
        canvas.polygon(corners, color, CAR)
    lamp = (230, 40, 40) if rng.random() < 0.5 else (250, 245, 210)
    for spot in (-0.82, 0.82):
        canvas.ellipse((x + spot * half, y - high * 0.42), (3 * scale, 2 * scale), lamp, CAR)


def _draw_body(canvas: Canvas, x: float, y: float, high: float, cls: int) -> None:
    rng = canvas.rng
    coat, trousers = canvas.color(20, 235), canvas.color(25, 130, 0.6)
    skin = shade((225, 180, 150), rng.uniform(0.45, 1.05))
    stride = rng.uniform(0.04, 0.14) * high
    for foot in (-stride, stride):
        canvas.line((x, y - 0.45 * high), (x + foot, y), trousers, 0.11 * high, cls)
    canvas.ellipse((x, y - 0.62 * high), (0.14 * high, 0.23 * high), coat, cls)
    canvas.ellipse((x, y - 0.91 * high), (0.08 * high, 0.1 * high), skin, cls)


def _draw_person(canvas: Canvas, street: Street, x: float, depth: float) -> None:
    y, high = street.y(depth), canvas.rng.uniform(40, 54) * depth + 1.5
    _draw_shadow(canvas, x, y, 0.15 * high, 0.04 * high)
    _draw_body(canvas, x, y, high, PERSON)


def _draw_bicyclist(canvas: Canvas, street: Street, x: float, depth: float) -> None:
    rng = canvas.rng
    y, high = street.y(depth), rng.uniform(44, 56) * depth + 1.5
    wheel, metal = 0.17 * high, canvas.color(20, 220)
    _draw_shadow(canvas, x, y, 0.4 * high, 0.04 * high)
    for side in (-0.26, 0.26):
        hub = x + side * high, y - wheel
        canvas.ellipse(hub, (wheel, wheel), (35, 35, 38), None, thick=max(1, round(3 * depth)))
        cv2.ellipse(canvas.label, _pixel(hub), (max(1, round(wheel)),) * 2, 0, 0, 360, BICYCLIST, -1)
        canvas.line(hub, (x, y - 0.45 * high), metal, 3 * depth, BICYCLIST)
    _draw_body(canvas, x, y - 0.08 * high, high * 0.95, BICYCLIST)
