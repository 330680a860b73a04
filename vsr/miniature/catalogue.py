"""What the procedural rooms are furnished with: real sizes, colours and simple shapes, and the rooms' palettes.

Sizes are the medians of the three box sides, longest first, over the 288 scenes of VSI-Bench's meta_info.
"""

import hashlib
from typing import NamedTuple

Colour = tuple[int, int, int]


class Part(NamedTuple):
    """One primitive of a kind, in its box: `center` in [-1, 1] of the half extents, `size` in (0, 1] of the extents,
    both (width, depth, up) with the front at +depth. `glow` 1 is drawn unshaded. `disc` is a cylinder along depth."""

    shape: str
    center: tuple[float, float, float]
    size: tuple[float, float, float]
    colour: Colour
    glow: float = 0.0


class Kind(NamedTuple):
    """One furniture category. `sides` are the real medians in metres, longest first; `order` says which of width (w),
    depth (d) and height (h) each of them is. `place`: 'free' on the floor, 'wall' with its back to a wall, 'hung'."""

    sides: tuple[float, float, float]
    order: str
    place: str
    colour: Colour
    parts: tuple[Part, ...]

    @property
    def extents(self) -> tuple[float, float, float]:
        """Median (width, depth, height) in metres."""
        side = dict(zip(self.order, self.sides, strict=True))
        return side["w"], side["d"], side["h"]


def _legs(colour: Colour, top: float, thick: float = 0.09, spread: float = 0.88) -> tuple[Part, ...]:
    """Four legs from the floor to `top` (share of the height)."""
    return tuple(
        Part("box", (x * spread, y * spread, top - 1), (thick, thick, top), colour) for x in (-1, 1) for y in (-1, 1)
    )


def _books() -> tuple[Part, ...]:
    """Four rows of coloured book blocks."""
    colours = ((206, 64, 58), (238, 190, 76), (64, 116, 186), (98, 158, 104), (226, 222, 208))
    rows = (-0.7, -0.24, 0.22, 0.68)
    slots = [(row, column) for row in range(4) for column in range(4)]
    return tuple(
        Part(
            "box",
            (-0.63 + 0.42 * c, 0.25, rows[r]),
            (0.19, 0.72, 0.15 + 0.02 * ((r + c) % 3)),
            colours[(3 * r + c) % 5],
        )
        for r, c in slots
    )


ORANGE, WOOD, MAROON, TEAL, INK = (232, 118, 28), (128, 78, 40), (150, 40, 44), (20, 138, 144), (34, 35, 42)
PURPLE, YELLOW, SILVER, WHITE, GREEN = (124, 76, 188), (250, 208, 40), (196, 208, 222), (246, 246, 242), (30, 140, 66)
LEAF, CLAY, SHADE, PINK, STEEL = (104, 190, 60), (188, 92, 58), (255, 236, 160), (244, 164, 190), (86, 100, 124)

