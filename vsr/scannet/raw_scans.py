"""Made-up raw scans in ScanNet's file formats, whose answers are known in closed form: for tests and measurements.

An object is the top and the four sides of a turned box (scanners do not see the underside), each a lattice of
vertices, so its minimal box and the mean of its points follow from a few numbers. Labels and their counts are drawn so
that 1,513 such scans give about the questions that the paper counts (section 3.1); they say nothing about ScanNet.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vsr.scannet.scan_writer import write_files
from vsr.scenes.scene import Box, Scene

# raw category, ScanNet200 category, NYU40 class, width x depth x height in metres
FURNITURE = """
office chair|office chair|chair|.6 .6 .95;chair|chair|chair|.55 .5 .9;couch|couch|sofa|1.9 .9 .8
coffee table|coffee table|table|1.1 .6 .45;table|table|table|1.4 .8 .74;desk|desk|desk|1.4 .7 .74
end table|end table|table|.5 .5 .55;bed|bed|bed|2 1.5 .6;bookshelf|bookshelf|bookshelf|1 .35 1.9
shelf|shelf|shelves|.9 .35 1.6;cabinet|cabinet|cabinet|.9 .5 .9;kitchen cabinet|kitchen cabinet|cabinet|1.8 .6 .8
kitchen counter|kitchen counter|counter|1.9 .65 .1;counter|counter|counter|1.6 .6 .1;sink|sink|sink|.6 .5 .2
refrigerator|refrigerator|refridgerator|.7 .7 1.7;microwave|microwave|otherprop|.5 .4 .3;oven|oven|otherprop|.6 .6 .8
dishwasher|dishwasher|otherprop|.6 .6 .82;toilet|toilet|toilet|.4 .7 .75;shower|shower|otherfurniture|.9 .9 2
bathtub|bathtub|bathtub|1.6 .7 .55;mirror|mirror|mirror|.7 .05 1;towel|towel|towel|.4 .08 .6
door|door|door|.9 .1 2;doorframe|doorframe|otherstructure|1 .2 2.1;window|window|window|1.2 .1 1.3
curtain|curtain|curtain|.9 .15 1.9;blinds|blinds|blinds|1.2 .1 1.2;radiator|radiator|otherprop|1 .12 .55
tv|tv|television|1.1 .08 .65;monitor|monitor|otherprop|.55 .15 .45;keyboard|keyboard|otherprop|.45 .15 .03
mouse|mouse|otherprop|.12 .07 .04;printer|printer|otherprop|.5 .45 .35;telephone|telephone|otherprop|.22 .18 .1
lamp|lamp|lamp|.35 .35 .6;table lamp|table lamp|lamp|.3 .3 .5;pillow|pillow|pillow|.5 .35 .15
blanket|blanket|otherprop|1 .7 .1;backpack|backpack|bag|.35 .25 .45;bag|bag|bag|.4 .25 .35
trash can|trash can|otherprop|.35 .3 .5;recycling bin|recycling bin|otherprop|.4 .35 .6;box|box|box|.45 .35 .3
bicycle|bicycle|otherprop|1.7 .5 1;guitar|guitar|otherprop|.4 .15 1;piano|piano|otherprop|1.5 .6 1.2
plant|plant|otherprop|.45 .45 .9;clock|clock|otherprop|.3 .06 .3;fan|fan|otherprop|.4 .4 .9
nightstand|nightstand|night stand|.5 .45 .6;dresser|dresser|dresser|1.1 .5 .9;stool|stool|chair|.4 .4 .5
whiteboard|whiteboard|whiteboard|1.8 .06 1.1;picture|picture|picture|.6 .05 .45;books|book|books|.3 .2 .15
laptop|laptop|otherprop|.35 .25 .2;bottle|bottle|otherprop|.1 .1 .28;washing machine|washing machine|otherprop|.6 .6 .85
suitcase|suitcase|otherprop|.5 .3 .7;ottoman|ottoman|otherfurniture|.6 .6 .45;rug|rug|floor mat|1.8 1.2 .02
"""
KINDS = tuple(tuple(entry.split("|")) for line in FURNITURE.split("\n") for entry in line.split(";") if entry)
SEVERAL = frozenset(
    {"office chair", "chair", "table", "cabinet", "kitchen cabinet", "shelf", "towel", "door", "doorframe", "window"}
    | {"curtain", "blinds", "monitor", "pillow", "trash can", "box", "picture", "stool", "books", "bottle", "plant"}
)  # what a room has several of
STRUCTURE = (("wall", "wall", "wall"), ("floor", "floor", "floor"))
MULTIPLE = (2, 2.9)  # labels that occur several times in a scan: at least, and on average beyond that
ONCE = (10.6, 5.6)  # labels that occur once: mean and standard deviation


@dataclass(frozen=True, eq=False)
class Item:
    """One object: a box whose third axis is its up; rows of `axes` (3, 3) are unit axes."""

    label: str
    center: np.ndarray
    size: np.ndarray
    axes: np.ndarray

    def lattice(self, spacing: float) -> np.ndarray:
        """Vertices along each axis, (3,)."""
        return np.maximum(2, np.round(self.size / spacing).astype(int) + 1)

    def point_center(self, spacing: float) -> np.ndarray:
        """The mean of the item's vertices: only the top is out of balance, by half the height."""
        x, y, z = (int(number) for number in self.lattice(spacing))
        return self.center + self.axes[2] * self.size[2] / 2 * (x * y) / (x * y + 2 * x * z + 2 * y * z)


