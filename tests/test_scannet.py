"""Raw scans whose answers are known in closed form: boxes, centres, areas and every task's ground truth."""

import json
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from raw import write_table
from scipy.spatial import ConvexHull

from vsr.questions import rules, tasks
from vsr.questions.build import build
from vsr.questions.question import Question
from vsr.scannet.files import find_scans, read_labels, scan_files
from vsr.scannet.made_up import KINDS, Layout, make_layout, write_scan
from vsr.scannet.scans import as_scene, bench_label, read_scan
from vsr.scenes.geometry import ALPHA, alpha_area, areas, minimal_box, outermost
from vsr.scenes.scene import Box

VERTICES = 12_000


def turned(yaw: float, pitch: float = 0.0) -> np.ndarray:
    """Rows: a frame turned to the left by `yaw` and tipped by `pitch`, radians."""
    c, s, up, out = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
    return np.array([[c, s, 0], [-s * up, c * up, out], [s * out, -c * out, up]])


def item(label: str, center: tuple, size: tuple, yaw: float = 0.0, pitch: float = 0.0) -> Box:
    return Box(label, np.array(center, dtype=float), np.array(size, dtype=float), turned(yaw, pitch))


def room(*items: Box, notch: tuple = (0.0, 0.0), name: str = "scene0000_00") -> Layout:
    alignment = np.eye(4)
    alignment[:3, :3], alignment[:3, 3] = turned(0.6).T, (1.3, -2.2, 0.1)
    return Layout(name, (6.0, 5.0), notch, 2.6, items, alignment)


FURNISHED = (
    item("bed", (1.5, 1.2, 0.3), (2.0, 1.6, 0.6)),
    item("couch", (4.5, 1.0, 0.4), (1.8, 0.8, 0.8), yaw=0.5),
    item("lamp", (0.6, 4.4, 0.8), (0.3, 0.3, 1.6)),
    item("desk", (4.8, 4.2, 0.37), (1.4, 0.7, 0.74), yaw=-0.2),
    item("tv", (3.0, 4.7, 1.2), (1.1, 0.06, 0.65), pitch=0.2),
    item("chair", (2.8, 2.5, 0.45), (0.5, 0.5, 0.9)),
    item("chair", (3.8, 3.0, 0.45), (0.5, 0.5, 0.9), yaw=1.0),
    item("chair", (3.3, 2.0, 0.45), (0.5, 0.5, 0.9), yaw=2.0),
)


@pytest.fixture
def scan(tmp_path):
    layout = room(*FURNISHED)
    return read_scan(scan_files(write_scan(tmp_path, layout, VERTICES))), layout


def ask(scene, rule_set, kind: str, **fields: str) -> str:
    text = rule_set.templates[kind].fill(**fields)
    return tasks.truth(scene, rule_set, Question("q", "scannet", scene.id, kind, text, None, ""))


def naive_center(thing: Box, spacing: float) -> np.ndarray:
    """The mean of the vertices of the top and the sides, placed one by one."""
    counts = [max(2, round(side / spacing) + 1) for side in thing.size]
    xs, ys, zs = (np.linspace(-side / 2, side / 2, n) for side, n in zip(thing.size, counts, strict=True))
    found = [(x, y, zs[-1]) for x in xs for y in ys]
    found += [(x, y, z) for x in xs for y in (ys[0], ys[-1]) for z in zs]
    found += [(x, y, z) for x in (xs[0], xs[-1]) for y in ys for z in zs]
    return thing.center + np.mean(found, axis=0) @ thing.axes


