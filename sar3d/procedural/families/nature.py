"""Trees, cactuses, mushrooms and flowers."""

import math

from sar3d.procedural.mesh import ProceduralMesh
from sar3d.procedural.paint import Surface
from sar3d.procedural.parts import (
    Profile,
    arc,
    around,
    cone,
    cylinder,
    ellipsoid,
    lathe,
    sphere,
    sweep,
    torus,
)
from sar3d.procedural.recipe import Drawing, Family, Part, Recipe, of

_BARK, _LEAF, _GOLDEN_ANGLE = Surface("bark"), Surface("leaf"), 137.508


def _tree(r: Recipe) -> Drawing:
    wide, trunk = r.vary("crown", 0.33, 0.4), r.vary("trunk", 0.24, 0.32)
    drawing = of(_BARK, cylinder(0.085, trunk + 0.12, top=0.06, segments=12))
    if r.style == "fir":
        step = (0.96 - trunk) / 3
        for i in range(3):
            tier = cone(wide * (1.0 - 0.24 * i), step * 1.5, 20).moved(y=trunk + step * i)
            drawing += of(r.painted, tier)
            for k in range(4):
                bauble = sphere(0.045, 8).moved(y=trunk + step * i + 0.05, z=wide * (0.93 - 0.24 * i))
                drawing += of(r.trim, bauble.turned("y", 90.0 * k + 40.0 * i))
        return drawing
    if r.style == "bushy":
        low, middle = trunk + wide * 0.55, wide * 0.62
        balls = [sphere(middle, 14).moved(y=low + wide * 0.62), *_ring_of_balls(middle, low, wide * 0.42)]
        drawing += of(r.painted, *balls)
        spots = [(0.0, 90.0, low + wide * 0.62), *((60.0 + 120.0 * i, 8.0, low) for i in range(3))]
        fruit = [_on_ball(middle, azimuth + 60.0, elevation, y) for azimuth, elevation, y in spots]
        return drawing + of(r.trim, *fruit, *(_fruit(middle, low + wide * 0.62, 120.0 * i, 20.0) for i in range(3)))
    high = r.vary("high", 0.34, 0.4)
    center = trunk + high * 0.95
    drawing += of(r.painted, ellipsoid(wide, high, wide, 20).moved(y=center))
    fruit = [_on_ellipsoid(wide, high, center, _GOLDEN_ANGLE * i, -35.0 + 12.0 * i) for i in range(10)]
    return drawing + of(r.trim, *fruit)


def _ring_of_balls(radius: float, y: float, reach: float) -> list[ProceduralMesh]:
    return [sphere(radius, 14).moved(y=y, z=reach).turned("y", 120.0 * i) for i in range(3)]


def _on_ball(radius: float, azimuth: float, elevation: float, y: float) -> ProceduralMesh:
    return _on_ellipsoid(radius, radius, y, azimuth, elevation)


def _fruit(radius: float, y: float, azimuth: float, elevation: float) -> ProceduralMesh:
    return _on_ellipsoid(radius, radius, y, azimuth, elevation)


def _on_ellipsoid(wide: float, high: float, y: float, azimuth: float, elevation: float) -> ProceduralMesh:
    """A small ball that sits on an ellipsoid."""
    a = math.radians(elevation)
    return sphere(0.055, 8).moved(y=y + high * math.sin(a), z=wide * math.cos(a)).turned("y", azimuth)


def _cactus(r: Recipe) -> Drawing:
    wide, pot, h = r.vary("girth", 0.12, 0.15), 0.15, r.vary("height", 0.64, 0.78)
    rim = r.vary("pot", 0.17, 0.2)
    drawing = of(r.trim, cylinder(rim * 0.72, pot, top=rim, segments=18), torus(rim, 0.03, 18, 6).moved(y=pot))
    drawing += of(Surface("soil"), cylinder(rim * 0.96, 0.01, segments=18).moved(y=pot))
    if r.style == "round":
        ball = r.vary("ball", 0.27, 0.32)
        drawing += of(r.painted, ellipsoid(ball, ball * 1.05, ball, 20).moved(y=pot + ball * 0.9))
        return drawing + of(r.trim, _bloom().moved(y=pot + ball * 1.92))
    drawing += of(
        r.painted,
        lathe(
            [(0.0, pot), (wide, pot), (wide, pot + h - wide), *arc(wide, wide, 20.0, 90.0, 4, cy=pot + h - wide)], 16
        ),
    )
    sides = (1,) if r.style == "one-armed" else (1, -1)
    for number, side in enumerate(sides):
        low, up = pot + h * r.vary(f"elbow {number}", 0.28, 0.46), r.vary(f"arm {number}", 0.16, 0.26)
        reach = wide + 0.15
        path = [(0.0, low), (reach - 0.08, low), (reach - 0.02, low + 0.03), (reach, low + 0.09), (reach, low + up)]
        arm = [sweep(path, 0.072, sides=10), sphere(0.072, 10).moved(reach, low + up)]
        drawing += of(r.painted, *(m if side > 0 else m.turned("y", 180.0) for m in arm))
    return drawing + of(r.trim, _bloom().moved(y=pot + h))


