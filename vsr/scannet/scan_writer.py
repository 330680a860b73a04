"""Writes lattices of vertices in ScanNet's raw formats: mesh, segments, aggregation, alignment, label table, .sens."""

import csv
import io
import json
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from vsr.scannet.labels import TABLE

SEGMENT = 400  # vertices of an over-segmentation's segment
PARAMETERS = {"kThresh": "0.0001", "segMinVerts": "20", "minPoints": "750", "maxPoints": "30000"} | {
    "thinThresh": "0.05", "flatThresh": "0.001", "minLength": "0.02", "maxLength": "1"
}  # fmt: skip
VERTEX = np.dtype([("position", "<f4", 3), ("colour", "u1", 4)])
FACE = np.dtype([("number", "u1"), ("corners", "<i4", 3)])
TABLE_COLUMNS = (
    "id raw_category category count nyu40id eigen13id nyuClass nyu40class eigen13class ModelNet40 ModelNet10 "
    "ShapeNetCore55 synsetoffset wnsynsetid wnsynsetkey mpcat40 mpcat40index"
).split()


def write_files(
    root: Path,
    name: str,
    grids: list[tuple],
    labels: list[str],
    alignment: np.ndarray,
    noise: float,
    hires: bool,
    prefix: str,
    aligned: bool,
) -> Path:
    """A scan's mesh, segments, aggregation and info from lattices (group, corner, side, side, vertices or spacing)."""
    folder = root / "scans" / name
    folder.mkdir(parents=True, exist_ok=True)
    points, faces, segments, owned = _mesh(grids, len(labels))
    if noise:
        points += np.random.default_rng(len(points)).normal(0, noise, points.shape)
    turn, shift = alignment[:3, :3], alignment[:3, 3]
    stem = f"{name}_vh_clean" if hires else f"{name}_vh_clean_2"
    file = f"{stem}.segs.json" if hires else f"{stem}.0.010000.segs.json"
    write_mesh(folder / f"{stem}.ply", (points - shift) @ turn if aligned else points, faces)
    content = {"params": PARAMETERS, "sceneId": prefix + name, "segIndices": segments.tolist()}
    (folder / file).write_text(json.dumps(content, separators=(",", ":")))
    groups = [{"id": i, "objectId": i, "segments": owned[i], "label": label} for i, label in enumerate(labels)]
    content = {"sceneId": prefix + name, "appId": "Aggregator.v2", "segGroups": groups, "segmentsFile": prefix + file}
    (folder / (f"{stem}.aggregation.json" if hires else f"{name}.aggregation.json")).write_text(json.dumps(content))
    write_info(folder / f"{name}.txt", alignment if aligned else None)
    return folder


def _mesh(grids: list[tuple], groups: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[list[int]]]:
    points, faces, segments, total = [], [], [], 0
    owned: list[list[int]] = [[] for _ in range(groups)]
    for group, corner, one, other, density in grids:
        if np.ndim(density) == 0:
            lengths = np.linalg.norm([one, other], axis=1)
            density = np.maximum(2, np.round(lengths / density).astype(int) + 1)
        rows, columns = (int(number) for number in density)
        u, v = np.linspace(0, 1, rows)[:, None, None], np.linspace(0, 1, columns)[None, :, None]
        points.append((corner + u * one + v * other).reshape(-1, 3))
        index = total + np.arange(rows * columns).reshape(rows, columns)
        a, b, c, d = index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]
        faces.append(np.stack([a, b, c, a, c, d], axis=-1).reshape(-1, 3))
        number = np.repeat(np.arange(total, total + rows * columns, SEGMENT), SEGMENT)[: rows * columns]
        segments.append(number)
        if group >= 0:
            owned[group] += np.unique(number).tolist()
        total += rows * columns
    return np.concatenate(points), np.concatenate(faces), np.concatenate(segments), owned


def write_mesh(path: Path, points: np.ndarray, faces: np.ndarray) -> None:
    """A binary ply as ScanNet's: vertices (N, 3) with colours, triangles (M, 3)."""
    vertices, triangles = np.zeros(len(points), VERTEX), np.zeros(len(faces), FACE)
    vertices["position"], vertices["colour"] = points, (128, 120, 110, 255)
    triangles["number"], triangles["corners"] = 3, faces
    coordinates = "".join(f"property float {axis}\n" for axis in "xyz")
    colours = "".join(f"property uchar {colour}\n" for colour in ("red", "green", "blue", "alpha"))
    header = (
        f"ply\nformat binary_little_endian 1.0\ncomment MLIB generated\nelement vertex {len(points)}\n{coordinates}"
        f"{colours}element face {len(faces)}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    path.write_bytes(header.encode() + vertices.tobytes() + triangles.tobytes())


def write_info(path: Path, alignment: np.ndarray | None) -> None:
    """A scan's `<id>.txt`; without the alignment line where there is none, as in ScanNet's test scans."""
    lines = ["colorHeight = 968", "colorWidth = 1296", "depthHeight = 480", "depthWidth = 640", "sceneType = Office"]
    if alignment is not None:
        lines.insert(0, "axisAlignment = " + " ".join(repr(float(value)) for value in alignment.ravel()) + " ")
    path.write_text("\n".join(lines) + "\n")


def write_table(root: Path, kinds: Iterable[tuple]) -> Path:
    """A label table of (raw category, category, NYU40 class, ...); its last row lacks two fields, as one real row."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE, escapechar="\\")
    writer.writerow(TABLE_COLUMNS)
    rows = [[i, *kind[:2], 9, 40, 7, kind[2], kind[2], "Objects"] + [""] * 8 for i, kind in enumerate(kinds, 1)]
    rows[-1] = rows[-1][:15]
    writer.writerows(rows)
    root.mkdir(parents=True, exist_ok=True)
    (root / TABLE).write_text(buffer.getvalue())
    return root / TABLE


def write_sens(path: Path, frames: Iterable[np.ndarray], compression: str = "jpeg", moving: int = 2) -> None:
    """A `.sens` stream, version 4, of uint8 frames (H, W, 3): jpeg, png or raw colour, zlib depth, poses, and
    `moving` measurements of the inertial unit at its end."""
    frames = list(frames)
    height, width = frames[0].shape[:2]
    camera = np.eye(4, dtype="<f4").tobytes()
    kinds = {"raw": 0, "png": 1, "jpeg": 2}
    sensor = b"StructureSensor"
    head = struct.pack("<IQ", 4, len(sensor)) + sensor + camera * 4
    head += struct.pack("<iiIIIIf", kinds[compression], 1, width, height, 64, 48, 1000.0)
    parts = [head, struct.pack("<Q", len(frames))]
    depth = zlib.compress(np.full((48, 64), 1500, "<u2").tobytes())
    for i, frame in enumerate(frames):
        colour = frame.tobytes() if compression == "raw" else _encode(frame, compression)
        parts += [camera, struct.pack("<QQQQ", 33_333 * i, 33_333 * i, len(colour), len(depth)), colour, depth]
    parts += [struct.pack("<Q", moving), (struct.pack("<15d", *range(15)) + struct.pack("<Q", 7)) * moving]
    path.write_bytes(b"".join(parts))


def _encode(frame: np.ndarray, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, format=kind, quality=90)
    return buffer.getvalue()