def test_every_task_of_the_paper_is_exact(scan):
    found, layout = scan
    scene, paper = as_scene(found, "vsi100k", {}), rules.VSI100K
    assert ask(scene, paper, "object_counting", label="chair") == "3"
    assert scene.labelled("bed")[0].center == pytest.approx([1.5, 1.2, 0.3], abs=1e-5)  # aligned
    sizes = {"bed": "200", "couch": "180", "lamp": "160", "desk": "140", "tv": "110"}
    assert {label: ask(scene, paper, "object_size_estimation", label=label) for label in sizes} == sizes
    assert ask(scene, paper, "room_size_estimation") == "30.0"
    spacing = layout.spacing(VERTICES)
    middle = {thing.label: naive_center(thing, spacing) for thing in FURNISHED if thing.label != "chair"}
    for one, other in permutations(middle, 2):
        metres = np.linalg.norm(middle[one] - middle[other])
        assert ask(scene, paper, "object_abs_distance", one=one, other=other) == f"{metres:.1f}", (one, other)
    assert ask(scene, paper, "object_rel_distance", options="lamp, desk, tv, couch", target="bed") == "couch"
    assert ask(scene, paper, "object_rel_distance", options="lamp, desk, bed, couch", target="tv") == "desk"
    left = {"stand": "bed", "face": "couch", "query": "tv"}
    assert ask(scene, paper, "object_rel_direction", **left) == "left"
    assert ask(scene, paper, "object_rel_direction", **{**left, "face": "tv", "query": "couch"}) == "right"


def test_the_benchmarks_tasks_too(scan):
    found, _ = scan
    labels = {kind["raw_category"]: (kind["category"], kind["nyu40class"]) for kind in KINDS}
    scene, bench = as_scene(found, "vsibench", labels), rules.VSIBENCH
    assert scene.counts == {"bed": 1, "chair": 3, "lamp": 1, "sofa": 1, "table": 1, "tv": 1}
    assert ask(scene, bench, "object_size_estimation", label="sofa") == "180"
    assert ask(scene, bench, "object_counting", label="chair") == "3"
    metres = float(ask(scene, bench, "object_abs_distance", one="bed", other="lamp"))
    assert metres == pytest.approx(np.hypot(0, 4.25 - 2.0), abs=0.06)  # the rule samples points 5 cm apart
    ahead = {"stand": "bed", "face": "sofa", "query": "tv"}
    assert ask(scene, bench, "object_rel_direction_hard", **ahead) == "front-left"
    assert ask(scene, bench, "object_rel_direction_medium", **{**ahead, "stand": "tv", "face": "bed"}) == "left"
    assert ask(scene, bench, "room_size_estimation") == "30.0"


@pytest.mark.parametrize("seed", range(3))
def test_generated_scans_are_read_as_they_were_laid_out(tmp_path, seed):
    layout = make_layout(f"scene{seed:04d}_00", seed)
    scan = read_scan(scan_files(write_scan(tmp_path, layout, 30_000)))
    truth = layout.truth(30_000)
    assert scan.scene.counts == truth.counts
    assert scan.notes == ()
    for read, real in zip(scan.scene.objects, truth.objects, strict=False):
        assert read.label == real.label
        assert np.sort(read.size) == pytest.approx(np.sort(real.size), abs=1e-4)  # the issue asks for 1 cm
        assert read.center == pytest.approx(real.center, abs=1e-4)
        assert read.middle == pytest.approx(real.middle, abs=1e-4)
        assert np.abs(read.axes @ read.axes.T) == pytest.approx(np.eye(3), abs=1e-9)
    assert scan.areas["vsibench"] == pytest.approx(truth.room_size, rel=0.01)
    hull = ConvexHull(layout.outline).volume  # discs of 10 m do not reach into a corner that is cut out
    assert scan.areas["vsi100k"] == pytest.approx(hull, rel=0.01)
    known = [q for q in build([truth], "vsi100k") if q.question_type != "room_size_estimation"]
    read = as_scene(scan, "vsi100k", {})
    assert known
    assert [tasks.truth(read, rules.VSI100K, q) for q in known] == [q.ground_truth for q in known]


def test_noise_of_a_scanner_keeps_boxes_within_a_centimetre(tmp_path):
    layout = room(*FURNISHED)
    scan = read_scan(scan_files(write_scan(tmp_path, layout, VERTICES, noise=0.001)))
    for read, real in zip(scan.scene.objects, FURNISHED, strict=False):
        assert np.sort(read.size) == pytest.approx(np.sort(real.size), abs=0.01)
        assert read.center == pytest.approx(real.center, abs=0.01)


def hires(folder):
    """The files under the names of the hi-res set."""
    for path in list(folder.iterdir()):
        name = path.name.replace("_vh_clean_2.0.010000", "_vh_clean").replace("_vh_clean_2", "_vh_clean")
        renamed = path.rename(folder / name.replace("_00.aggregation", "_00_vh_clean.aggregation"))
        if renamed.suffix == ".json":
            text = renamed.read_text().replace("_vh_clean_2.0.010000", "_vh_clean")
            renamed.write_text(text)


