"""Made-up raw scans in ScanNet's formats with known answers: for `vsr bench build`, notebook 02 and tests.

An object is the top and the four sides of a turned box (scanners do not see the underside), each a lattice of
vertices: its minimal box and the mean of its points follow from a few numbers. Labels are drawn so that 1,513 scans
give about as many questions as the paper counts (section 3.1); they say nothing about ScanNet.
"""

import csv
import json
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vsr.scenes.scene import Box, Scene

# A label table as ScanNet's, with the sides of each label in metres and whether a room has several of it; walls and
# floors have none, and lack their last columns as one real row does.
LABELS = Path(__file__).with_name("made_up.tsv")
with LABELS.open(encoding="utf-8", newline="") as _file:
    KINDS = [row for row in csv.DictReader(_file, delimiter="\t") if row["several"]]
SIDES = ("width", "depth", "height")
# labels that occur several times in a scan: at least, and on average beyond that
MULTIPLE = (2, 2.9)
ONCE = (10.6, 5.6)  # labels that occur once: mean and standard deviation
SEGMENT = 400  # vertices of an over-segmentation's segment
VERTEX = np.dtype([("position", "<f4", 3), ("colour", "u1", 4)])
FACE = np.dtype([("number", "u1"), ("corners", "<i4", 3)])


@dataclass(frozen=True, eq=False)
class Layout:
    """A room in its aligned frame, in metres."""

    id: str
    sides: tuple[float, float]  # width, depth
    notch: tuple[float, float]  # what its last corner lacks; (0, 0) for none
    height: float
    items: tuple[Box, ...]
    alignment: np.ndarray  # (4, 4), turns the scan into this frame

    @property
    def outline(self) -> np.ndarray:
        """The floor polygon, (N, 2)."""
        (w, d), (a, b) = self.sides, self.notch
        if a and b:
            return np.array([[0, 0], [w, 0], [w, d - b], [w - a, d - b], [w - a, d], [0, d]])
        return np.array([[0.0, 0], [w, 0], [w, d], [0, d]])

    def spacing(self, vertices: int) -> float:
        """Metres between vertices, so that the scan has about `vertices` of them."""
        walls = np.abs(np.diff(self.outline, axis=0, append=self.outline[:1])).sum() * self.height
        x, y, z = np.array([item.size for item in self.items]).reshape(-1, 3).T
        return float(np.sqrt((2 * np.prod(self.sides) + walls + (x * y + 2 * x * z + 2 * y * z).sum()) / vertices))

    def truth(self, vertices: int) -> Scene:
        """The scene that a reader should find, in closed form; its size is the floor's true area."""
        spacing = self.spacing(vertices)
        boxes = [replace(item, point_center=point_center(item, spacing)) for item in self.items]
        counts = Counter(item.label for item in self.items) + Counter(wall=len(self.outline), floor=1)
        area = float(np.prod(self.sides) - np.prod(self.notch))
        return Scene(self.id, "scannet", tuple(boxes), room_size=area, counts=dict(sorted(counts.items())))


def lattice(item: Box, spacing: float) -> np.ndarray:
    """Vertices along each axis of an item, (3,); its third axis is its up."""
    return np.maximum(2, np.round(item.size / spacing).astype(int) + 1)


def point_center(item: Box, spacing: float) -> np.ndarray:
    """The mean of an item's vertices: only the top is out of balance, by half the height."""
    x, y, z = (int(number) for number in lattice(item, spacing))
    return item.center + item.axes[2] * item.size[2] / 2 * (x * y) / (x * y + 2 * x * z + 2 * y * z)


