"""The geometry under every ground truth: angles, box sampling, distances, floor areas, smallest boxes."""

import zlib
from functools import lru_cache

import numpy as np
import shapely
from scipy.spatial import ConvexHull, Delaunay, QhullError, cKDTree

from vsr.errors import VsrError
from vsr.scenes.scene import Box

STEP = 0.05  # metres between sampled points in VSI-Bench's generation scripts
ALPHA = 0.1  # 1/m, the paper (section 3.1 gives no value): 47.9 m2 on Figure 2's scene, as printed there
ALPHA_BENCH, SAMPLE = 5.0, 10_000  # VSI-Bench's generation scripts: alpha, and the random vertices it is computed of
GRIDS = ((0.02, 12), (0.004, 24))  # metres a cell, cells to look at: first roughly, then what is left finely
COARSE = 0.5  # metres: one point of each such cell always stays
MOST = 1 << 25  # cells of a grid: points strewn wider than that are taken as they are
THIN = 1e-3  # metres: the least side of a minimal box, so that a flat or straight object still has a volume
PAIRS = 1 << 22  # projections held in memory at once


def turn_angle(stand: np.ndarray, face: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Degrees in [0, 360) to turn left (counter-clockwise from above) from `face` to `query`, standing at `stand`.

    Points are (..., 2) or (..., 3); z is ignored. The result has the shape of the leading axes.
    """
    ahead, aside = (face - stand)[..., :2], (query - stand)[..., :2]
    cross = ahead[..., 0] * aside[..., 1] - ahead[..., 1] * aside[..., 0]
    return np.degrees(np.arctan2(cross, (ahead * aside).sum(-1))) % 360


@lru_cache(maxsize=4096)
def box_points(box: Box, rim: bool = False) -> np.ndarray:
    """Points that fill the outer half of a box, (N, 3), by the rule that made VSI-Bench's distances.

    A grid of at most 0.05 m step loses its core (within a quarter of the extents), is rotated, and keeps the points
    that a float test finds inside the box; the step is halved while none is left. With `rim` the outermost layer stays
    whole: rounding moves distances between thin objects (a door, a tv) by up to 0.3 m when a scene is turned.
    """
    # Rounding decides which points of the outermost layer stay, so the arithmetic is theirs: BLAS's fused
    # multiply-add rotates, Open3D's plain dot product tests. Every absolute distance of VSI-Bench's 88
    # ScanNet scenes comes out to the printed digit; plain arithmetic in both places misses 3 %.
    step, quarter = STEP, box.size / 4
    while True:
        x, y, z = (np.linspace(-extent / 2, extent / 2, int(np.ceil(extent / step))) for extent in box.size)
        outer = (np.abs(x) > quarter[0])[:, None, None] | (np.abs(y) > quarter[1])[:, None] | (np.abs(z) > quarter[2])
        columns = []
        for axis in range(3):
            a, b, c = box.axes[:, axis]
            plane = _fused(y[None, :], b, (x * a)[:, None])  # (X, Y), then all of (X, Y, Z) with z
            columns.append(_fused(z[None, None, :], c, plane[:, :, None])[outer] + box.center[axis])
        points = np.stack(columns, axis=1)
        if not rim:
            x, y, z = (points - box.center).T
            rows = zip(box.axes, box.size / 2, strict=True)
            # three products and two sums, each rounded: a matrix product would fuse them
            inside = [np.abs((x * a + y * b) + z * c) <= half for (a, b, c), half in rows]
            points = points[np.logical_and.reduce(inside)]
        if len(points):
            points.flags.writeable = False  # shared through the cache
            return points
        step /= 2


def _fused(x: np.ndarray, y: float, add: np.ndarray) -> np.ndarray:
    """x * y + add rounded once, as the processor's fused multiply-add does, on every machine (Dekker's error terms)."""
    product = x * y
    x_high, y_high = (x * 134217729.0) - (x * 134217729.0 - x), (y * 134217729.0) - (y * 134217729.0 - y)
    x_low, y_low = x - x_high, y - y_high
    lost = x_low * y_low - (((product - x_high * y_high) - x_low * y_high) - x_high * y_low)
    total = product + add
    part = total - product
    return total + (((product - (total - part)) + (add - part)) + lost)


def box_distance(one: Box, other: Box, rim: bool = False) -> float:
    """Smallest distance in metres between the sampled points of two boxes (VSI-Bench's "closest point")."""
    one, other = sorted((one, other), key=id)  # the order does not matter; remembered once
    return _distance(one, other, rim)


@lru_cache(maxsize=1 << 16)
def _distance(one: Box, other: Box, rim: bool) -> float:
    a, b = box_points(one, rim), box_points(other, rim)
    to_other, to_one = _to_solid(a, other), _to_solid(b, one)
    near = a[np.argmin(to_other)]
    # any pair bounds the answer: a point farther than that from the other solid is not of the closest
    bound = np.sqrt(((b - near) ** 2).sum(axis=1).min()) + 1e-9
    a, b = a[to_other <= bound], b[to_one <= bound]
    return float(cKDTree(a).query(b)[0].min())


def _to_solid(points: np.ndarray, box: Box) -> np.ndarray:
    """Distance of each point to the solid box, 0 inside."""
    beyond = np.maximum(np.abs((points - box.center) @ box.axes.T) - box.size / 2, 0)
    return np.sqrt((beyond**2).sum(axis=1))


def alpha_area(points: np.ndarray, alpha: float) -> float:
    """Area in m2 of the alpha shape of points on the floor plane, (N, 2).

    Delaunay triangles whose circumradius is below 1/alpha, joined, holes filled: what the package `alphashape` gives,
    which VSI-Bench used with alpha = 5 on 10,000 random vertices. Nearly the convex hull as alpha goes to 0.
    """
    points = np.unique(np.asarray(points, dtype=float), axis=0)
    try:
        triangles = Delaunay(points - points[:1]).simplices
    except (QhullError, ValueError):
        raise VsrError(f"alpha shape of {len(points)} points: they span no area; is the scan empty?") from None
    corners = points[triangles]  # (T, 3, 2)
    sides = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2)
    first, second = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    area = np.abs(first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]) / 2
    with np.errstate(divide="ignore"):
        kept = triangles[sides.prod(axis=1) / (4 * area) < 1 / alpha]
    edges = np.sort(np.concatenate([kept[:, [0, 1]], kept[:, [1, 2]], kept[:, [2, 0]]]), axis=1)
    edges, times = np.unique(edges, axis=0, return_counts=True)
    # an edge of one triangle only is on the outline; polygons of outer and inner rings overlap, so holes fill
    outline = shapely.linestrings(points[edges[times == 1]])
    return float(shapely.union_all(shapely.get_parts(shapely.polygonize(outline))).area)


