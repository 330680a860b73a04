"""The vertices of a ScanNet mesh (`_vh_clean_2.ply` or `_vh_clean.ply`); faces are never held in memory."""

from pathlib import Path

import numpy as np
from plyfile import PlyData, PlyParseError

from vsr.errors import VsrError

REMEDY = "copy or download it again"
TRIANGLES = {"face": {"vertex_indices": 3, "vertex_index": 3}}  # lists of known length are mapped, not parsed


def read_vertices(path: str | Path) -> np.ndarray:
    """The mesh's vertices in metres as scanned, (N, 3) float64. A file cut short, counts that do not fit it, missing
    coordinates and values that are not finite are errors naming the file and the field."""
    path = Path(path)
    try:
        vertices = PlyData.read(str(path), known_list_len=TRIANGLES)["vertex"].data
        points = np.stack([vertices[axis].astype(np.float64) for axis in "xyz"], axis=1)
    except FileNotFoundError:
        raise VsrError(f"{path}: no such file") from None
    except PlyParseError as error:
        raise VsrError(f"{path}: not a whole ply mesh ({error}); {REMEDY}") from None
    except KeyError as error:
        raise VsrError(f"{path}: no element {error}; is this a mesh?") from None
    except (OSError, ValueError, TypeError, EOFError, OverflowError, MemoryError) as error:
        raise VsrError(f"{path}: not a readable ply mesh ({error}); {REMEDY}") from None
    if not len(points):
        raise VsrError(f"{path}: element vertex: the mesh has no vertices; {REMEDY}")
    broken = np.flatnonzero(~np.isfinite(points).all(axis=1))
    if len(broken):
        x, y, z = points[broken[0]]
        raise VsrError(f"{path}: vertex {broken[0]} is ({x}, {y}, {z}), and {len(broken)} in all are not finite")
    return points