def make_layout(name: str, seed: int, objects: int = 40) -> Layout:
    """A room of 10 to 45 m2 with so many objects, the walls and the floor among them; every third one is L-shaped."""
    rng = np.random.default_rng([seed, *name.encode()])
    sides = tuple(rng.uniform((3.2, 3.2), (7.5, 6.0)))
    notch = tuple(rng.uniform(0.2, 0.45, 2) * sides) if rng.random() < 1 / 3 else (0.0, 0.0)
    room = objects - 1 - (6 if notch[0] else 4)
    turn = np.eye(4)
    angle = rng.uniform(0, 2 * np.pi)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    turn[:3, 3] = rng.uniform(-3, 3, 3)
    items = [_place(kind, sides, notch, rng) for kind in _draw(room, rng)]
    return Layout(name, sides, notch, 2.6, tuple(items), turn)


def _draw(number: int, rng: np.random.Generator) -> list[dict]:
    """Kinds for `number` items: some labels once, the rest of the items shared by a few labels."""
    mean, deviation = ONCE
    once = int(rng.negative_binomial(mean**2 / (deviation**2 - mean), mean / deviation**2))
    several = 1 + MULTIPLE[0] + int(rng.poisson(MULTIPLE[1]) - 1)
    kinds = [KINDS[i] for i in rng.permutation(len(KINDS))]
    once = max(0, min(once, number - 2 * several, len(kinds) - several))
    shared = [kind for kind in kinds if kind["several"] == "yes"][:several]
    alone = [kind for kind in kinds if kind not in shared][:once]
    extra = [shared[i] for i in rng.integers(len(shared), size=max(0, number - once - 2 * len(shared)))]
    return alone + (shared * 2)[: number - once] + extra


def _place(kind: dict, sides: tuple, notch: tuple, rng: np.random.Generator) -> Box:
    """An item of a kind somewhere in the room, 30 % larger or smaller; one in five leans."""
    size = np.array([float(kind[side]) for side in SIDES]) * rng.uniform(0.7, 1.3, 3)
    size = np.minimum(size, 0.6 * min(sides))
    yaw = rng.uniform(0, 2 * np.pi)
    lean = rng.uniform(-0.3, 0.3) * (rng.random() < 0.2)
    c, s, up, out = np.cos(yaw), np.sin(yaw), np.cos(lean), np.sin(lean)
    axes = np.array([[c, s, 0], [-s * up, c * up, out], [s * out, -c * out, up]])
    reach = np.abs(axes.T) @ (size / 2) + 0.02
    while True:
        center = rng.uniform(reach, (*sides, max(2.5, 2 * reach[2] + 0.01)) - reach)
        beyond = center[:2] + reach[:2] > np.array(sides) - notch
        if not (notch[0] and beyond.all()):
            return Box(kind["raw_category"], center, size, axes)
        reach = reach * 0.97  # a large item in a narrow L: let it stick out a little


def write_scan(root: str | Path, layout: Layout, vertices: int = 200_000, noise: float = 0.0) -> Path:
    """The folder `root/scans/<id>` with the lo-res files of one scan, of about so many vertices with a standard
    deviation of `noise` metres."""
    folder = Path(root) / "scans" / layout.id
    folder.mkdir(parents=True, exist_ok=True)
    labels = [item.label for item in layout.items] + ["wall"] * len(layout.outline) + ["floor"]
    points, faces, segments, owned = _mesh(_grids(layout, layout.spacing(vertices)), len(labels))
    if noise:
        points += np.random.default_rng(len(points)).normal(0, noise, points.shape)
    # a scanner's frame is turned and shifted: the alignment brings it back
    turn, shift = layout.alignment[:3, :3], layout.alignment[:3, 3]
    stem = f"{layout.id}_vh_clean_2"
    _write_mesh(folder / f"{stem}.ply", (points - shift) @ turn, faces)
    file = folder / f"{stem}.0.010000.segs.json"
    content = {"sceneId": layout.id, "segIndices": segments.tolist()}
    file.write_text(json.dumps(content, separators=(",", ":")))
    groups = [{"id": i, "objectId": i, "segments": owned[i], "label": label} for i, label in enumerate(labels)]
    content = {"sceneId": layout.id, "appId": "Aggregator.v2", "segGroups": groups, "segmentsFile": file.name}
    (folder / f"{layout.id}.aggregation.json").write_text(json.dumps(content))
    alignment = " ".join(repr(float(value)) for value in layout.alignment.ravel())
    lines = [f"axisAlignment = {alignment} ", "colorHeight = 968", "colorWidth = 1296", "depthHeight = 480"]
    (folder / f"{layout.id}.txt").write_text("\n".join([*lines, "depthWidth = 640", "sceneType = Office"]) + "\n")
    return folder


