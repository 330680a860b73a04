"""What the procedural rooms are furnished with, read from `catalogue.toml`: real sizes, colours, simple shapes; and
the rooms' palettes."""

import hashlib
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

Colour = tuple[int, int, int]
# apricot, sage, sky and rose
TINTS = ((255, 196, 120), (170, 214, 150), (140, 190, 246), (238, 160, 176))
BOOKS = ((206, 64, 58), (238, 190, 76), (64, 116, 186), (98, 158, 104), (226, 222, 208))
TABLE = tomllib.loads(Path(__file__).with_name("catalogue.toml").read_text(encoding="utf-8"))


class Part(NamedTuple):
    """One primitive of a kind, in its box, whose axes are width, depth, up with the front at +depth."""

    shape: str  # box, ellipsoid, cylinder, or disc: a cylinder along depth
    center: tuple[float, float, float]  # in [-1, 1] of the half extents
    size: tuple[float, float, float]  # in (0, 1] of the extents
    colour: Colour
    glow: float = 0.0  # 1 is drawn unshaded


class Kind(NamedTuple):
    """One furniture category."""

    extents: tuple[float, float, float]  # median width, depth, height in metres
    place: str  # 'free' on the floor, 'wall' with its back to a wall, 'hung'
    colour: Colour
    parts: tuple[Part, ...]


class Palette(NamedTuple):
    """Colours of a room. `walls` are those facing east, north, west and south of the room's middle: their tints differ
    in every palette in the same way, so that a frame tells where the camera looks."""

    floor: Colour
    grout: Colour
    walls: tuple[Colour, ...]
    ceiling: Colour = (240, 240, 238)


def _colour(given: str | list[int]) -> Colour:
    red, green, blue = TABLE["colours"][given] if isinstance(given, str) else given
    return red, green, blue


def _parts(rows: list[list]) -> Iterator[Part]:
    for shape, *values in rows:
        if shape == "legs":
            top, thick, spread, colour = values
            corners = [(x * spread, y * spread, top - 1) for x in (-1, 1) for y in (-1, 1)]
            yield from (Part("box", corner, (thick, thick, top), _colour(colour)) for corner in corners)
        elif shape == "books":  # blocks on four boards, of three heights in turn
            for row, height in enumerate((-0.7, -0.24, 0.22, 0.68)):
                for column in range(4):
                    size = (0.19, 0.72, 0.15 + 0.02 * ((row + column) % 3))
                    yield Part("box", (-0.63 + 0.42 * column, 0.25, height), size, BOOKS[(3 * row + column) % 5])
        else:
            center, size, colour, *glow = values
            yield Part(shape, center, size, _colour(colour), *glow)


def _kind(row: dict) -> Kind:
    sides = dict(zip(row["order"], row["sides"], strict=True))
    return Kind((sides["w"], sides["d"], sides["h"]), row["place"], _colour(row["colour"]), tuple(_parts(row["parts"])))


def _palette(row: dict) -> Palette:
    base, strength = row["walls"], row["strength"]
    walls = [[round(b + strength * (t - b)) for b, t in zip(base, tint, strict=True)] for tint in TINTS]
    return Palette(_colour(row["floor"]), _colour(row["grout"]), tuple(map(_colour, walls)))


CATALOGUE: dict[str, Kind] = {label: _kind(row) for label, row in TABLE["kinds"].items()}
PALETTES: tuple[Palette, ...] = tuple(map(_palette, TABLE["palettes"]))


def colour_of(label: str) -> Colour:
    """The catalogue's colour, or one that depends only on the label's text."""
    if label in CATALOGUE:
        return CATALOGUE[label].colour
    digest = hashlib.sha256(label.encode()).digest()
    hue, light = digest[0] / 256 * 6, 0.55 + 0.35 * digest[1] / 255
    channels = [max(0.0, min(1.0, abs((hue + shift) % 6 - 3) - 1)) for shift in (0, 4, 2)]
    red, green, blue = (round(255 * light * (0.45 + 0.55 * c)) for c in channels)
    return red, green, blue
