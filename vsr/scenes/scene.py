"""What every scene is, whichever door it came through."""

from dataclasses import dataclass, field

import numpy as np

from vsr.errors import VsrError


@dataclass(frozen=True, eq=False)
class Box:
    """One labelled object as an oriented box; metres, world z up.

    `center` (3,), `size` (3,) full extents along `axes`, whose ROW i is unit axis i (3, 3), as in VSI-Bench's
    meta_info. `shape` says how the renderer draws it (box, ellipsoid, cylinder, or a kind of the catalogue).
    `point_center` (3,) is the mean of the object's points where a scan gives it (the paper's "geometric centre of
    the point cloud"), else the box centre.
    """

    label: str
    center: np.ndarray
    size: np.ndarray
    axes: np.ndarray
    shape: str = "box"
    point_center: np.ndarray | None = None

    def corners(self) -> np.ndarray:
        """The eight corners, (8, 3)."""
        signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], dtype=float)
        return self.center + (signs * self.size / 2) @ self.axes

    @property
    def middle(self) -> np.ndarray:
        """The point-cloud centre if known, else the box centre, (3,)."""
        return self.center if self.point_center is None else self.point_center


@dataclass(frozen=True, eq=False)
class Camera:
    """A camera path: T poses and one pinhole. `position` (T, 3); `yaw`, `pitch` (T,) radians, yaw counter-clockwise
    from +x, pitch up positive; `fov` is the horizontal field of view in radians."""

    position: np.ndarray
    yaw: np.ndarray
    pitch: np.ndarray
    fov: float

    def __len__(self) -> int:
        return len(self.yaw)


@dataclass(frozen=True, eq=False)
class Scene:
    """One room. `room_size` is its area in m2 (None if unknown); `counts` is the annotation's number of objects per
    label, which in VSI-Bench's files may name objects that have no box. `floor` is the room polygon (N, 2)."""

    id: str
    dataset: str
    objects: tuple[Box, ...]
    room_size: float | None = None
    counts: dict[str, int] = field(default_factory=dict)
    floor: np.ndarray | None = None
    height: float = 2.6
    camera: Camera | None = None
    palette: int = 0

    def labelled(self, label: str) -> list[Box]:
        """The boxes of one label; an absent label is an error that names the scene and what it has."""
        found = [box for box in self.objects if box.label == label]
        if not found:
            have = ", ".join(sorted({box.label for box in self.objects}))
            raise VsrError(f"scene {self.id}: no object labelled '{label}'; it has: {have}")
        return found

    def once(self) -> list[Box]:
        """The objects whose label occurs exactly once, sorted by label (the paper's and VSI-Bench's condition)."""
        boxed: dict[str, int] = {}
        for box in self.objects:
            boxed[box.label] = boxed.get(box.label, 0) + 1
        unique = [box for box in self.objects if boxed[box.label] == 1 and self.counts.get(box.label, 1) == 1]
        return sorted(unique, key=lambda box: box.label)