def areas(points: np.ndarray, name: str) -> dict[str, float]:
    """Square metres by rule set of the vertices (N, 3) of scan `name`: the paper's rule over all of them,
    VSI-Bench's over 10,000 drawn at random, the same at every call."""
    floor = points[:, :2]
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    drawn = floor if len(floor) <= SAMPLE else floor[np.sort(rng.choice(len(floor), SAMPLE, replace=False))]
    return {"vsi100k": alpha_area(outermost(floor, ALPHA), ALPHA), "vsibench": alpha_area(drawn, ALPHA_BENCH)}


def outermost(points: np.ndarray, alpha: float) -> np.ndarray:
    """Enough of the points (N, 2) for the outline of their alpha shape: all that can lie on it, and some inside."""
    # A point is on the outline only if a disc of radius 1/alpha touches it and holds no other point. Take
    # a point with a neighbour 1 to `reach` cells away in x and in y in each diagonal quadrant: every such
    # disc holds one of them, and one still further inside, until it holds a point of the coarse grid, which
    # is kept. So no disc becomes empty by leaving the point out, if discs are large against the grids.
    for cell, reach in GRIDS:
        far = np.sqrt(2) * (reach + 1) * cell  # the farthest neighbour
        if far * np.hypot(1, reach + 1) >= 2 * (1 / alpha - 2 * COARSE):
            continue
        cells = np.floor((points - points.min(axis=0)) / cell).astype(np.int64)
        shape = cells.max(axis=0) + 1
        if shape.prod() <= MOST:
            points = points[~_inner(cells, shape, reach, round(COARSE / cell))]
    return points


