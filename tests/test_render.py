"""The ray-caster against geometry done by hand, and mp4 files against the frames they were made from."""

import dataclasses
import math

import av
import numpy as np
import pytest
from rays import project

from vsr.errors import VsrError
from vsr.miniature.catalogue import CATALOGUE, PALETTES, colour_of
from vsr.miniature.procedural import make_room
from vsr.miniature.render import render, visible, with_camera
from vsr.scenes.scene import Box, Camera, Scene
from vsr.video import encode_mp4, write_mp4

LEVEL = Camera(np.array([[0.0, 0.0, 1.0]]), np.zeros(1), np.zeros(1), math.pi / 2)
HALL = np.array([[-6.0, -5.0], [6.0, -5.0], [6.0, 5.0], [-6.0, 5.0]])


def one(shape="box", center=(3.0, 0.0, 1.0), size=(1.0, 1.0, 1.0), axes=None, label="thing"):
    box = Box(label, np.array(center), np.array(size), np.eye(3) if axes is None else np.array(axes), shape)
    return Scene("hall", "test", (box,), floor=HALL, camera=LEVEL)


def test_box_depth_and_width_are_exact():
    frames = render(one(), 200, 200, samples=1)
    assert frames.depth[0, 100, 100] == pytest.approx(2.5)
    assert frames.ids[0, 100, 100] == 0
    row = np.flatnonzero(frames.ids[0, 100] == 0)  # 1 m wide at 2.5 m, 90 degrees: 200 * 1 / 5 pixels
    assert len(row) == 40
    assert frames.depth[0, 100, 5] == pytest.approx(5 / (1 - 2 * 5.5 / 200), rel=1e-6)  # the north wall


@pytest.mark.parametrize(
    ("shape", "share"), [("box", 1.0), ("ellipsoid", math.pi / 4), ("cylinder", 1.0), ("disc", 1.0)]
)
def test_silhouettes_cover_their_share(shape, share):
    """Far away, a unit shape seen from the side covers its share of the unit square (perspective: within 4 %)."""
    far = np.array([[-40.0, -40], [80, -40], [80, 40], [-40, 40]])
    scene = dataclasses.replace(one(shape, (50.0, 0.0, 1.0)), floor=far, height=20.0)
    scene = dataclasses.replace(scene, camera=dataclasses.replace(LEVEL, fov=0.03))
    count = (render(scene, 300, 300, samples=1).ids == 0).sum()
    pixels = (300 / (2 * math.tan(0.015) * 50)) ** 2
    assert count == pytest.approx(share * pixels, rel=0.04)


@pytest.mark.parametrize("shape", ["box", "ellipsoid", "cylinder"])
def test_same_as_brute_force(shape):
    """Points of a dense grid in a turned shape, projected by hand, fall on its pixels and on no others."""
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
    scene = one(shape, (3.0, 0.4, 1.2), (1.6, 0.9, 0.6), turn)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 101)] * 3, indexing="ij"), -1).reshape(-1, 3)
    inside = {"box": np.ones(len(grid), bool), "ellipsoid": (grid**2).sum(1) <= 1}
    inside["cylinder"] = (grid[:, :2] ** 2).sum(1) <= 1
    box = scene.objects[0]
    points = box.center + (grid[inside[shape]] * box.size / 2) @ box.axes
    columns, rows, _ = np.floor(project(scene.camera, 0, points, 96, 64)).astype(int).T
    mask = np.zeros((64, 96), bool)
    mask[rows, columns] = True
    drawn = render(scene, 96, 64, samples=1).ids[0] == 0
    assert not (drawn & ~mask).any()
    inner = mask[1:-1, 1:-1] & mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:]
    assert drawn[1:-1, 1:-1][inner].all()


def test_centres_project_to_their_own_ids():
    """Where the centre of a box-shaped object is not hidden, its pixel carries its id."""
    hits = 0
    for seed in range(12):
        room = make_room(seed)
        boxes = tuple(dataclasses.replace(box, shape="box") for box in room.objects)
        room = dataclasses.replace(room, objects=boxes)
        frames = render(room, 56, 84, samples=1)
        centres = np.array([box.center for box in boxes])
        for t in range(0, len(room.camera), 2):
            for index, (x, y, depth) in enumerate(project(room.camera, t, centres, 56, 84)):
                if depth > 0 and 0 <= x < 56 and 0 <= y < 84:
                    found = frames.ids[t, int(y), int(x)]
                    assert found == index or frames.depth[t, int(y), int(x)] < depth
                    hits += found == index
    assert hits > 100


def test_visible_counts_the_id_buffer():
    room = make_room(2)
    ids = render(room, 84, 56, samples=1).ids
    by_hand = [[(frame == index).sum() for index in range(len(room.objects))] for frame in ids]
    np.testing.assert_array_equal(visible(room, 84, 56), by_hand)