CATALOGUE: dict[str, Kind] = {
    "chair": Kind((0.83, 0.55, 0.45), "hwd", "free", ORANGE, (
        Part("box", (0, 0, 0.06), (1, 1, 0.1), ORANGE),
        Part("box", (0, -0.9, 0.56), (1, 0.1, 0.44), ORANGE),
        *_legs((150, 74, 22), 0.5, 0.12))),
    "table": Kind((1.21, 0.77, 0.61), "wdh", "wall", WOOD, (
        Part("box", (0, 0, 0.9), (1, 1, 0.1), WOOD),
        *_legs((92, 54, 28), 0.9))),
    "door": Kind((2.01, 0.96, 0.10), "hwd", "wall", MAROON, (
        Part("box", (0, 0, 0), (1, 0.6, 1), MAROON),
        Part("box", (0, 0.7, 0.45), (0.66, 0.2, 0.36), (188, 78, 72)),
        Part("box", (0, 0.7, -0.5), (0.66, 0.2, 0.36), (188, 78, 72)),
        Part("ellipsoid", (0.8, 0.7, 0), (0.09, 0.6, 0.04), (240, 206, 110)))),
    "sofa": Kind((1.82, 0.98, 0.79), "wdh", "wall", TEAL, (
        Part("box", (0, 0.1, -0.5), (1, 0.9, 0.5), TEAL),
        Part("box", (0, -0.76, 0.1), (1, 0.24, 0.9), (14, 112, 118)),
        Part("box", (-0.88, 0, -0.2), (0.12, 1, 0.8), (14, 112, 118)),
        Part("box", (0.88, 0, -0.2), (0.12, 1, 0.8), (14, 112, 118)),
        Part("box", (-0.38, 0.2, 0.06), (0.36, 0.74, 0.14), (58, 182, 184)),
        Part("box", (0.38, 0.2, 0.06), (0.36, 0.74, 0.14), (58, 182, 184)))),
    "monitor": Kind((0.58, 0.48, 0.18), "whd", "hung", INK, (
        Part("box", (0, 0.3, 0.2), (1, 0.3, 0.8), INK),
        Part("box", (0, 0.64, 0.2), (0.92, 0.06, 0.7), (80, 220, 250), 1.0),
        Part("box", (0, -0.1, -0.7), (0.16, 0.3, 0.3), INK),
        Part("box", (0, 0, -0.95), (0.5, 1, 0.05), INK))),
    "bed": Kind((2.15, 1.56, 0.66), "dwh", "wall", PURPLE, (
        Part("box", (0, 0.04, -0.6), (0.98, 0.95, 0.4), WOOD),
        Part("box", (0, 0.3, -0.08), (1, 0.7, 0.36), PURPLE),
        Part("box", (0, -0.65, -0.1), (0.98, 0.27, 0.34), (232, 226, 244)),
        Part("ellipsoid", (-0.46, -0.68, 0.22), (0.42, 0.2, 0.26), WHITE),
        Part("ellipsoid", (0.46, -0.68, 0.22), (0.42, 0.2, 0.26), WHITE),
        Part("box", (0, -0.96, 0), (1, 0.04, 1), WOOD))),
    "stool": Kind((0.49, 0.41, 0.35), "hwd", "free", YELLOW, (
        Part("cylinder", (0, 0, 0.82), (1, 1, 0.18), YELLOW),
        *_legs((176, 140, 20), 0.86, 0.14, 0.55))),
    "refrigerator": Kind((1.66, 0.70, 0.59), "hwd", "wall", SILVER, (
        Part("box", (0, -0.04, -0.36), (1, 0.96, 0.64), SILVER),
        Part("box", (0, -0.04, 0.66), (1, 0.96, 0.33), SILVER),
        Part("box", (0, -0.1, 0.3), (0.96, 0.86, 0.04), STEEL),
        Part("box", (-0.8, 0.96, 0.02), (0.06, 0.06, 0.18), STEEL),
        Part("box", (-0.8, 0.96, 0.52), (0.06, 0.06, 0.14), STEEL))),
    "toilet": Kind((0.75, 0.58, 0.38), "hdw", "wall", WHITE, (
        Part("box", (0, -0.7, 0.4), (1, 0.3, 0.6), WHITE),
        Part("cylinder", (0, 0, -0.62), (0.55, 0.6, 0.38), (222, 226, 230)),
        Part("ellipsoid", (0, 0.25, -0.2), (0.96, 0.74, 0.5), WHITE),
        Part("cylinder", (0, 0.28, 0.06), (0.86, 0.66, 0.06), (150, 206, 240)))),
    "bookshelf": Kind((1.99, 0.99, 0.38), "hwd", "wall", (96, 66, 40), (
        Part("box", (0, -0.9, 0), (1, 0.1, 1), (60, 42, 28)),
        Part("box", (-0.96, 0, 0), (0.04, 1, 1), (150, 104, 62)),
        Part("box", (0.96, 0, 0), (0.04, 1, 1), (150, 104, 62)),
        *(Part("box", (0, 0, z), (0.96, 1, 0.03), (150, 104, 62)) for z in (-0.97, -0.48, -0.02, 0.44, 0.97)),
        *_books())),
    "tv": Kind((0.93, 0.56, 0.06), "whd", "hung", INK, (
        Part("box", (0, -0.1, 0), (1, 0.9, 1), (16, 16, 20)),
        Part("box", (0, 0.9, 0.36), (0.94, 0.1, 0.54), (48, 66, 214), 1.0),
        Part("box", (0, 0.9, -0.54), (0.94, 0.1, 0.36), (214, 62, 150), 1.0))),
    "trash bin": Kind((0.45, 0.39, 0.29), "hwd", "free", GREEN, (
        Part("cylinder", (0, 0, -0.08), (0.9, 0.9, 0.92), GREEN),
        Part("cylinder", (0, 0, 0.9), (1, 1, 0.1), (16, 82, 40)))),
    "plant": Kind((0.44, 0.31, 0.21), "hwd", "free", LEAF, (
        Part("cylinder", (0, 0, -0.66), (0.62, 0.62, 0.34), CLAY),
        Part("ellipsoid", (0, 0, 0.3), (0.7, 0.8, 0.7), LEAF),
        Part("ellipsoid", (-0.55, 0.1, 0), (0.45, 0.7, 0.6), (70, 152, 44)),
        Part("ellipsoid", (0.55, -0.1, 0.1), (0.45, 0.7, 0.6), (130, 210, 80)))),
    "lamp": Kind((0.62, 0.32, 0.25), "hwd", "free", SHADE, (
        Part("cylinder", (0, 0, -0.95), (0.7, 0.7, 0.05), (70, 62, 60)),
        Part("cylinder", (0, 0, -0.3), (0.12, 0.12, 0.7), (70, 62, 60)),
        Part("cylinder", (0, 0, 0.56), (1, 1, 0.44), SHADE, 0.8))),
    "bathtub": Kind((1.65, 0.71, 0.57), "wdh", "wall", PINK, (
        Part("box", (0, 0, -0.2), (0.96, 0.94, 0.6), PINK),
        Part("box", (0, -0.9, 0.4), (1, 0.1, 0.6), PINK),
        Part("box", (0, 0.9, 0.4), (1, 0.1, 0.6), PINK),
        Part("box", (-0.95, 0, 0.4), (0.05, 1, 0.6), PINK),
        Part("box", (0.95, 0, 0.4), (0.05, 1, 0.6), PINK),
        Part("box", (0, 0, 0.3), (0.88, 0.8, 0.12), (112, 204, 240), 0.4))),
    "washer": Kind((0.86, 0.64, 0.60), "hwd", "wall", (226, 228, 232), (
        Part("box", (0, -0.06, 0), (1, 0.94, 1), (226, 228, 232)),
        Part("disc", (0, 0.9, -0.15), (0.66, 0.06, 0.5), (120, 126, 138)),
        Part("disc", (0, 0.95, -0.15), (0.5, 0.05, 0.38), (28, 58, 130)),
        Part("box", (0, 0.9, 0.82), (0.96, 0.06, 0.14), (66, 74, 96)))),
}  # fmt: skip


