"""Made-up raw scans in ScanNet's formats with known answers: for tests, `vsr bench build` and notebook 02.

An object is the top and the four sides of a turned box (scanners do not see the underside), each a lattice of
vertices: its minimal box and the mean of its points follow from a few numbers. Labels are drawn so that 1,513 scans
give about as many questions as the paper counts (section 3.1); they say nothing about ScanNet.
"""

import csv
import io
import json
import struct
import zlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from vsr.scannet.files import TABLE
from vsr.scenes.scene import Box, Scene

# label, NYU40 class where it is another word, width x depth x height in metres
FURNITURE = """
office chair|chair|.6 .6 .95;chair||.55 .5 .9;couch|sofa|1.9 .9 .8
coffee table|table|1.1 .6 .45;table||1.4 .8 .74;desk||1.4 .7 .74
end table|table|.5 .5 .55;bed||2 1.5 .6;bookshelf||1 .35 1.9
shelf|shelves|.9 .35 1.6;cabinet||.9 .5 .9;kitchen cabinet|cabinet|1.8 .6 .8
kitchen counter|counter|1.9 .65 .1;counter||1.6 .6 .1;sink||.6 .5 .2
refrigerator|refridgerator|.7 .7 1.7;microwave|otherprop|.5 .4 .3
oven|otherprop|.6 .6 .8;dishwasher|otherprop|.6 .6 .82;toilet||.4 .7 .75
shower|otherfurniture|.9 .9 2;bathtub||1.6 .7 .55;mirror||.7 .05 1;towel||.4 .08 .6
door||.9 .1 2;doorframe|otherstructure|1 .2 2.1;window||1.2 .1 1.3
curtain||.9 .15 1.9;blinds||1.2 .1 1.2;radiator|otherprop|1 .12 .55
tv|television|1.1 .08 .65;monitor|otherprop|.55 .15 .45
keyboard|otherprop|.45 .15 .03;mouse|otherprop|.12 .07 .04
printer|otherprop|.5 .45 .35;telephone|otherprop|.22 .18 .1;lamp||.35 .35 .6
table lamp|lamp|.3 .3 .5;pillow||.5 .35 .15;blanket|otherprop|1 .7 .1
backpack|bag|.35 .25 .45;bag||.4 .25 .35;trash can|otherprop|.35 .3 .5
recycling bin|otherprop|.4 .35 .6;box||.45 .35 .3;bicycle|otherprop|1.7 .5 1
guitar|otherprop|.4 .15 1;piano|otherprop|1.5 .6 1.2;plant|otherprop|.45 .45 .9
clock|otherprop|.3 .06 .3;fan|otherprop|.4 .4 .9;nightstand|night stand|.5 .45 .6
dresser||1.1 .5 .9;stool|chair|.4 .4 .5;whiteboard||1.8 .06 1.1;picture||.6 .05 .45
books||.3 .2 .15;laptop|otherprop|.35 .25 .2;bottle|otherprop|.1 .1 .28
washing machine|otherprop|.6 .6 .85;suitcase|otherprop|.5 .3 .7
ottoman|otherfurniture|.6 .6 .45;rug|floor mat|1.8 1.2 .02
"""
ENTRIES = [entry.split("|") for line in FURNITURE.split("\n") for entry in line.split(";") if entry]
# raw category, ScanNet200 category, NYU40 class, sides
KINDS = tuple((name, name if name != "books" else "book", nyu40 or name, sides) for name, nyu40, sides in ENTRIES)
SEVERAL = frozenset(
    {"office chair", "chair", "table", "cabinet", "kitchen cabinet", "shelf", "towel", "door", "doorframe", "window"}
    | {"curtain", "blinds", "monitor", "pillow", "trash can", "box", "picture", "stool", "books", "bottle", "plant"}
)  # what a room has several of
STRUCTURE = (("wall", "wall", "wall"), ("floor", "floor", "floor"))
MULTIPLE = (2, 2.9)  # labels that occur several times in a scan: at least, and on average beyond that
ONCE = (10.6, 5.6)  # labels that occur once: mean and standard deviation
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


@dataclass(frozen=True, eq=False)
class Layout:
    """A room in its aligned frame: `sides` (width, depth), less the corner `notch` (0, 0 for none), its items, and
    `alignment` (4, 4), which turns the scan into this frame."""

    id: str
    sides: tuple[float, float]
    notch: tuple[float, float]
    height: float
    items: tuple[Box, ...]
    alignment: np.ndarray

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


