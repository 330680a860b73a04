"""The damages that tests do to a scan's files: which file, how, and what the error must say."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np

NAME = "scene0000_00"
MESH, SEGMENTS = f"{NAME}_vh_clean_2.ply", f"{NAME}_vh_clean_2.0.010000.segs.json"
GROUPS, INFO = f"{NAME}.aggregation.json", f"{NAME}.txt"
HIRES = f"{NAME}_vh_clean.segs.json"
HEADER = b"end_header\n"


def cut(keep: float) -> Callable[[bytes], bytes]:
    return lambda data: data[: int(keep * len(data))]


def swap(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        assert old in data
        return data.replace(old, new, 1)

    return change


def vertex(value: float) -> Callable[[bytes], bytes]:
    """Another x for vertex 7."""

    def change(data: bytes) -> bytes:
        at = data.index(HEADER) + len(HEADER) + 7 * 16
        return data[:at] + struct.pack("<f", value) + data[at + 4 :]

    return change


def count(change: int, element: bytes = b"vertex") -> Callable[[bytes], bytes]:
    """A header that counts otherwise."""

    def damage(data: bytes) -> bytes:
        start = data.index(b"element " + element) + len(b"element " + element) + 1
        end = data.index(b"\n", start)
        return data[:start] + str(max(0, int(data[start:end]) + change)).encode() + data[end:]

    return damage


def edit(change: Callable[[dict], object]) -> Callable[[bytes], bytes]:
    """Another json value."""

    def damage(data: bytes) -> bytes:
        content = json.loads(data)
        new = change(content)
        return json.dumps(content if new is None else new).encode()

    return damage


def put(content: dict, *path: str | int, value: object) -> None:
    for step in path[:-1]:
        content = content[step]
    content[path[-1]] = value


def line(text: str) -> Callable[[bytes], bytes]:
    """Another axisAlignment."""
    return lambda data: f"axisAlignment = {text}\n".encode()


def utf16(data: bytes) -> bytes:
    return data.decode().encode("utf-16")


SQUEEZED = " ".join(map(str, np.diag([1, 1, 0.5, 1]).ravel()))
DAMAGE = {
    "mesh missing": (MESH, None, f"{MESH} missing; download"),
    "mesh empty": (MESH, lambda _: b"", "not a whole ply mesh|not a readable ply mesh"),
    "mesh cut in the header": (MESH, cut(0.00002), "not a whole ply mesh|not a readable ply mesh"),
    "mesh cut in the vertices": (MESH, cut(0.2), "element 'vertex'.*early end-of-file"),
    "mesh cut in the faces": (MESH, cut(0.9), "element 'face'.*early end-of-file"),
    "mesh is a text": (MESH, lambda _: b"<html>404</html>" * 99, "expected 'ply'"),
    "mesh in utf-16": (MESH, lambda _: "ply\n".encode("utf-16"), "not a (whole|readable) ply mesh"),
    "mesh counts too many vertices": (MESH, count(10**9), "element 'vertex'.*early end-of-file"),
    "mesh counts more vertices than there are": (MESH, count(5), "element 'face'|segIndices"),
    "mesh counts fewer vertices than there are": (MESH, count(-5), "element 'face'.*unexpected list length"),
    "mesh counts no vertices": (MESH, lambda d: d[: d.index(b"element v")] + b"element vertex 0\nproperty float x\n"
                                b"property float y\nproperty float z\nend_header\n", "has no vertices"),
    "mesh counts too many faces": (MESH, count(99, b"face"), "element 'face'.*early end-of-file"),
    "mesh without z": (MESH, swap(b"property float z", b"property float h"), "no field of name z"),
    "mesh without vertices' element": (MESH, swap(b"element vertex", b"element points"), "no element 'vertex'"),
    "mesh with an unknown type": (MESH, swap(b"property float z", b"property quad z"), "not a whole ply mesh"),
    "mesh with NaN": (MESH, vertex(np.nan), r"vertex 7 is \(nan, .*1 in all are not finite"),
    "mesh with infinity": (MESH, vertex(-np.inf), r"vertex 7 is \(-inf"),
    "segments missing": (SEGMENTS, None, f"{SEGMENTS} missing"),
    "segments empty": (SEGMENTS, lambda _: b"", "not valid json"),
    "segments cut": (SEGMENTS, cut(0.5), "not valid json.*cut short"),
    "segments in utf-16": (SEGMENTS, utf16, "not valid utf-8"),
    "segments shorter than vertices": (SEGMENTS, edit(lambda c: put(c, "segIndices", value=c["segIndices"][:-3])),
                                       r"segIndices has \d+ entries, the mesh \d+ vertices"),
    "segments of another scan": (SEGMENTS, edit(lambda c: put(c, "sceneId", value="scene0707_00")),
                                 "sceneId = 'scene0707_00', expected scene0000_00"),
    "segments without the field": (SEGMENTS, edit(lambda c: c.pop("segIndices") and None), "'segIndices' is missing"),
    "segments with text": (SEGMENTS, edit(lambda c: put(c, "segIndices", 3, value="x")), r"segIndices\[3\] = 'x'"),
    "segments with a fraction": (SEGMENTS, edit(lambda c: put(c, "segIndices", 3, value=0.5)), "= 0.5, expected"),
    "segments with a negative": (SEGMENTS, edit(lambda c: put(c, "segIndices", 3, value=-1)), r"segIndices\[3\] = -1"),
    "segments with a huge number": (SEGMENTS, edit(lambda c: put(c, "segIndices", 3, value=10**30)), "= 1000000"),
    "segments with a list": (SEGMENTS, edit(lambda c: put(c, "segIndices", 3, value=[1])), r"segIndices\[3\] = \[1\]"),
    "segments are a list": (SEGMENTS, edit(lambda c: c["segIndices"]), "the file is a list.*expected an object"),
    "segments nested too deep": (SEGMENTS, lambda _: b"[" * 200_000, "nested too deep"),
    "groups missing": (GROUPS, None, f"{GROUPS} missing"),
    "groups cut": (GROUPS, cut(0.7), "not valid json.*cut short"),
    "groups in latin-1": (GROUPS, lambda d: d.replace(b'"label": "', '"label": "café'.encode("latin-1")),
                          "not valid utf-8"),
    "groups of another scan": (GROUPS, edit(lambda c: put(c, "sceneId", value="scannet.scene0707_00")), "sceneId"),
    "groups of the other resolution": (GROUPS, edit(lambda c: put(c, "segmentsFile", value=HIRES)),
                                       "segmentsFile = .*lo-res and hi-res files mixed"),
    "groups without the field": (GROUPS, edit(lambda c: c.pop("segGroups") and None), "'segGroups' is missing"),
    "groups are an object": (GROUPS, edit(lambda c: put(c, "segGroups", value={})), "'segGroups' is an object"),
    "group is a number": (GROUPS, edit(lambda c: put(c, "segGroups", 2, value=5)), r"segGroups\[2\] is a number"),
    "duplicate ids": (GROUPS, edit(lambda c: put(c, "segGroups", 2, "objectId", value=0)),
                      r"segGroups\[2\]: objectId 0 is also segGroups\[0\]'s"),
    "id is text": (GROUPS, edit(lambda c: put(c, "segGroups", 2, "objectId", value="two")), r"objectId = 'two'"),
    "label is missing": (GROUPS, edit(lambda c: c["segGroups"][2].pop("label") and None), "label = None"),
    "label is blank": (GROUPS, edit(lambda c: put(c, "segGroups", 2, "label", value=" ")), r"\[2\]: label = ' '"),
    "segments of a group are text": (GROUPS, edit(lambda c: put(c, "segGroups", 2, "segments", value="1 2")),
                                     r"segGroups\[2\]: segments = '1 2'"),
    "segments of a group are null": (GROUPS, edit(lambda c: put(c, "segGroups", 2, "segments", 0, value=None)),
                                     r"segGroups\[2\]: segments = \[None"),
    "alignment of 15 numbers": (INFO, line("1 " * 15), "axisAlignment has 15 values, expected 16"),
    "alignment with text": (INFO, line("a " * 16), "axisAlignment = 'a a"),
    "alignment with NaN": (INFO, line("nan " * 16), "axisAlignment has 16 values, expected 16 finite"),
    "alignment that squeezes": (INFO, line(SQUEEZED), "axisAlignment is no rotation"),
    "info is a picture": (INFO, lambda _: b"\x89PNG\xff\xfe", "not a text file"),
}  # fmt: skip


def damaged_copy(whole: Path, folder: Path, file: str, damage: Callable | None, name: str = NAME) -> Path:
    """A copy of the scan under another id with one damaged file."""
    shutil.copytree(whole, folder)
    target = folder / file
    if damage is None:
        target.unlink()
    else:
        target.write_bytes(damage(target.read_bytes()))
    for path in folder.iterdir():
        if name != NAME:
            data = path.read_bytes()
            path.with_name(path.name.replace(NAME, name)).write_bytes(data.replace(NAME.encode(), name.encode()))
            path.unlink()
    return folder
