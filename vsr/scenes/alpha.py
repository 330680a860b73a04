"""A room's area from the points of its scan: the alpha shape of the floor projection, under both rule sets."""

import zlib

import numpy as np

from vsr.scenes.geometry import alpha_area

ALPHA = 0.1  # 1/m, the paper (section 3.1 gives no value): 47.9 m2 on Figure 2's scene, as printed there
ALPHA_BENCH, SAMPLE = 5.0, 10_000  # VSI-Bench's generation scripts: alpha, and the random vertices it is computed of
GRIDS = ((0.02, 12), (0.004, 24))  # metres a cell, cells to look at: first roughly, then what is left finely
COARSE = 0.5  # metres: one point of each such cell always stays
MOST = 1 << 25  # cells of a grid: points strewn wider than that are taken as they are


def areas(points: np.ndarray, name: str) -> dict[str, float]:
    """Square metres by rule set of a scan's vertices (N, 3): the paper's rule over all of them, VSI-Bench's over
    10,000 drawn at random, the same ones at every call for one scan `name`."""
    floor = points[:, :2]
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    drawn = floor if len(floor) <= SAMPLE else floor[np.sort(rng.choice(len(floor), SAMPLE, replace=False))]
    return {"vsi100k": alpha_area(rim(floor, ALPHA), ALPHA), "vsibench": alpha_area(drawn, ALPHA_BENCH)}


def rim(points: np.ndarray, alpha: float) -> np.ndarray:
    """Enough of the points (N, 2) for the outline of their alpha shape: all that can lie on it, and some inside.

    A point is on the outline only if a disc of radius 1/alpha touches it and holds no other point. Take a point whose
    four diagonal quadrants all have a neighbour 1 to `reach` cells away in x and in y: every such disc holds one of
    them, and one still further inside, until it holds a point of the coarse grid that is kept. So no disc becomes
    empty by leaving the point out. Needs discs that are large against the grids; without, all points come back.
    """
    for cell, reach in GRIDS:
        far = np.sqrt(2) * (reach + 1) * cell  # the farthest neighbour
        if far * np.hypot(1, reach + 1) < 2 * (1 / alpha - 2 * COARSE):
            points = points[~_inner(points, cell, reach)]
    return points


def _inner(points: np.ndarray, cell: float, reach: int) -> np.ndarray:
    cells = np.floor((points - points.min(axis=0)) / cell).astype(np.int64)
    shape = cells.max(axis=0) + 1
    if shape.prod() > MOST:
        return np.zeros(len(points), dtype=bool)
    filled = np.zeros(shape + 2 * reach + 1, dtype=np.int32)
    x, y = (cells + reach).T
    filled[x + 1, y + 1] = 1
    total = filled.cumsum(axis=0, dtype=np.int32).cumsum(axis=1, dtype=np.int32)

    def any_in(left: np.ndarray, right: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        return total[right + 1, high + 1] - total[left, high + 1] - total[right + 1, low] + total[left, low] > 0

    sides = (lambda at: (at - reach, at - 2)), (lambda at: (at + 2, at + reach))
    inner = np.logical_and.reduce([any_in(*across(x), *along(y)) for across in sides for along in sides])
    coarse = cells // round(COARSE / cell)
    some = np.full(coarse.max(axis=0) + 1, -1)
    some[tuple(coarse.T)] = np.arange(len(points))
    inner[some[some >= 0]] = False
    return inner