@dataclass(frozen=True, eq=False)
class Layout:
    """A room in its aligned frame: `sides` (width, depth), less the corner `notch` (0, 0 for none), its items, and
    `alignment` (4, 4), which turns the scan into this frame."""

    id: str
    sides: tuple[float, float]
    notch: tuple[float, float]
    height: float
    items: tuple[Item, ...]
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
        boxes = [Box(i.label, i.center, i.size, i.axes, point_center=i.point_center(spacing)) for i in self.items]
        counts = Counter(item.label for item in self.items) + Counter(wall=len(self.outline), floor=1)
        area = float(np.prod(self.sides) - np.prod(self.notch))
        return Scene(self.id, "scannet", tuple(boxes), room_size=area, counts=dict(sorted(counts.items())))


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


def _place(kind: tuple, sides: tuple, notch: tuple, rng: np.random.Generator) -> Item:
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
            return Item(kind[0], center, size, axes)
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
    """The files of one scan under `root/scans/<id>`, with about so many vertices; the folder. `noise` is the standard
    deviation of every vertex in metres; `prefix` stands before the ids in the json files ("scannet." in some)."""
    spacing = layout.spacing(vertices)
    grids: list[tuple] = []  # group, corner, one side, other side, vertices along each
    for number, item in enumerate(layout.items):
        grids += [(number, *face) for face in _faces(item, spacing)]
    names = [item.label for item in layout.items]
    corners = layout.outline
    for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        along = np.array([*(b - a), 0.0])
        grids.append((len(names), np.array([*a, 0.0]), along, np.array([0, 0, layout.height]), spacing))
        names.append("wall")
    (w, d), (cut, depth) = layout.sides, layout.notch
    for z, group in ((0.0, len(names)), (layout.height, -1)):  # nobody labelled the ceiling
        grids.append((group, np.array([0, 0, z]), np.array([w - cut, 0, 0]), np.array([0, d, 0]), spacing))
        if cut and depth:
            side, front = np.array([cut, 0, 0]), np.array([0, d - depth, 0])
            grids.append((group, np.array([w - cut, 0, z]), side, front, spacing))
    names.append("floor")
    return write_files(Path(root), layout.id, grids, names, layout.alignment, noise, hires, prefix, aligned)


def _faces(item: Item, spacing: float) -> list[tuple]:
    """Top and sides: a corner, two sides and the vertices along them."""
    x, y, z = item.axes * item.size[:, None]
    counts = item.lattice(spacing)
    low = item.center - (x + y + z) / 2
    return [
        (low + z, x, y, counts[[0, 1]]),
        (low, x, z, counts[[0, 2]]),
        (low + y, x, z, counts[[0, 2]]),
        (low, y, z, counts[[1, 2]]),
        (low + x, y, z, counts[[1, 2]]),
    ]