def test_turning_room_and_camera_together_changes_nothing_seen():
    room = make_room(4)
    angle = 0.7
    turn = np.array([[math.cos(angle), math.sin(angle), 0], [-math.sin(angle), math.cos(angle), 0], [0, 0, 1]])
    boxes = tuple(dataclasses.replace(b, center=b.center @ turn, axes=b.axes @ turn) for b in room.objects)
    camera = dataclasses.replace(room.camera, position=room.camera.position @ turn, yaw=room.camera.yaw + angle)
    turned = dataclasses.replace(room, objects=boxes, camera=camera, floor=room.floor @ turn[:2, :2])
    before, after = render(room, 84, 56), render(turned, 84, 56)
    assert (before.ids != after.ids).mean() < 0.002
    np.testing.assert_allclose(np.median(np.abs(before.depth - after.depth)), 0, atol=1e-4)


def test_rendering_repeats_and_held_poses_are_equal():
    room = make_room(1)
    first, second = render(room, 84, 56), render(room, 84, 56)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(first.rgb[0], first.rgb[1])
    assert (first.rgb[0] != first.rgb[2]).any()
    assert np.isfinite(first.depth).all()


def test_antialiasing_keeps_the_mean():
    room = make_room(1)
    coarse, fine = render(room, 84, 56, samples=1).rgb, render(room, 84, 56, samples=4).rgb
    assert abs(coarse.mean() - fine.mean()) < 1.0
    assert np.abs(coarse.astype(int) - fine).mean() < 8


def test_kinds_and_headings_can_be_told_apart():
    """Mean colours of the categories' pictures, and of a palette's four walls, are far enough apart to be learnt."""
    means = []
    for label, kind in CATALOGUE.items():
        width, depth, height = kind.extents
        scene = one(label, (2.5, 0.0, 1.0), (width, depth, height), [[0, 1, 0], [-1, 0, 0], [0, 0, 1]], label)
        frames = render(scene, 84, 56)
        means.append([*frames.rgb[frames.ids == 0].mean(0), 300 * (width - height)])
    gaps = np.linalg.norm(np.array(means)[:, None] - np.array(means), axis=-1) + 1000 * np.eye(len(means))
    assert gaps.min() > 25
    for palette in PALETTES:
        walls = np.array(palette.walls, float)
        assert (np.linalg.norm(walls[:, None] - walls, axis=-1) + 1000 * np.eye(4)).min() > 30


def test_broken_box_names_scene_and_object():
    for name, value in (("center", [math.nan, 0, 0]), ("size", [1, math.inf, 1]), ("size", [1, -1, 1])):
        scene = one()
        broken = dataclasses.replace(scene.objects[0], **{name: np.array(value)})
        for floor in (HALL, None):
            with pytest.raises(VsrError, match="scene hall: object 0 'thing'"):
                render(dataclasses.replace(scene, objects=(broken,), floor=floor), 84, 56)
    with pytest.raises(VsrError, match="shape 'blob'"):
        render(one("blob"), 84, 56)


def test_a_scan_gets_a_room_and_a_camera():
    turn = np.array([[0.8, 0.6, 0], [-0.6, 0.8, 0], [0, 0, 1.0]])
    boxes = (
        Box("sofa", np.array([1.0, 2.0, -0.1]), np.array([0.8, 0.9, 2.0]), turn[[2, 1, 0]]),  # height, depth, width
        Box("guitar", np.array([3.0, 0.0, 0.2]), np.array([0.4, 0.1, 1.0]), turn),
    )
    scene = with_camera(Scene("scan", "scannet", boxes))
    np.testing.assert_allclose(scene.objects[0].size, [2.0, 0.9, 0.8])
    assert scene.objects[0].shape == "sofa"
    assert min(box.corners()[:, 2].min() for box in scene.objects) == pytest.approx(0)
    assert visible(scene, 84, 56).max(0).min() > 20
    assert colour_of("guitar") == colour_of("guitar") != colour_of("piano")
    with pytest.raises(VsrError, match="neither objects nor a floor"):
        with_camera(Scene("void", "scannet", ()))


@pytest.mark.slow
def test_real_scans_render(shared):
    from vsr.scenes.metainfo import read_scenes

    for scene in read_scenes(shared / "scannet_meta_info_val.json"):
        seen = visible(with_camera(scene), 84, 56)
        assert (seen.max(0) > 0).mean() > 0.5


def decoded(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])


def test_mp4_keeps_frames_and_colours(tmp_path):
    frames = render(make_room(0), 84, 56)
    write_mp4(tmp_path / "a.mp4", frames.rgb, 2)
    write_mp4(tmp_path / "b.mp4", frames.rgb, 2)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    back = decoded(tmp_path / "a.mp4").astype(int)
    assert back.shape == frames.rgb.shape
    assert np.abs(back - frames.rgb).mean() < 4
    assert np.abs(back.mean((1, 2)) - frames.rgb.mean((1, 2))).max() < 2  # no shift of colours


def test_mp4_is_whole_or_absent(tmp_path, monkeypatch):
    rgb = np.zeros((2, 56, 84, 3), np.uint8)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vsr.files.os.replace", full)
    with pytest.raises(VsrError, match=r"a\.mp4.*No space left"):
        write_mp4(tmp_path / "a.mp4", rgb, 2)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(VsrError, match="even sides"):
        encode_mp4(rgb[:, :55], 2)
