"""The smallest oriented box of an object's points, by the rule of VSI-Bench's generation scripts."""

import numpy as np
from scipy.spatial import ConvexHull, QhullError

THIN = 1e-3  # metres: the least side of a box, so that a flat or straight object still has a volume
PAIRS = 1 << 22  # projections held in memory at once


def minimal_box(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Centre (3,), full extents (3,) in metres and axes (3, 3), one unit axis a ROW, of points (N, 3).

    Open3D's minimal oriented box (VSI-Bench's scripts): one face lies on a facet of the convex hull, one side along an
    edge of that facet. Open3D tries one edge a facet, which depends on the hull's vertex order; here all three are
    tried, so the box is never larger than Open3D's and does not depend on any order. None for points on one line.
    """
    points = np.asarray(points, dtype=float)
    middle = points.mean(axis=0) if len(points) else None
    try:
        hull = ConvexHull(points)
    except (QhullError, ValueError):
        return _flat_box(points, middle)
    corners, facets = points[hull.vertices] - middle, points[hull.simplices]
    normals = np.repeat(hull.equations[:, :3], 3, axis=0)
    along = (np.roll(facets, -1, axis=1) - facets).reshape(-1, 3)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    volumes = np.concatenate([_volumes(corners, a, n) for a, n in _chunks(along, normals, len(corners))])
    # equal volumes differ in the last bits: take the first of the smallest
    best = np.flatnonzero(volumes <= volumes.min() * (1 + 1e-9))[0]
    return _box(corners, middle, along[best], normals[best])


def _chunks(along: np.ndarray, normals: np.ndarray, corners: int) -> list[tuple[np.ndarray, np.ndarray]]:
    parts = max(1, len(along) * corners // PAIRS)
    return list(zip(np.array_split(along, parts), np.array_split(normals, parts), strict=True))


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


def _flat_box(points: np.ndarray, middle: np.ndarray | None) -> tuple | None:
    """The box of points in one plane: the smallest rectangle there, as thin as boxes get."""
    if len(points) < 3:
        return None
    _, spread, axes = np.linalg.svd(points - middle, full_matrices=False)
    if len(spread) < 3 or spread[1] <= 1e-9 * max(spread[0], 1e-30):
        return None
    flat = (points - middle) @ axes[:2].T
    try:
        edges = flat[ConvexHull(flat).simplices]
    except QhullError:
        return None
    along = (edges[:, 1] - edges[:, 0]) @ axes[:2]
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    normals = np.broadcast_to(axes[2], along.shape)
    best = _volumes(points - middle, along, normals).argmin()
    return _box(points - middle, middle, along[best], axes[2])
