"""The ray-caster's inner loops, compiled by numba. Every primitive is a unit cube, sphere or cylinder (along its third
axis) in a frame of its own: `inverse` (P, 3, 3) maps world offsets from `center` (P, 3) to it."""

import numpy as np
from numba import njit

BOX, ELLIPSOID, CYLINDER = 0, 1, 2
# what a ray to the room's shell meets, if not wall 0, 1, 2, ...
NOTHING, CEILING, FLOOR = -3, -2, -1
NEAR = 0.05  # metres
TEXEL = 0.06  # metres, of the floor's shadow map
JOINT, TILE, SKIRTING = 0.03, 0.5, 0.1  # metres


@njit(cache=True)
def _local(matrix, x, y, z):
    """matrix (3, 3) @ (x, y, z)."""
    return (
        matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2] * z,
        matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2] * z,
        matrix[2, 0] * x + matrix[2, 1] * y + matrix[2, 2] * z,
    )


@njit(cache=True)
def _hit(shape, o, d):
    """Distance along ray o + t d to the unit primitive from outside, or inf."""
    if shape == BOX:
        # slabs: the ray is inside from the last face it enters to the first it leaves
        enter, leave = -np.inf, np.inf
        for k in range(3):
            if abs(d[k]) > 1e-12:
                a, b = (-1 - o[k]) / d[k], (1 - o[k]) / d[k]
                enter, leave = max(enter, min(a, b)), min(leave, max(a, b))
            elif abs(o[k]) > 1:
                return np.inf
        return enter if NEAR < enter <= leave else np.inf
    # |o + t d| = 1, a quadratic in t; a cylinder leaves the third axis out and gets lids below
    round_z = 1.0 if shape == ELLIPSOID else 0.0
    a = d[0] * d[0] + d[1] * d[1] + round_z * d[2] * d[2]
    b = o[0] * d[0] + o[1] * d[1] + round_z * o[2] * d[2]
    c = o[0] * o[0] + o[1] * o[1] + round_z * o[2] * o[2] - 1
    root = b * b - a * c
    if root < 0:
        return np.inf
    if a > 1e-12:
        t = (-b - np.sqrt(root)) / a
        if t > NEAR and (shape == ELLIPSOID or abs(o[2] + t * d[2]) <= 1):
            return t
    if shape == CYLINDER and abs(d[2]) > 1e-12:
        t = (-np.sign(d[2]) - o[2]) / d[2]
        if t > NEAR and (o[0] + t * d[0]) ** 2 + (o[1] + t * d[1]) ** 2 <= 1:
            return t
    return np.inf


@njit(cache=True)
def _normal(shape, inverse, x, y, z):
    """Outward unit normal in the world at a surface point given in the primitive's frame."""
    if shape == BOX:
        top = max(abs(x), abs(y), abs(z))
        n = (
            np.sign(x) if abs(x) == top else 0.0,
            np.sign(y) if abs(y) == top else 0.0,
            np.sign(z) if abs(z) == top else 0.0,
        )
    elif shape == ELLIPSOID:
        n = (x, y, z)
    else:
        n = (0.0, 0.0, np.sign(z)) if abs(z) > 0.9999 else (x, y, 0.0)
    a, b, c = _local(inverse.T, n[0], n[1], n[2])
    length = np.sqrt(a * a + b * b + c * c)
    return a / length, b / length, c / length