def _grids(layout: Layout, spacing: float) -> list[tuple]:
    """Lattices: group (-1 for none), corner, one side, other side, vertices along each or their spacing."""
    grids: list[tuple] = []
    for number, item in enumerate(layout.items):
        x, y, z = item.axes * item.size[:, None]
        low, counts = item.center - (x + y + z) / 2, lattice(item, spacing)
        grids.append((number, low + z, x, y, counts[[0, 1]]))
        grids += [(number, corner, x, z, counts[[0, 2]]) for corner in (low, low + y)]
        grids += [(number, corner, y, z, counts[[1, 2]]) for corner in (low, low + x)]
    group, corners = len(layout.items), layout.outline
    for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        grids.append((group, np.array([*a, 0]), np.array([*(b - a), 0]), np.array([0, 0, layout.height]), spacing))
        group += 1
    (w, d), (cut, depth) = layout.sides, layout.notch
    for z, owner in ((0.0, group), (layout.height, -1)):  # nobody labelled the ceiling
        grids.append((owner, np.array([0, 0, z]), np.array([w - cut, 0, 0]), np.array([0, d, 0]), spacing))
        if cut and depth:
            side, front = np.array([cut, 0, 0]), np.array([0, d - depth, 0])
            grids.append((owner, np.array([w - cut, 0, z]), side, front, spacing))
    return grids


def _mesh(grids: list[tuple], groups: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[list[int]]]:
    """Points (N, 3), triangles (M, 3), the segment of each point (N,), and the segments of each group."""
    points, faces, segments, total = [], [], [], 0
    owned: list[list[int]] = [[] for _ in range(groups)]
    for group, corner, one, other, density in grids:
        if np.ndim(density) == 0:
            lengths = np.linalg.norm([one, other], axis=1)
            density = np.maximum(2, np.round(lengths / density).astype(int) + 1)
        rows, columns = (int(number) for number in density)
        u = np.linspace(0, 1, rows)[:, None, None]
        v = np.linspace(0, 1, columns)[None, :, None]
        points.append((corner + u * one + v * other).reshape(-1, 3))
        index = total + np.arange(rows * columns).reshape(rows, columns)
        a = index[:-1, :-1]
        b = index[1:, :-1]
        c = index[1:, 1:]
        d = index[:-1, 1:]
        faces.append(np.stack([a, b, c, a, c, d], axis=-1).reshape(-1, 3))
        number = np.repeat(np.arange(total, total + rows * columns, SEGMENT), SEGMENT)[: rows * columns]
        segments.append(number)
        if group >= 0:
            owned[group] += np.unique(number).tolist()
        total += rows * columns
    return np.concatenate(points), np.concatenate(faces), np.concatenate(segments), owned


def _write_mesh(path: Path, points: np.ndarray, faces: np.ndarray) -> None:
    """A binary ply as ScanNet's: vertices (N, 3) with colours, triangles (M, 3)."""
    vertices = np.zeros(len(points), VERTEX)
    triangles = np.zeros(len(faces), FACE)
    vertices["position"], vertices["colour"] = points, (128, 120, 110, 255)
    triangles["number"], triangles["corners"] = 3, faces
    coordinates = "".join(f"property float {axis}\n" for axis in "xyz")
    colours = "".join(f"property uchar {colour}\n" for colour in ("red", "green", "blue", "alpha"))
    header = (
        f"ply\nformat binary_little_endian 1.0\ncomment MLIB generated\nelement vertex {len(points)}\n{coordinates}"
        f"{colours}element face {len(faces)}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    path.write_bytes(header.encode() + vertices.tobytes() + triangles.tobytes())