def _draw(number: int, rng: np.random.Generator) -> list[tuple]:
    """Kinds for `number` items: some labels once, the rest of the items shared by a few labels."""
    mean, deviation = ONCE
    once = int(rng.negative_binomial(mean**2 / (deviation**2 - mean), mean / deviation**2))
    several = 1 + MULTIPLE[0] + int(rng.poisson(MULTIPLE[1]) - 1)
    kinds = [KINDS[i] for i in rng.permutation(len(KINDS))]
    once = max(0, min(once, number - 2 * several, len(kinds) - several))
    shared = [kind for kind in kinds if kind[0] in SEVERAL][:several]
    alone = [kind for kind in kinds if kind not in shared][:once]
    extra = [shared[i] for i in rng.integers(len(shared), size=max(0, number - once - 2 * len(shared)))]
    return alone + (shared * 2)[: number - once] + extra


def _place(kind: tuple, sides: tuple, notch: tuple, rng: np.random.Generator) -> Box:
    """An item of a kind somewhere in the room, 30 % larger or smaller; one in five leans."""
    size = np.array([float(word) for word in kind[3].split()]) * rng.uniform(0.7, 1.3, 3)
    size = np.minimum(size, 0.6 * min(sides))
    yaw, lean = rng.uniform(0, 2 * np.pi), rng.uniform(-0.3, 0.3) * (rng.random() < 0.2)
    c, s, up, out = np.cos(yaw), np.sin(yaw), np.cos(lean), np.sin(lean)
    axes = np.array([[c, s, 0], [-s * up, c * up, out], [s * out, -c * out, up]])
    reach = np.abs(axes.T) @ (size / 2) + 0.02
    while True:
        center = rng.uniform(reach, (*sides, max(2.5, 2 * reach[2] + 0.01)) - reach)
        beyond = center[:2] + reach[:2] > np.array(sides) - notch
        if not (notch[0] and beyond.all()):
            return Box(kind[0], center, size, axes)
        reach = reach * 0.97  # a large item in a narrow L: let it stick out a little


def write_scan(
    root: str | Path,
    layout: Layout,
    vertices: int = 200_000,
    *,
    noise: float = 0.0,
    hires: bool = False,
    prefix: str = "",
    aligned: bool = True,
) -> Path:
    """The folder `root/scans/<id>` with the files of one scan, of about so many vertices with a standard deviation of
    `noise` metres; `prefix` stands before the ids in the json files ("scannet." in some)."""
    folder = Path(root) / "scans" / layout.id
    folder.mkdir(parents=True, exist_ok=True)
    labels = [item.label for item in layout.items] + ["wall"] * len(layout.outline) + ["floor"]
    points, faces, segments, owned = _mesh(_grids(layout, layout.spacing(vertices)), len(labels))
    if noise:
        points += np.random.default_rng(len(points)).normal(0, noise, points.shape)
    turn, shift = layout.alignment[:3, :3], layout.alignment[:3, 3]
    stem = f"{layout.id}_vh_clean" if hires else f"{layout.id}_vh_clean_2"
    file = f"{stem}.segs.json" if hires else f"{stem}.0.010000.segs.json"
    _write_mesh(folder / f"{stem}.ply", (points - shift) @ turn if aligned else points, faces)
    content = {"params": PARAMETERS, "sceneId": prefix + layout.id, "segIndices": segments.tolist()}
    (folder / file).write_text(json.dumps(content, separators=(",", ":")))
    groups = [{"id": i, "objectId": i, "segments": owned[i], "label": label} for i, label in enumerate(labels)]
    content = {"sceneId": prefix + layout.id, "appId": "Aggregator.v2", "segGroups": groups}
    content["segmentsFile"] = prefix + file
    (folder / f"{stem if hires else layout.id}.aggregation.json").write_text(json.dumps(content))
    lines = ["colorHeight = 968", "colorWidth = 1296", "depthHeight = 480", "depthWidth = 640", "sceneType = Office"]
    if aligned:  # ScanNet's test scans lack the line
        lines.insert(0, "axisAlignment = " + " ".join(repr(float(value)) for value in layout.alignment.ravel()) + " ")
    (folder / f"{layout.id}.txt").write_text("\n".join(lines) + "\n")
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


def _write_mesh(path: Path, points: np.ndarray, faces: np.ndarray) -> None:
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


def write_table(root: Path, kinds: Iterable[tuple]) -> Path:
    """A label table of such KINDS; its last row lacks two fields, as one real row."""
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
        colour = frame.tobytes()
        if compression != "raw":
            Image.fromarray(frame).save(buffer := io.BytesIO(), format=compression, quality=90)
            colour = buffer.getvalue()
        parts += [camera, struct.pack("<QQQQ", 33_333 * i, 33_333 * i, len(colour), len(depth)), colour, depth]
    parts += [struct.pack("<Q", moving), (struct.pack("<15d", *range(15)) + struct.pack("<Q", 7)) * moving]
    path.write_bytes(b"".join(parts))