class Palette(NamedTuple):
    """Colours of a room. `walls` are those facing east, north, west and south of the room's middle: their tints differ
    in every palette in the same way, so that a frame tells where the camera looks."""

    floor: Colour
    grout: Colour
    walls: tuple[Colour, Colour, Colour, Colour]
    ceiling: Colour = (240, 240, 238)


def _tinted(base: Colour, strength: float) -> tuple[Colour, Colour, Colour, Colour]:
    """`base` tinted towards apricot, sage, sky and rose."""
    tints = ((255, 196, 120), (170, 214, 150), (140, 190, 246), (238, 160, 176))
    east, north, west, south = (
        tuple(round(b + strength * (t - b)) for b, t in zip(base, tint, strict=True)) for tint in tints
    )
    return east, north, west, south


PALETTES: tuple[Palette, ...] = (
    Palette((196, 158, 118), (164, 126, 90), _tinted((236, 228, 214), 0.75)),
    Palette((172, 168, 162), (146, 142, 138), _tinted((238, 238, 236), 0.75)),
    Palette((150, 112, 82), (122, 88, 62), _tinted((230, 220, 206), 0.85)),
    Palette((216, 204, 184), (190, 176, 154), _tinted((224, 226, 230), 0.7)),
    Palette((126, 132, 142), (104, 110, 120), _tinted((220, 224, 230), 0.75)),
    Palette((184, 140, 108), (154, 112, 84), _tinted((240, 236, 226), 0.9)),
    # the last four are for pre-training only
    Palette((206, 178, 140), (172, 144, 110), _tinted((244, 244, 244), 0.6)),
    Palette((140, 124, 112), (114, 100, 90), _tinted((214, 206, 196), 0.8)),
    Palette((188, 192, 188), (160, 164, 160), _tinted((228, 232, 226), 0.85)),
    Palette((164, 134, 120), (136, 108, 96), _tinted((226, 218, 222), 0.65)),
)


def colour_of(label: str) -> Colour:
    """The catalogue's colour, or one that depends only on the label's text."""
    if label in CATALOGUE:
        return CATALOGUE[label].colour
    digest = hashlib.sha256(label.encode()).digest()
    hue, light = digest[0] / 256 * 6, 0.55 + 0.35 * digest[1] / 255
    channels = [max(0.0, min(1.0, abs((hue + shift) % 6 - 3) - 1)) for shift in (0, 4, 2)]
    red, green, blue = (round(255 * light * (0.45 + 0.55 * c)) for c in channels)
    return red, green, blue
