"""Where a camera sees a point, by hand."""

import numpy as np

from vsr.miniature.render import basis
from vsr.scenes.scene import Camera


def project(camera: Camera, frame: int, points: np.ndarray, width: int, height: int) -> np.ndarray:
    """World points (N, 3) -> (N, 3): column and row in pixels (a pixel's centre is at +0.5), depth in metres. Points
    with a depth <= 0 lie behind the camera."""
    forward, right, up = basis(camera.yaw[frame], camera.pitch[frame])
    offset = np.asarray(points, float) - camera.position[frame]
    tan, depth = np.tan(camera.fov / 2), offset @ forward
    column = (offset @ right / depth / tan + 1) / 2 * width
    row = (1 - offset @ up / depth / (tan * height / width)) / 2 * height
    return np.stack([column, row, depth], axis=1)