@njit(cache=True)
def shadows(shape, inverse, center, half, low, columns, rows, lamp, spread):
    """How much light of a square ceiling lamp (side 2 * spread) reaches each floor texel, (rows, columns) in [0, 1]."""
    light = np.ones((rows, columns))
    for m in range(4):  # a corner of the lamp each: soft edges in four steps
        shade = np.zeros((rows, columns), np.bool_)
        x_lamp = lamp[0] + spread * (2 * (m % 2) - 1)
        y_lamp = lamp[1] + spread * (2 * (m // 2) - 1)
        for p in range(len(shape)):
            radius = np.sqrt(half[p, 0] ** 2 + half[p, 1] ** 2 + half[p, 2] ** 2)
            # a sphere around the primitive, thrown from lamp to floor, bounds the texels worth a ray
            # of the way from shadow to lamp
            share = 1 - min(center[p, 2] + radius, 0.9 * lamp[2]) / lamp[2]
            x_far = x_lamp + (center[p, 0] - x_lamp) / share
            y_far = y_lamp + (center[p, 1] - y_lamp) / share
            left = int((min(center[p, 0] - radius, x_far - radius / share) - low[0]) / TEXEL)
            right = int((max(center[p, 0] + radius, x_far + radius / share) - low[0]) / TEXEL) + 1
            down = int((min(center[p, 1] - radius, y_far - radius / share) - low[1]) / TEXEL)
            up = int((max(center[p, 1] + radius, y_far + radius / share) - low[1]) / TEXEL) + 1
            for i in range(max(0, down), min(rows, up)):
                for j in range(max(0, left), min(columns, right)):
                    if not shade[i, j]:
                        x = low[0] + (j + 0.5) * TEXEL
                        y = low[1] + (i + 0.5) * TEXEL
                        o = _local(inverse[p], x_lamp - center[p, 0], y_lamp - center[p, 1], lamp[2] - center[p, 2])
                        d = _local(inverse[p], x - x_lamp, y - y_lamp, -lamp[2])
                        # 1 is the floor, where boxes stand
                        shade[i, j] = _hit(shape[p], o, d) < 1.01
        light -= 0.25 * shade
    return light


@njit(cache=True)
def _shell(eye, x, y, z, floor, height):
    """Distance along (x, y, z) to the room's shell, and which wall (edge of the polygon), FLOOR, CEILING or NOTHING."""
    t, what = np.inf, NOTHING
    if z < -1e-9:
        t, what = -eye[2] / z, FLOOR
    elif z > 1e-9:
        t, what = (height - eye[2]) / z, CEILING
    for e in range(len(floor)):
        after = (e + 1) % len(floor)
        ex, ey = floor[after, 0] - floor[e, 0], floor[after, 1] - floor[e, 1]
        across = x * ey - y * ex
        if abs(across) > 1e-12:
            ax, ay = floor[e, 0] - eye[0], floor[e, 1] - eye[1]
            s, u = (ax * ey - ay * ex) / across, (ax * y - ay * x) / across
            if NEAR < s < t and 0 <= u <= 1:
                t, what = s, e
    return t, what


@njit(cache=True)
def _between(grid, row, column):
    """Bilinear look-up in `grid` (R, C), clamped at its edges."""
    row, column = min(max(row, 0.0), grid.shape[0] - 1.001), min(max(column, 0.0), grid.shape[1] - 1.001)
    i, j = int(row), int(column)
    a, b = row - i, column - j
    near = (1 - b) * grid[i, j] + b * grid[i, j + 1]
    return (1 - a) * near + a * ((1 - b) * grid[i + 1, j] + b * grid[i + 1, j + 1])


@njit(cache=True)
def _shell_light(what, x, y, z, joint, light, low):
    """Of a point of the shell: its row among the shell's colours (see `shade`), how much light it has, and how much of
    a joint between tiles shows; `joint` in [0, 1] says how much a pixel at that distance can show."""
    if what == NOTHING:
        return 4, 1.0, 0.0
    if what == CEILING:
        return 2, 1.0, 0.0
    if what == FLOOR:
        lit = 0.6 + 0.4 * _between(light, (y - low[1]) / TEXEL - 0.5, (x - low[0]) / TEXEL - 0.5)
        between_tiles = (x - low[0]) % TILE < JOINT or (y - low[1]) % TILE < JOINT
        return 0, lit, joint if between_tiles else 0.0
    if z < SKIRTING:
        return 3, 1.0, 0.0
    return 5 + what, 0.86 + 0.14 * min(1.0, z / 1.2), 0.0


@njit(cache=True)
def _bounds(center, axes, half, view, tan, width, height):
    """Sample bounds (left, right, top, bottom) of a primitive's box: none behind the eye, all across the near plane."""
    left, right, top, bottom = np.inf, -np.inf, np.inf, -np.inf
    behind = 0
    for corner in range(8):
        a = half[0] if corner & 1 else -half[0]
        b = half[1] if corner & 2 else -half[1]
        c = half[2] if corner & 4 else -half[2]
        x = center[0] + a * axes[0, 0] + b * axes[1, 0] + c * axes[2, 0] - view[0, 0]
        y = center[1] + a * axes[0, 1] + b * axes[1, 1] + c * axes[2, 1] - view[0, 1]
        z = center[2] + a * axes[0, 2] + b * axes[1, 2] + c * axes[2, 2] - view[0, 2]
        ahead, aside, above = _local(view[1:], x, y, z)
        if ahead < NEAR:
            behind += 1
            continue
        column = (aside / ahead / tan[0] + 1) / 2 * width
        row = (1 - above / ahead / tan[1]) / 2 * height
        left, right, top, bottom = min(left, column), max(right, column), min(top, row), max(bottom, row)
    # a box that crosses the eye's plane has no finite outline: all samples are tried
    if behind == 8:
        return 0, 0, 0, 0
    if behind:
        return 0, width, 0, height
    return max(0, int(left)), min(width, int(right) + 1), max(0, int(top)), min(height, int(bottom) + 1)


@njit(cache=True)
def trace(shape, inverse, center, axes, half, view, tan, depth, first):
    """Nearest primitive of every sample: lowers `depth` (H, W) and sets `first` (H, W) to its index. `view` (4, 3) is
    eye, forward, right, up; `tan` (2,) half the image's width and height at unit distance. A primitive around the eye
    is not drawn."""
    height, width = depth.shape
    for p in range(len(shape)):
        o = _local(inverse[p], view[0, 0] - center[p, 0], view[0, 1] - center[p, 1], view[0, 2] - center[p, 2])
        if max(abs(o[0]), abs(o[1]), abs(o[2])) <= 1:
            continue
        # a ray is linear in x and y, so its three parts are turned once, not for each sample
        f = _local(inverse[p], view[1, 0], view[1, 1], view[1, 2])
        r = _local(inverse[p], view[2, 0], view[2, 1], view[2, 2])
        u = _local(inverse[p], view[3, 0], view[3, 1], view[3, 2])
        left, right, top, bottom = _bounds(center[p], axes[p], half[p], view, tan, width, height)
        for i in range(top, bottom):
            y = (1 - 2 * (i + 0.5) / height) * tan[1]
            for j in range(left, right):
                x = (2 * (j + 0.5) / width - 1) * tan[0]
                d = (f[0] + x * r[0] + y * u[0], f[1] + x * r[1] + y * u[1], f[2] + x * r[2] + y * u[2])
                t = _hit(shape[p], o, d)
                if t < depth[i, j]:
                    depth[i, j] = t
                    first[i, j] = p


@njit(cache=True)
def shade(shape, inverse, center, colour, glow, view, tan, depth, first, floor, height, colours, light, low, out):
    """Colour of every sample into `out` (H, W, 3), 0-255; `depth` and `first` (-1) say where the shell is nearer. The
    shell's `colours` are floor, joint between tiles, ceiling, skirting, nothing, then the walls."""
    rows, columns = depth.shape
    for i in range(rows):
        y = (1 - 2 * (i + 0.5) / rows) * tan[1]
        for j in range(columns):
            x = (2 * (j + 0.5) / columns - 1) * tan[0]
            dx = view[1, 0] + x * view[2, 0] + y * view[3, 0]
            dy = view[1, 1] + x * view[2, 1] + y * view[3, 1]
            dz = view[1, 2] + x * view[2, 2] + y * view[3, 2]
            t, what = _shell(view[0], dx, dy, dz, floor, height)
            p = first[i, j]
            # scanned boxes may reach a little into a wall
            solid = p >= 0 and depth[i, j] < t + NEAR
            if solid:
                t = depth[i, j]
            else:
                first[i, j], depth[i, j] = -1, t
            px = view[0, 0] + t * dx
            py = view[0, 1] + t * dy
            pz = view[0, 2] + t * dz
            if solid:
                lx, ly, lz = _local(inverse[p], px - center[p, 0], py - center[p, 1], pz - center[p, 2])
                nx, ny, nz = _normal(shape[p], inverse[p], lx, ly, lz)
                facing = -(nx * dx + ny * dy + nz * dz) / np.sqrt(dx * dx + dy * dy + dz * dz)
                lit = 0.62 + 0.16 * nz + 0.24 * facing + 0.04 * nx
                lit = glow[p] + (1 - glow[p]) * lit
                for k in range(3):
                    out[i, j, k] = lit * colour[p, k]
            else:
                joint = min(1.0, JOINT / (2 * tan[0] / columns * t))
                row, lit, mix = _shell_light(what, px, py, pz, joint, light, low)
                for k in range(3):
                    out[i, j, k] = lit * (colours[row, k] + mix * (colours[1, k] - colours[row, k]))


@njit(cache=True)
def gather(fine, depth, first, owner, samples, rgb, ids, metres):
    """Average samples x samples colours into `rgb` (H, W, 3) uint8; `ids` and `metres` (H, W) of the nearest sample."""
    for i in range(rgb.shape[0]):
        for j in range(rgb.shape[1]):
            red = green = blue = 0.0
            metres[i, j] = np.inf
            for a in range(i * samples, (i + 1) * samples):
                for b in range(j * samples, (j + 1) * samples):
                    red, green, blue = red + fine[a, b, 0], green + fine[a, b, 1], blue + fine[a, b, 2]
                    if depth[a, b] < metres[i, j]:
                        metres[i, j] = depth[a, b]
                        ids[i, j] = owner[first[a, b]] if first[a, b] >= 0 else -1
            for k, total in enumerate((red, green, blue)):
                rgb[i, j, k] = min(255.0, max(0.0, total / samples**2 + 0.5))
