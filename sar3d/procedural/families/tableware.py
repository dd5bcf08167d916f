"""Mugs, teapots and bottles."""

import math

from sar3d.procedural.paint import Surface
from sar3d.procedural.parts import Profile, arc, cylinder, lathe, sphere, sweep, tapered, torus
from sar3d.procedural.recipe import Drawing, Family, Part, Recipe, of


def _mug(r: Recipe) -> Drawing:
    wide, h = r.vary("radius", 0.36, 0.44), r.vary("height", 0.72, 0.96)
    wall = [(wide * _mug_radius(r.style, i / 8), h * i / 8) for i in range(9)]
    lip, wall_thick = wall[-1][0], 0.045
    inside = [(x - wall_thick, y) for x, y in reversed(wall[6:])]
    drawing = of(r.painted, lathe([(0.0, 0.0), *wall], 26))
    drawing += of(r.body, lathe([(lip, h), (lip - wall_thick, h), *inside[1:]], 26))
    edge, level = inside[-1]
    drawing += of(Surface("coffee"), lathe([(edge, level), (0.0, level)], 26))
    reach, root = r.vary("handle", 0.24, 0.32), min(wall[2][0], wall[6][0]) - 0.02
    half = h * r.vary("grip", 0.26, 0.33)
    bend = [math.radians(15.0 * i) for i in range(-6, 7)]
    path = [(root + reach * math.cos(a), h * 0.52 + half * math.sin(a)) for a in bend]
    drawing += of(r.trim, sweep(path, 0.052, 0.065))
    if "saucer" in r.parts:
        drawing += of(r.trim, lathe([(0.0, -0.05), (wide * 1.05, -0.05), (wide * 1.45, 0.02), (0.0, 0.0)], 26))
    return drawing


def _mug_radius(style: str, t: float) -> float:
    if style == "tapered":
        return 0.76 + 0.3 * t
    if style == "rounded":
        return 0.8 + 0.25 * math.sin(math.pi * (0.1 + 0.8 * t))
    return 1.0


def _teapot(r: Recipe) -> Drawing:
    wide = r.vary("radius", 0.31, 0.36)
    h = {"round": r.vary("height", 0.54, 0.6), "tall": r.vary("height", 0.66, 0.76), "flat": 0.42}[r.style]
    shape = [(0.0, 0.0), (0.62, 0.0), *_teapot_wall(r.style), (0.42, 1.0), (0.0, 1.0)]
    drawing = of(r.painted, lathe([(wide * x, h * y) for x, y in shape], 26))
    lid = lathe([(wide * 0.46, 0.0), *arc(wide * 0.46, 0.09, 5.0, 90.0, 5)], 18)
    drawing += of(r.body, lid.moved(y=h)) + of(r.trim, sphere(0.065, 12).moved(y=h + 0.13))
    base, length = wide * 0.8, r.vary("spout", 0.26, 0.32)
    spout = [(base, h * 0.32, 0.1), (base + length * 0.5, h * 0.5, 0.07), (base + length * 0.78, h * 0.85, 0.048)]
    drawing += of(r.trim, tapered([*spout, (base + length, h * 1.02, 0.045)]))
    bend = [math.radians(15.0 * i) for i in range(-6, 7)]
    root, reach = wide * 0.82, r.vary("handle", 0.2, 0.26)
    handle = [(-root - reach * math.cos(a), h * 0.54 + h * 0.32 * math.sin(a)) for a in bend]
    drawing += of(r.trim, sweep(handle[::-1], 0.042, 0.05))
    if "feet" in r.parts:
        for x, z in ((-0.15, -0.13), (0.15, -0.13), (0.0, 0.19)):
            drawing += of(r.trim, sphere(0.07, 10).moved(x, -0.02, z))
    return drawing


def _teapot_wall(style: str) -> Profile:
    if style == "tall":
        return [(0.82, 0.1), (0.98, 0.3), (0.9, 0.5), (0.7, 0.75), (0.52, 0.95)]
    return [(0.86, 0.12), (0.98, 0.32), (1.0, 0.5), (0.93, 0.7), (0.72, 0.88)]


def _bottle(r: Recipe) -> Drawing:
    wide, neck = r.vary("radius", 0.17, 0.23), r.vary("neck", 0.06, 0.08)
    shoulder = r.vary("shoulder", 0.54, 0.62)
    if r.style == "slim":
        wall = [(wide, 0.0), (wide, shoulder), *_shoulder(wide, neck, shoulder, 0.16), (neck, 0.9)]
    elif r.style == "round":
        ball = wide * 1.45
        wall = [(x, y) for x, y in arc(ball, ball, -75.0, 75.0, 10, cy=ball * 0.95)] + [
            (neck, ball * 1.95),
            (neck, 0.9),
        ]
    else:
        wall = [(wide * 1.05, 0.0), (wide * 0.78, shoulder * 0.45), (wide, shoulder), (neck * 1.5, 0.82), (neck, 0.9)]
    drawing = of(r.painted, lathe([(0.0, 0.0), *wall, (0.0, 0.9)], 22))
    drawing += of(r.trim, cylinder(neck * 1.35, 0.12, segments=16).moved(y=0.88))
    if r.style == "slim":
        drawing += of(r.trim, lathe([(wide, 0.14), (wide + 0.012, 0.14), (wide + 0.012, 0.34), (wide, 0.34)], 22))
    elif r.style == "round":
        drawing += of(r.trim, torus(neck * 1.2, 0.035, 18).moved(y=wide * 2.75))
    else:
        drawing += of(r.trim, torus(wide * 0.8, 0.045, 22).moved(y=shoulder * 0.45))
    if "handle" in r.parts:
        bend = [math.radians(20.0 * i) for i in range(-4, 5)]
        path = [(neck * 0.9 + 0.15 * math.cos(a), 0.72 + 0.13 * math.sin(a)) for a in bend]
        drawing += of(r.trim, sweep(path, 0.03))
    return drawing


def _shoulder(wide: float, neck: float, y: float, rise: float) -> Profile:
    """A quarter of an ellipse inwards, and upwards by `rise`."""
    return [(neck + (wide - neck) * math.cos(a), y + rise * math.sin(a)) for a in (0.5, 0.9, 1.3)]


MUG = Family(
    "mug",
    _mug,
    {"straight": "straight mug", "tapered": "tapered mug", "rounded": "rounded mug"},
    "handle",
    (Part("saucer", 0.3, "a saucer"),),
    ("height", "short", "tall"),
    ("tableware", "cup"),
)
TEAPOT = Family(
    "teapot",
    _teapot,
    {"round": "round teapot", "tall": "tall teapot", "flat": "flat teapot"},
    "spout and handle",
    (Part("feet", 0.4, "three feet"),),
    ("radius", "slim", "wide"),
    ("tableware",),
)
BOTTLE = Family(
    "bottle",
    _bottle,
    {"slim": "slim bottle", "round": "round bottle", "waisted": "waisted bottle"},
    {"slim": "cap and label", "round": "cap and ring", "waisted": "cap and ring"},
    (Part("handle", 0.3, "a small handle"),),
    ("radius", "thin", "thick"),
    ("tableware",),
)