def prefixed(folder):
    """Ids with a prefix, as in some copies."""
    for path in folder.glob("*.json"):
        path.write_text(path.read_text().replace('"scene0000_00', '"scannet.scene0000_00'))


def unaligned(folder):
    """ScanNet's test scans lack the line."""
    path = folder / "scene0000_00.txt"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))


@pytest.mark.parametrize("change", [hires, prefixed, unaligned])
def test_all_forms_of_the_files_give_the_same_answers(tmp_path, change):
    layout = room(*FURNISHED)
    if change is unaligned:
        layout = replace(layout, alignment=np.eye(4))
    plain = read_scan(scan_files(write_scan(tmp_path / "a", layout, VERTICES)))
    folder = write_scan(tmp_path / "b", layout, VERTICES)
    change(folder)
    other = read_scan(scan_files(folder))
    scenes = [as_scene(scan, "vsi100k", {}) for scan in (plain, other)]
    for question in build(scenes[:1], "vsi100k"):
        assert tasks.truth(scenes[1], rules.VSI100K, question) == question.ground_truth
    assert other.notes == (("no axisAlignment: left as scanned",) if change is unaligned else ())


def test_an_object_without_points_of_its_own_is_not_counted(tmp_path):
    """Every object listed twice with the same segments, as in ScanNet's scene0217_00."""
    folder = write_scan(tmp_path, room(*FURNISHED), VERTICES)
    once = read_scan(scan_files(folder))
    path = folder / "scene0000_00.aggregation.json"
    content = json.loads(path.read_text())
    groups = content["segGroups"]
    groups += [group | {"objectId": group["objectId"] + len(groups)} for group in groups]
    path.write_text(json.dumps(content))
    twice = read_scan(scan_files(folder))
    assert twice.scene.counts == once.scene.counts
    assert build([as_scene(twice, "vsi100k", {})], "vsi100k") == build([as_scene(once, "vsi100k", {})], "vsi100k")


def test_the_lowest_files_win_unless_only_the_finer_ones_are_whole(tmp_path):
    folder = write_scan(tmp_path, room(*FURNISHED), 2 * VERTICES)
    hires(folder)
    write_scan(tmp_path, room(*FURNISHED), VERTICES)
    assert scan_files(folder).mesh.name == "scene0000_00_vh_clean_2.ply"
    (folder / "scene0000_00.aggregation.json").unlink()
    assert scan_files(folder).mesh.name == "scene0000_00_vh_clean.ply"
    (folder / "scene0000_00_vh_clean.aggregation.json").unlink()
    assert scan_files(folder).missing() == ["scene0000_00.aggregation.json"]
    assert list(find_scans(tmp_path)) == ["scene0000_00"]
    assert list(find_scans(tmp_path / "scans")) == ["scene0000_00"]


def test_labels_of_the_benchmark(tmp_path):
    labels = read_labels(write_table(tmp_path))
    assert len(labels) == len(KINDS) + 2  # the last rows, which lack some fields, are there
    wanted = {
        "office chair": "chair", "couch": "sofa", "coffee table": "table", "desk": "table", "monitor": "monitor",
        "kitchen counter": "counter", "refrigerator": "refrigerator", "trash can": "trash bin", "cabinet": None,
        "recycling bin": "trash bin", "mouse": "computer mouse", "table lamp": None, "wall": None, "unheard of": None,
    }  # fmt: skip
    assert {raw: bench_label(raw, labels) for raw in wanted} == wanted


@given(st.integers(0, 2**32 - 1), st.integers(5, 60))
@settings(max_examples=40, deadline=None)
def test_minimal_box_is_no_larger_than_open3ds_and_holds_all_points(seed, number):
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(number, 3)) * rng.uniform(0.1, 2, 3) + rng.uniform(-5, 5, 3)
    center, size, axes = minimal_box(points)
    inside = np.abs((points - center) @ axes.T) <= size / 2 + 1e-9
    assert inside.all()
    assert np.prod(size) <= open3d_volume(points) * (1 + 1e-9)
    assert np.prod(minimal_box(points[::-1] @ turned(1.0, 0.3) + 3)[1]) == pytest.approx(np.prod(size), rel=1e-6)