def _bloom() -> ProceduralMesh:
    return lathe([(0.0, -0.02), (0.05, 0.0), (0.11, 0.07), (0.05, 0.045), (0.0, 0.04)], 10)


def _mushroom(r: Recipe) -> Drawing:
    wide, stem = r.vary("cap", 0.38, 0.46), r.vary("stem", 0.36, 0.48)
    drawing = _one_mushroom(r, wide, stem)
    if "little one" in r.parts:
        drawing += [(s, m.scaled(0.45, 0.45, 0.45).moved(0.36, 0.0, 0.16)) for s, m in _one_mushroom(r, wide, stem)]
    return drawing


def _one_mushroom(r: Recipe, wide: float, stem: float) -> Drawing:
    drawing = of(Surface("cream"), lathe([(0.0, 0.0), (0.15, 0.0), (0.11, stem * 0.4), (0.1, stem + 0.05)], 16))
    drawing += of(
        Surface("cream"),
        lathe([(0.1, stem + 0.03), (wide * 0.97, stem)], 22).turned("x", 180.0).moved(y=2 * stem + 0.015),
    )
    rise = {"round": r.vary("rise", 0.32, 0.4), "flat": 0.2, "pointed": r.vary("rise", 0.46, 0.54)}[r.style]
    drawing += of(r.painted, lathe([(wide * 0.97, stem - 0.01), *_cap(r.style, wide, rise, stem)], 22))
    drawing += of(r.trim, lathe([(0.11, stem * 0.72), (0.21, stem * 0.52), (0.11, stem * 0.56)], 16))
    return drawing + of(r.trim, cylinder(0.2, 0.05, top=0.17, segments=16))


def _cap(style: str, wide: float, rise: float, y: float) -> Profile:
    if style == "pointed":
        shape = ((1.0, 0.0), (0.94, 0.12), (0.66, 0.36), (0.34, 0.68), (0.14, 0.92), (0.0, 1.0))
        return [(wide * a, y + rise * b) for a, b in shape]
    return arc(wide, rise, 0.0, 90.0, 7, cy=y)


def _flower(r: Recipe) -> Drawing:
    head, pot = r.vary("stem", 0.62, 0.7), r.vary("pot", 0.11, 0.135)
    drawing = of(r.trim, cylinder(pot * 0.72, 0.15, top=pot, segments=16), torus(pot, 0.02, 16, 6).moved(y=0.15))
    drawing += of(_LEAF, cylinder(0.028, head - 0.1, segments=8).moved(y=0.1))
    leaf = ellipsoid(0.15, 0.02, 0.065, 10).moved(x=0.15).turned("z", 30.0).moved(y=0.3)
    drawing += of(_LEAF, leaf, leaf.turned("y", 180.0).moved(y=0.06))
    if r.style == "tulip":
        cup = lathe([(0.0, -0.16), (0.12, -0.12), (0.2, 0.0), (0.19, 0.13), (0.13, 0.2)], 18).moved(y=head + 0.1)
        drawing += of(r.painted, cup, around(cone(0.075, 0.12, 8).moved(y=head + 0.27, z=0.115), 5))
        return drawing + of(r.trim, lathe([(0.0, 0.2), (0.12, 0.3)], 18).turned("x", 180.0).moved(y=head + 0.52))
    count, long, wide = (6, 0.17, 0.12) if r.style == "daisy" else (10, 0.18, 0.07)
    petal = ellipsoid(wide, 0.03, long, 10).moved(z=0.2)
    disc = [(r.painted, around(petal, count)), (r.trim, ellipsoid(0.1, 0.06, 0.1, 14).moved(y=0.02))]
    return drawing + [(s, m.turned("x", 62.0).moved(y=head + 0.02, z=0.03)) for s, m in disc]


TREE = Family(
    "tree",
    _tree,
    {"round": "round tree", "fir": "fir tree", "bushy": "bushy tree"},
    {"round": "fruits", "fir": "baubles", "bushy": "fruits"},
    (),
    ("crown", "narrow", "broad"),
    ("plant",),
)
CACTUS = Family(
    "cactus",
    _cactus,
    {"two-armed": "two-armed cactus", "one-armed": "one-armed cactus", "round": "round cactus"},
    "pot",
    (),
    ("girth", "thin", "thick"),
    ("plant",),
)
MUSHROOM = Family(
    "mushroom",
    _mushroom,
    {"round": "round mushroom", "flat": "flat mushroom", "pointed": "pointed mushroom"},
    "ring around its stem",
    (Part("little one", 0.35, "a little one beside it"),),
    ("stem", "short", "tall"),
    ("plant",),
)
FLOWER = Family(
    "flower",
    _flower,
    {"daisy": "daisy flower", "tulip": "tulip flower", "sunflower": "many-petaled flower"},
    "pot",
    (),
    ("stem", "short", "tall"),
    ("plant",),
)
