"""Outlines of the shapes: closed contours in the square [-1, 1], filled by the even-odd rule."""

import numpy as np
from numpy import ndarray


def _polar(radius, angles) -> ndarray:
    return np.stack([radius * np.cos(angles), radius * np.sin(angles)], axis=1)


def _turn(count: int, start: float = -np.pi / 2) -> ndarray:
    return start + np.arange(count) * 2 * np.pi / count


def _points(*pairs: tuple[float, float]) -> ndarray:
    return np.array(pairs, dtype=float)


def _circle(radius: float = 1.0, centre: tuple[float, float] = (0, 0)) -> ndarray:
    return _polar(radius, _turn(48)) + centre


def _heart() -> ndarray:
    t = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return np.stack([x / 16.5, (y - 2.5) / 15.5], axis=1)


def _crescent() -> ndarray:
    outer = _polar(1.0, np.linspace(np.deg2rad(52), np.deg2rad(308), 40))
    angles = np.linspace(np.deg2rad(285), np.deg2rad(75), 32)
    inner = _polar(0.82, angles) + (0.41, 0)
    return (np.concatenate([outer, inner]) + (0.17, 0)) * 1.05


def _drop() -> ndarray:
    round_part = _polar(0.68, np.linspace(np.deg2rad(-25), np.deg2rad(205), 36)) + (0, 0.32)
    return np.concatenate([round_part, _points((0, -1))])


def _star() -> ndarray:
    return _polar(np.where(np.arange(10) % 2, 0.42, 1.0), _turn(10))


def _clover() -> ndarray:
    angles = _turn(90, 0)
    leaf = 0.42 + 0.58 * np.abs(np.sin(1.5 * (angles + np.pi / 2 + np.pi / 3)))
    return _polar(leaf, angles)


OUTLINES: dict[str, list[ndarray]] = {
    "circle": [_circle()],
    "square": [_points((-.85, -.85), (.85, -.85), (.85, .85), (-.85, .85))],
    "triangle": [_points((0, -1), (1, .8), (-1, .8))],
    "star": [_star()],
    "cross": [_points((-.33, -1), (.33, -1), (.33, -.33), (1, -.33), (1, .33), (.33, .33), (.33, 1), (-.33, 1),
                      (-.33, .33), (-1, .33), (-1, -.33), (-.33, -.33))],
    "heart": [_heart()],
    "ring": [_circle(), _circle(0.5)],
    "crescent": [_crescent()],
    "arrow": [_points((-1, -.28), (.1, -.28), (.1, -.8), (1, 0), (.1, .8), (.1, .28), (-1, .28))],
    "diamond": [_points((0, -1), (.68, 0), (0, 1), (-.68, 0))],
    "semicircle": [np.concatenate([_polar(1.0, np.linspace(np.pi, 2 * np.pi, 32)) + (0, .5)])],
    "bolt": [_points((.25, -1), (-.7, .15), (-.08, .15), (-.3, 1), (.7, -.25), (.08, -.25), (.6, -1))],
    "tee": [_points((-.95, -.9), (.95, -.9), (.95, -.35), (.3, -.35), (.3, .95), (-.3, .95), (-.3, -.35),
                    (-.95, -.35))],
    "frame": [_points((-.9, -.9), (.9, -.9), (.9, .9), (-.9, .9)), _points((-.42, -.42), (.42, -.42), (.42, .42),
                                                                             (-.42, .42))],
    "chevron": [_points((-1, .15), (0, -.85), (1, .15), (1, .85), (0, -.15), (-1, .85))],
    "hourglass": [_points((-.8, -1), (.8, -1), (.14, 0), (.8, 1), (-.8, 1), (-.14, 0))],
    "drop": [_drop()],
    "crown": [_points((-1, -.7), (-.5, .0), (0, -.9), (.5, .0), (1, -.7), (.85, .8), (-.85, .8))],
    "clover": [_clover()],
    "corner": [_points((-.9, -.95), (-.3, -.95), (-.3, .35), (.9, .35), (.9, .95), (-.9, .95))],
}