def open3d_volume(points: np.ndarray) -> float:
    """Open3D's rule as it is written: for every hull triangle one box, along its first edge and its normal."""
    hull, best = ConvexHull(points), np.inf
    for a, b, c in points[hull.simplices]:
        u, w = b - a, np.cross(b - a, c - a)
        frame = np.array([axis / np.linalg.norm(axis) for axis in (u, np.cross(w, u), w)])
        best = min(best, np.prod(np.ptp(points @ frame.T, axis=0)))
    return best


def test_minimal_box_beside_trimesh():
    """trimesh tries more rectangles a facet: a little smaller on noise, the same on a box."""
    rng = np.random.default_rng(0)
    box = np.array([[x, y, z] for x in (0, 1) for y in (0, 0.6) for z in (0, 0.4)]) @ turned(0.7, 0.4)
    assert np.prod(minimal_box(box)[1]) == pytest.approx(0.24, rel=1e-6)
    cloud = np.repeat(box, 50, axis=0) + rng.normal(0, 0.01, (400, 3))
    ours, theirs = np.prod(minimal_box(cloud)[1]), np.prod(trimesh.bounds.oriented_bounds(cloud)[1])
    assert theirs * 0.999 <= ours <= theirs * 1.1


def test_flat_and_straight_objects():
    flat = np.array([[x, y, 0] for x in np.linspace(0, 1, 9) for y in np.linspace(0, 0.5, 9)]) @ turned(0.3, 0.8)
    center, size, _ = minimal_box(flat)
    assert np.sort(size) == pytest.approx([0.001, 0.5, 1.0], abs=1e-6)
    assert center == pytest.approx(flat.mean(axis=0))
    for few in (np.zeros((0, 3)), np.zeros((2, 3)), np.ones((50, 3)), np.linspace(0, 1, 9)[:, None] * [1, 2, 3]):
        assert minimal_box(few) is None


def cloud(seed: int, number: int) -> np.ndarray:
    """Points of a room of random outline, with walls that are thick with noise and some strewn about."""
    rng = np.random.default_rng(seed)
    sides = rng.uniform(2, 30, 2)
    points = rng.uniform(0, sides, (number, 2))
    points = points[(points > sides * rng.uniform(0.3, 0.9, 2)).sum(axis=1) < 2]
    wall = np.stack([rng.uniform(0, sides[0], number), rng.normal(0, 0.02, number)], axis=1)
    return np.concatenate([points, wall, rng.uniform(0, 1.2 * sides, (5, 2))])


@given(st.integers(0, 2**32 - 1), st.sampled_from([50, 2000, 8000]))
@settings(max_examples=8, deadline=None)
def test_points_left_out_never_change_the_alpha_shape(seed, number):
    points = cloud(seed, number)
    kept = outermost(points, ALPHA)
    assert alpha_area(kept, ALPHA) == pytest.approx(alpha_area(points, ALPHA), rel=1e-12)
    assert outermost(points, 5.0) is points  # too small a disc for that: all points stay


def test_areas_under_both_rules_are_stable(tmp_path):
    """An L-shaped room: the paper's alpha closes the corner, VSI-Bench's follows it; neither hangs on a seed."""
    layout = room(*FURNISHED[:1], notch=(2.0, 1.5))
    folder = write_scan(tmp_path, layout, 25_000, noise=0.002)
    points = np.asarray(trimesh.load(folder / "scene0000_00_vh_clean_2.ply", process=False).vertices)
    found = areas(points, "scene0000_00")
    assert found == areas(points, "scene0000_00")
    assert found["vsi100k"] == pytest.approx(30.0 - 2.0 * 1.5 / 2, rel=0.01)
    assert found["vsibench"] == pytest.approx(30.0 - 2.0 * 1.5, rel=0.01)
    drawn = [areas(points, f"scene{k:04d}_00")["vsibench"] for k in range(4)]
    assert np.ptp(drawn) / np.mean(drawn) < 0.01
    assert len(outermost(points[:, :2], ALPHA)) < 0.6 * len(points)  # denser scans lose more
    shuffled = np.random.default_rng(0).permutation(points)
    assert areas(shuffled, "scene0000_00")["vsi100k"] == pytest.approx(found["vsi100k"], rel=1e-12)
