# SPDX-License-Identifier: Apache-2.0
"""Procedural street scenes: the built-in data set, drawn from a seed in milliseconds.

Each scene is a small perspective drawing of a street with the eleven classes of CamVid. It
deliberately contains what token merging breaks: poles two pixels wide, small signs, distant people.
Textures, lighting, shadows, haze and posters that resemble signs make it non-trivial.

Legend: x to the right and y down, in pixels; a depth is 0 at the horizon, 1 at the bottom edge.
"""

import cv2
import numpy as np

from raycomp.data.samples import Sample
from raycomp.data.street_objects import (
    BUILDING,
    CLASSES,
    PAVEMENT,
    ROAD,
    SIZE,
    SKY,
    TREE,
    Canvas,
    Street,
    draw_objects,
    shade,
)
from raycomp.errors import UserError, nearest

VERSION = 1  # increase it when any pixel changes: checkpoints depend on it


def scene(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw one scene.

    Args:
        seed: any non-negative integer; equal seeds give equal scenes.

    Returns:
        image: 128x128x3 uint8, RGB.
        label: 128x128 uint8, indices into `CLASSES`.
    """
    canvas = Canvas(np.random.default_rng([VERSION, seed]))
    street = _draw_ground(canvas)
    _draw_sky(canvas, street)
    _draw_skyline(canvas, street)
    draw_objects(canvas, street)
    return _photograph(canvas, street), canvas.label


def _smooth_noise(rng: np.random.Generator, cells: int, low: float, high: float) -> np.ndarray:
    coarse = rng.uniform(low, high, (cells, cells)).astype(np.float32)
    return cv2.resize(coarse, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)


def _draw_ground(canvas: Canvas) -> Street:
    rng = canvas.rng
    center = rng.uniform(44, 84)
    half = rng.uniform(38, 72)
    street = Street(
        horizon=rng.uniform(46, 66),
        vanish_x=rng.uniform(44, 84),
        road_left=center - half,
        road_right=center + half,
        pavement=rng.uniform(22, 50),
    )
    left, right, wide = street.road_left, street.road_right, street.pavement
    top, bottom = street.horizon, SIZE
    far = shade(canvas.color(95, 150, 0.3), 0.9)
    canvas.box(0, top, SIZE, bottom, far, PAVEMENT)
    # Beyond the pavement: verge, label tree (grass and hedges are vegetation, as in CamVid).
    for edge, outside in ((left - wide, -4 * SIZE), (right + wide, 5 * SIZE)):
        if rng.random() < 0.6:
            green = (rng.uniform(50, 95), rng.uniform(85, 135), rng.uniform(35, 70))
            canvas.polygon([(street.vanish_x, top), (edge, bottom), (outside, bottom), (outside, top)], green, TREE)
    asphalt = canvas.color(60, 125, 0.15)
    canvas.polygon([(street.vanish_x, top), (left, bottom), (right, bottom)], asphalt, ROAD)
    kerb = shade(asphalt, 1.35)
    for edge in (left, right):
        canvas.line((street.vanish_x, top), (edge, bottom), kerb, 1, None)
    if rng.random() < 0.8:
        _draw_lane_marks(canvas, street)
    for _ in range(rng.integers(0, 4)):  # manholes, patches, puddles: clutter, still road
        depth = rng.uniform(0.3, 1.0)
        spot = street.point(rng.uniform(left, right), depth)
        if canvas.label[min(int(spot[1]), SIZE - 1), int(np.clip(spot[0], 0, SIZE - 1))] == ROAD:
            canvas.ellipse(spot, (rng.uniform(3, 10) * depth, 3 * depth), shade(asphalt, rng.uniform(0.6, 1.5)), None)
    return street


def _draw_lane_marks(canvas: Canvas, street: Street) -> None:
    rng = canvas.rng
    paint = canvas.color(190, 245, 0.3)
    for share in (0.5,) if rng.random() < 0.6 else (0.33, 0.67):
        foot = street.road_left + share * (street.road_right - street.road_left)
        phase = rng.uniform(0, 0.5)
        for k in range(6):  # dashes get shorter towards the horizon
            near = 1.0 / (1.0 + 0.55 * (k + phase))
            far = 1.0 / (1.0 + 0.55 * (k + phase + 0.5))
            canvas.line(street.point(foot, near), street.point(foot, far), paint, 3 * near, None)
    if rng.random() < 0.25:  # a zebra crossing
        near, far = 0.8, 0.62
        for i in range(8):
            a = street.road_left + (i + 0.1) / 8 * (street.road_right - street.road_left)
            b = street.road_left + (i + 0.6) / 8 * (street.road_right - street.road_left)
            corners = [street.point(a, near), street.point(b, near), street.point(b, far), street.point(a, far)]
            canvas.polygon(corners, paint, None)


def _draw_sky(canvas: Canvas, street: Street) -> None:
    rng = canvas.rng
    zenith = np.array([rng.uniform(70, 190), rng.uniform(110, 200), rng.uniform(150, 245)])
    haze = np.array(canvas.color(170, 250, 0.4))
    share = np.clip(np.arange(SIZE) / street.horizon, 0, 1)[:, None, None]
    gradient = zenith * (1 - share) + haze * share
    clouds = np.clip(_smooth_noise(rng, 5, -0.8, 1.0), 0, 1)[..., None]
    sky = gradient * (1 - 0.7 * clouds) + 235 * 0.7 * clouds
    above = np.arange(SIZE) < round(street.horizon)
    canvas.image[above] = sky[above].astype(np.uint8)


def _draw_skyline(canvas: Canvas, street: Street) -> None:
    """Draw distant woods, then rows of houses that grow towards both edges of the picture."""
    rng = canvas.rng
    base = street.horizon + 1
    for _ in range(rng.integers(2, 7)):
        x, radius = rng.uniform(0, SIZE), rng.uniform(3, 9)
        green = (rng.uniform(50, 100), rng.uniform(80, 130), rng.uniform(50, 90))
        canvas.ellipse((x, base - 2), (radius * 1.6, radius), green, TREE)
    tall = rng.uniform(0.5, 1.5)
    for side in (-1, 1):
        if rng.random() < 0.12:  # an open side
            continue
        x = street.vanish_x + side * rng.uniform(3, 14)
        while 0 < x < SIZE:
            away = abs(x - street.vanish_x) / 64
            wide = rng.uniform(6, 14) + 22 * away * rng.random()
            high = (8 + 46 * away) * tall * rng.uniform(0.6, 1.3)
            if rng.random() < 0.85:
                _draw_house(canvas, x, x + side * wide, base - high, base + 14 * away, away)
            x += side * (wide + (rng.uniform(2, 8) if rng.random() < 0.25 else 0))


def _draw_house(canvas: Canvas, x0: float, x1: float, top: float, foot: float, away: float) -> None:
    rng = canvas.rng
    x0, x1 = min(x0, x1), max(x0, x1)
    wall = canvas.color(60, 215, 0.55)
    canvas.box(x0, top, x1, foot, wall, BUILDING)
    if rng.random() < 0.4:
        roof = shade(canvas.color(60, 140, 0.6), 0.8)
        canvas.polygon([(x0, top), (x1, top), ((x0 + x1) / 2, top - rng.uniform(3, 10))], roof, BUILDING)
    glass = shade(wall, rng.choice([0.45, 0.6, 1.35]))
    pitch = rng.uniform(3.5, 6) * (0.6 + away)
    for y in np.arange(top + pitch / 2, foot - pitch, pitch * 1.3):
        for x in np.arange(x0 + pitch / 3, x1 - pitch / 2, pitch):
            if rng.random() < 0.9:
                canvas.box(x, y, x + pitch * 0.45, y + pitch * 0.6, glass, None)
    if rng.random() < 0.3:  # posters and shop fronts: they look like signs, but are labelled building
        bright = canvas.color(30, 255)
        y = rng.uniform(top, max(top + 1, foot - 6))
        canvas.box(x0 + 1, y, x0 + rng.uniform(4, 10), y + rng.uniform(2, 5), bright, BUILDING)


def _photograph(canvas: Canvas, street: Street) -> np.ndarray:
    """Add texture, haze, shadows of objects outside the picture, exposure, lens blur and sensor noise."""
    rng = canvas.rng
    image = canvas.image.astype(np.float32)
    grain = np.array([0, 14, 6, 10, 9, 26, 5, 12, 6, 8, 8], np.float32)[canvas.label]
    image += (grain * rng.standard_normal((SIZE, SIZE), np.float32))[..., None]
    image *= _smooth_noise(rng, 8, 0.86, 1.14)[..., None]
    if rng.random() < 0.5:  # the shadow of a house or a tree across the street
        shade = np.ones((SIZE, SIZE), np.float32)
        y, slope = rng.uniform(street.horizon, SIZE), rng.uniform(-0.6, 0.6)
        band = [(0, y), (SIZE, y + slope * SIZE), (SIZE, y + slope * SIZE + 26), (0, y + rng.uniform(8, 30))]
        cv2.fillPoly(shade, [np.rint(np.array(band)).astype(np.int32)], rng.uniform(0.45, 0.75))
        shade[canvas.label == SKY] = 1
        image *= cv2.blur(shade, (3, 3))[..., None]
    distance = 1 - np.clip(np.abs(np.arange(SIZE) - street.horizon) / 50, 0, 1).astype(np.float32)
    haze = rng.uniform(0, 0.35) * distance[:, None, None]
    image = image * (1 - haze) + 200 * haze
    image *= rng.uniform(0.6, 1.2) * rng.uniform(0.9, 1.1, 3).astype(np.float32)
    image = 255 * np.clip(image / 255, 0, 1) ** np.float32(rng.uniform(0.8, 1.25))
    if rng.random() < 0.5:
        image = cv2.GaussianBlur(image, (3, 3), rng.uniform(0.3, 0.8))
    image += rng.uniform(1, 7) * rng.standard_normal(image.shape, np.float32)
    return np.clip(image, 0, 255).astype(np.uint8)


# First seed of each split, far enough apart that splits cannot overlap.
_FIRST_SEED = {"train": 0, "val": 10_000_000, "test": 20_000_000}


class StreetScenes:
    """A split of the built-in data set: `count` scenes from the split's range of seeds."""

    classes = CLASSES

    def __init__(self, split: str, count: int) -> None:
        if split not in _FIRST_SEED:
            raise UserError(f"streetscenes has no split {split!r}: {nearest(split, _FIRST_SEED)}")
        self.split, self.count = split, count

    @property
    def fingerprint(self) -> str:
        return f"streetscenes-v{VERSION}-{self.split}-{self.count}"

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.count:
            raise IndexError(index)
        return scene(_FIRST_SEED[self.split] + index)