def _inner(cells: np.ndarray, shape: np.ndarray, reach: int, coarse: int) -> np.ndarray:
    """Whether each point, in its cell (N, 2), can be left out; `coarse` cells are one of the coarse grid's."""
    filled = np.zeros(shape + 2 * reach + 1, dtype=np.int32)
    x, y = (cells + reach).T
    filled[x + 1, y + 1] = 1
    total = filled.cumsum(axis=0, dtype=np.int32).cumsum(axis=1, dtype=np.int32)  # filled cells left of and below each

    def any_in(left: np.ndarray, right: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        return total[right + 1, high + 1] - total[left, high + 1] - total[right + 1, low] + total[left, low] > 0

    sides = (lambda at: (at - reach, at - 2)), (lambda at: (at + 2, at + reach))
    inner = np.logical_and.reduce([any_in(*across(x), *along(y)) for across in sides for along in sides])
    corner = cells // coarse
    some = np.full(corner.max(axis=0) + 1, -1)
    some[tuple(corner.T)] = np.arange(len(cells))
    inner[some[some >= 0]] = False
    return inner


def minimal_box(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Centre (3,), full extents (3,) in metres and axes (3, 3), one unit axis a ROW, of points (N, 3).

    Open3D's minimal oriented box (VSI-Bench's scripts): one face on a facet of the convex hull, one side along an
    edge of it. Open3D tries one edge a facet, by the hull's vertex order; here all three are tried: never larger, and
    of no order. Points in one plane get their smallest rectangle, as thin as boxes get; those on one line None.
    """
    points = np.asarray(points, dtype=float)
    middle = points.mean(axis=0) if len(points) else np.zeros(3)
    centred = points - middle
    try:
        hull = ConvexHull(points)
    except (QhullError, ValueError):
        return _flat_box(centred, middle)
    corners, facets = centred[hull.vertices], points[hull.simplices]
    normals = np.repeat(hull.equations[:, :3], 3, axis=0)  # (3 F, 3): one candidate box an edge of each facet
    along = (np.roll(facets, -1, axis=1) - facets).reshape(-1, 3)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    parts = max(1, len(along) * len(corners) // PAIRS)
    chunks = zip(np.array_split(along, parts), np.array_split(normals, parts), strict=True)
    volumes = np.concatenate([_volumes(corners, *chunk) for chunk in chunks])
    # equal volumes differ in the last bits: take the first of the smallest
    best = np.flatnonzero(volumes <= volumes.min() * (1 + 1e-9))[0]
    return _box(corners, middle, along[best], normals[best])


def _volumes(corners: np.ndarray, along: np.ndarray, normals: np.ndarray) -> np.ndarray:
    sides = [np.ptp(corners @ axes.T, axis=0) for axes in (along, np.cross(normals, along), normals)]
    return np.prod([np.maximum(side, THIN) for side in sides], axis=0)


def _box(corners: np.ndarray, middle: np.ndarray, along: np.ndarray, normal: np.ndarray) -> tuple:
    along = along - normal * (along @ normal)  # a facet's edge lies in it up to qhull's precision
    along /= np.linalg.norm(along)
    axes = np.stack([along, np.cross(normal, along), normal])
    projected = corners @ axes.T
    low, high = projected.min(axis=0), projected.max(axis=0)
    return middle + (low + high) / 2 @ axes, np.maximum(high - low, THIN), axes


def _flat_box(centred: np.ndarray, middle: np.ndarray) -> tuple | None:
    if len(centred) < 3:
        return None
    _, spread, axes = np.linalg.svd(centred, full_matrices=False)
    if len(spread) < 3 or spread[1] <= 1e-9 * max(spread[0], 1e-30):
        return None
    flat = centred @ axes[:2].T
    try:
        edges = flat[ConvexHull(flat).simplices]
    except QhullError:
        return None
    along = (edges[:, 1] - edges[:, 0]) @ axes[:2]
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    best = _volumes(centred, along, np.broadcast_to(axes[2], along.shape)).argmin()
    return _box(centred, middle, along[best], axes[2])
