"""Scenes of the embedded benchmark from a random generator: textured backgrounds, clutter, occlusion, exact masks."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy import ndarray
from numpy.random import Generator

from ovd.data.shapes.outlines import OUTLINES
from ovd.data.shapes.world import ShapeClass

SUPERSAMPLING = 3
SIZE_RANGE = (26.0, 80.0)  # diameter of an object in pixels of a 192-pixel scene, log-uniform
OBJECTS = (4, 8)  # per scene, inclusive
MIN_VISIBLE = 0.7  # share of an object that later ones leave uncovered
MAX_OVERLAP = 0.12  # intersection over union of two objects' boxes
HUES = {"red": 0.0, "green": 60.0, "blue": 115.0}  # OpenCV's half degrees


@dataclass
class SceneObject:
    """One visible object.

    Attributes:
        category: Its class.
        mask: Visible pixels, bool ``[H, W]``.
        box: Tight box of ``mask`` in pixels, ``(x1, y1, x2, y2)``, exclusive at the far side.
    """

    category: ShapeClass
    mask: ndarray
    box: tuple[int, int, int, int]


def render_scene(rng: Generator, classes: Sequence[ShapeClass], weights: ndarray | None = None,
                 size: int = 192) -> tuple[ndarray, list[SceneObject]]:
    """Draw one scene.

    Args:
        rng: Decides everything.
        classes: What may occur.
        weights: Chance of each class, or None for all alike.
        size: Side of the scene in pixels; objects scale with it.

    Returns:
        RGB uint8 ``[size, size, 3]`` and the objects in drawing order, each at least 70 % visible.
    """
    canvas = _background(rng, size).astype(np.float32)
    owner = np.full((size, size), -1, np.int16)  # which object a pixel shows
    areas: list[int] = []
    boxes: list[tuple[float, float, float, float]] = []
    kept: list[ShapeClass] = []
    chances = None if weights is None else np.asarray(weights) / np.sum(weights)
    wanted = int(rng.integers(OBJECTS[0], OBJECTS[1] + 1))
    for _ in range(wanted):
        category = classes[int(rng.choice(len(classes), p=chances))]
        diameter = float(np.exp(rng.uniform(*np.log(SIZE_RANGE)))) * size / 192
        for _ in range(12):
            centre = rng.uniform(0.42 * diameter, size - 0.42 * diameter, 2)
            box = (*(centre - diameter / 2), *(centre + diameter / 2))
            if all(_iou(box, other) < MAX_OVERLAP for other in boxes):
                break
        else:
            continue
        colours, alpha, (x, y) = _render_object(rng, category, diameter, centre, size)
        covered = owner[y:y + alpha.shape[0], x:x + alpha.shape[1]]
        solid = alpha > 0.5
        hidden = np.bincount(covered[solid & (covered >= 0)], minlength=len(kept))
        visible = np.bincount(owner[owner >= 0], minlength=len(kept)) - hidden
        if any(visible[i] < MIN_VISIBLE * areas[i] for i in range(len(kept))) or solid.sum() < 40:
            continue
        patch = canvas[y:y + alpha.shape[0], x:x + alpha.shape[1]]
        patch += alpha[..., None] * (colours - patch)
        covered[solid] = len(kept)
        areas.append(int(solid.sum()))
        boxes.append(box)
        kept.append(category)
    canvas += rng.normal(0, 4, canvas.shape).astype(np.float32)
    image = np.clip(canvas, 0, 255).astype(np.uint8)
    return image, [_scene_object(category, owner == i) for i, category in enumerate(kept)]


def _scene_object(category: ShapeClass, mask: ndarray) -> SceneObject:
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    return SceneObject(category, mask, (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1))


def _iou(a, b) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    inter = width * height
    return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter)


def _background(rng: Generator, size: int) -> ndarray:
    """Desaturated blotches, a grating and grey clutter: nothing that has a class's colour."""
    grey = rng.uniform(60, 200)
    coarse = grey + rng.normal(0, 28, (int(rng.integers(3, 9)),) * 2 + (1,)) + rng.normal(0, 7, (1, 1, 3))
    field = cv2.resize(coarse.astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    fine = rng.normal(0, 10, (size // 4, size // 4)).astype(np.float32)
    field += cv2.resize(fine, (size, size), interpolation=cv2.INTER_LINEAR)[..., None]
    angle, period = rng.uniform(0, np.pi), rng.uniform(5, 30)
    y, x = np.mgrid[:size, :size].astype(np.float32)
    grating = np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / period)
    field += rng.uniform(0, 12) * grating[..., None]
    field = np.ascontiguousarray(np.clip(field, 0, 255))
    for _ in range(int(rng.integers(3, 9))):
        tone = tuple(float(v) for v in np.clip(rng.uniform(30, 230) + rng.normal(0, 8, 3), 0, 255))
        if rng.random() < 0.5:
            start, end = (tuple(int(v) for v in rng.integers(0, size, 2)) for _ in range(2))
            cv2.line(field, start, end, tone, int(rng.integers(1, 4)), cv2.LINE_AA)
        else:
            centre, spread = rng.uniform(0, size, 2), rng.uniform(0.03, 0.09) * size
            blob = (centre + rng.normal(0, spread, (int(rng.integers(4, 8)), 2))).astype(np.int32)
            cv2.fillPoly(field, [cv2.convexHull(blob)], tone, cv2.LINE_AA)
    return field


def _render_object(rng: Generator, category: ShapeClass, diameter: float, centre: ndarray,
                   size: int) -> tuple[ndarray, ndarray, tuple[int, int]]:
    """Colours float32 ``[h, w, 3]``, coverage float32 ``[h, w]`` in 0..1, the patch's corner ``(x, y)``; clipped."""
    angle = np.deg2rad(rng.uniform(-15, 15))
    stretch = np.exp(rng.uniform(-0.12, 0.12))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    half = diameter / 2
    reach = int(np.ceil(half * 1.6)) + 1
    left, top = int(centre[0]) - reach, int(centre[1]) - reach
    side = 2 * reach + 1
    offset = centre - (left, top)
    scale = SUPERSAMPLING
    contours = []
    for outline in OUTLINES[category.shape]:
        points = (outline * (half * stretch, half / stretch)) @ turn.T + offset
        contours.append(np.round(points * scale * 16).astype(np.int32))
    fine = np.zeros((side * scale, side * scale), np.uint8)
    cv2.fillPoly(fine, contours, 255, cv2.LINE_8, shift=4)
    alpha = cv2.resize(fine, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32) / 255

    main, second = _palette(rng, category.colour)
    mix = _pattern(rng, category.pattern, side * scale, offset * scale, half * scale)
    rim = max(1, round(0.06 * half * scale))  # the main colour keeps a rim, or stripes would eat the outline
    mix *= cv2.erode(fine, np.ones((2 * rim + 1,) * 2, np.uint8)) > 0
    mix = cv2.resize(mix, (side, side), interpolation=cv2.INTER_AREA)[..., None]
    shade = 1 + 0.12 * np.linspace(-1, 1, side, dtype=np.float32)[:, None, None] * rng.choice([-1, 1])
    colours = (main + mix * (second - main)) * shade
    x1, y1, x2, y2 = max(left, 0), max(top, 0), min(left + side, size), min(top + side, size)
    window = (slice(y1 - top, y2 - top), slice(x1 - left, x2 - left))
    return colours[window].astype(np.float32), alpha[window], (x1, y1)


def _palette(rng: Generator, colour: str) -> tuple[ndarray, ndarray]:
    """The class's colour with a varied shade, and a light or dark second colour for patterns."""
    hue = (HUES[colour] + rng.uniform(-7, 7)) % 180
    hsv = np.array([[[hue, rng.uniform(165, 250), rng.uniform(135, 245)]]], np.float32).astype(np.uint8)
    main = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0].astype(np.float32)
    second = np.full(3, rng.uniform(215, 250) if rng.random() < 0.5 else rng.uniform(10, 45), np.float32)
    return main, second


def _pattern(rng: Generator, pattern: str, side: int, offset: ndarray, half: float) -> ndarray:
    """Share of the second colour, float32 ``[side, side]``."""
    if pattern == "plain":
        return np.zeros((side, side), np.float32)
    y, x = np.mgrid[:side, :side].astype(np.float32)
    x, y = (x - offset[0]) / half, (y - offset[1]) / half
    angle = rng.uniform(0, np.pi)
    u, v = x * np.cos(angle) + y * np.sin(angle), -x * np.sin(angle) + y * np.cos(angle)
    if pattern == "striped":
        period = rng.uniform(0.42, 0.58)
        return ((u / period + rng.random()) % 1 < 0.45).astype(np.float32)
    period = rng.uniform(0.46, 0.6)
    row = np.floor(v / period)
    du = (u / period + 0.5 * (row % 2)) % 1 - 0.5
    dv = (v / period) % 1 - 0.5
    return (du ** 2 + dv ** 2 < 0.30 ** 2).astype(np.float32)
