"""The meta_info door on the real file and on damaged ones."""

import copy
import json
import math

import numpy as np
import pytest

from vsr.errors import VsrError
from vsr.scenes.metainfo import read_scenes

BOX = {"centroid": [1.0, 2.0, 0.5], "axesLengths": [0.5, 0.6, 0.9], "normalizedAxes": [0, 1, 0, -1, 0, 0, 0, 0, 1]}
MOVED = {**BOX, "centroid": [3.0, 2.0, 0.5]}
ENTRY = {"dataset": "scannet", "room_size": 12.5, "object_counts": {"chair": 2, "clock": 1}}
ENTRY["object_bbox"] = {"chair": [BOX, MOVED, BOX]}


def write(path, scenes) -> str:
    path.write_text(json.dumps(scenes))
    return path


def test_reads_boxes_counts_and_size(tmp_path):
    (scene,) = read_scenes(write(tmp_path / "meta.json", {"s1": ENTRY}))
    assert (scene.id, scene.dataset, scene.room_size, scene.counts) == ("s1", "scannet", 12.5, {"chair": 2, "clock": 1})
    assert [box.center[0] for box in scene.objects] == [1.0, 3.0]  # the exact repetition is gone
    np.testing.assert_array_equal(scene.objects[0].axes[0], [0, 1, 0])


FIRST = ("object_bbox", "chair", 0)


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("room_size",), None, "'room_size' is missing"),
        (("object_bbox",), None, "'object_bbox' is missing"),
        (("room_size",), math.nan, "room_size = nan"),
        (("room_size",), -3, "room_size = -3"),
        (("room_size",), "12", "room_size = '12'"),
        (("object_counts",), {"chair": 1.5}, "object_counts = {'chair': 1.5}"),
        (("object_bbox",), [], r"object_bbox = \[\]"),
        ((*FIRST, "centroid"), [1, math.nan, 2], r"\['chair'\]\[0\]: centroid = \[1, nan, 2\]"),
        ((*FIRST, "centroid"), [1, 2], r"centroid = \[1, 2\], expected 3 finite numbers"),
        ((*FIRST, "axesLengths"), None, "axesLengths = None"),
        ((*FIRST, "axesLengths"), [1, 0, 2], r"axesLengths = \[1, 0, 2\], expected 3 positive"),
        ((*FIRST, "normalizedAxes"), [1.0] * 9, "normalizedAxes = .* orthogonal"),
        ((*FIRST, "normalizedAxes"), ["a"] * 9, "normalizedAxes = .* 9 finite"),
        (FIRST, 7, "box = 7"),
    ],
)
def test_a_bad_value_is_named_with_file_scene_and_remedy(tmp_path, path, value, says):
    target = entry = copy.deepcopy(ENTRY)
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    if value is None:
        del target[path[-1]]
    path = write(tmp_path / "meta.json", {"s1": entry})
    with pytest.raises(VsrError, match=says) as error:
        read_scenes(path)
    assert str(path) in str(error.value)
    assert "scene s1" in str(error.value)
    assert "mend the file" in str(error.value)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"s1": 3}', ""])
def test_a_file_that_is_no_scene_file_is_an_error(tmp_path, content):
    path = tmp_path / "meta.json"
    path.write_text(content)
    with pytest.raises(VsrError, match=r"meta\.json"):
        read_scenes(path)


def test_the_real_file(shared):
    scenes = read_scenes(shared / "scannet_meta_info_val.json")
    raw = json.loads((shared / "scannet_meta_info_val.json").read_text())
    assert len(scenes) == 88
    for scene in scenes:
        for label, boxes in raw[scene.id]["object_bbox"].items():
            found = scene.labelled(label)
            assert len(found) == len(boxes) or label == "printer"  # which the file repeats
            for box, given in zip(found, boxes, strict=False):
                # the file's own axis-aligned bounds fix the convention of the axes
                np.testing.assert_allclose(box.corners().min(0), given["min"], atol=1e-9)
                np.testing.assert_allclose(box.corners().max(0), given["max"], atol=1e-9)
