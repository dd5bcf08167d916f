"""Guitars, umbrellas, clocks, hats, cakes and ice creams."""

import math

from sar3d.procedural.mesh import ProceduralMesh
from sar3d.procedural.paint import Surface
from sar3d.procedural.parts import (
    Profile,
    arc,
    around,
    box,
    cone,
    cylinder,
    lathe,
    prism,
    sphere,
    sweep,
    torus,
)
from sar3d.procedural.recipe import Drawing, Family, Part, Recipe, of

_INK, _CREAM = Surface("ink"), Surface("cream")


def _guitar(r: Recipe) -> Drawing:
    wide, deep = r.vary("width", 0.21, 0.25), r.vary("depth", 0.11, 0.15)
    outline = _electric(wide) if r.style == "electric" else _figure_eight(wide, 0.86 if r.style == "acoustic" else 0.74)
    drawing = of(r.painted, prism(outline, deep))
    waist, front = 0.26, deep / 2
    if r.style == "electric":
        drawing += of(r.trim, prism([(-0.08, 0.14), (0.1, 0.12), (0.11, 0.28), (-0.05, 0.3)], 0.02).moved(z=front))
    else:
        hole = cylinder(0.075, 0.02, segments=16).turned("x", 90.0)
        drawing += of(_INK, hole.moved(y=0.3, z=front - 0.005)) + of(
            r.trim, torus(0.085, 0.02, 18, 6).turned("x", 90.0).moved(y=0.3, z=front)
        )
    drawing += of(r.trim, box(0.2, 0.035, 0.03).moved(y=0.12, z=front + 0.01))
    neck = 1.0 - waist
    drawing += of(Surface("bark"), box(0.075, neck - 0.1, 0.05).moved(y=waist + 0.06, z=front * 0.55))
    head = prism([(-0.055, 0.84), (0.055, 0.84), (0.085, 0.9), (0.07, 1.02), (-0.07, 1.02), (-0.085, 0.9)], 0.05)
    drawing += of(r.trim, head.moved(z=front * 0.5))
    return drawing


def _figure_eight(wide: float, upper: float) -> list[tuple[float, float]]:
    right = [
        (0.55, 0.0),
        (0.9, 0.07),
        (1.0, 0.16),
        (0.92, 0.25),
        (0.68, 0.32),
        (0.72, 0.4),
        (0.8 * upper / 0.86, 0.47),
        (0.6, 0.54),
        (0.25, 0.57),
    ]
    half = [(wide * x, y) for x, y in right]
    return [*half, *((-x, y) for x, y in reversed(half))]


def _electric(wide: float) -> list[tuple[float, float]]:
    shape = [(0.5, 0.0), (0.95, 0.08), (1.0, 0.2), (0.72, 0.3), (0.85, 0.44), (0.9, 0.56), (0.7, 0.52), (0.28, 0.4)]
    shape += [
        (-0.28, 0.4),
        (-0.7, 0.6),
        (-0.98, 0.62),
        (-0.85, 0.44),
        (-0.72, 0.3),
        (-1.0, 0.2),
        (-0.95, 0.08),
        (-0.5, 0.0),
    ]
    return [(wide * x, y) for x, y in shape]


def _umbrella(r: Recipe) -> Drawing:
    wide = r.vary("radius", 0.44, 0.5)
    rise = {
        "domed": r.vary("rise", 0.34, 0.42),
        "flat": r.vary("rise", 0.2, 0.25),
        "pointed": r.vary("rise", 0.42, 0.48),
    }[r.style]
    rim = 0.94 - rise
    shell = _canopy(r.style, wide, rise, rim)
    drawing = of(r.painted, lathe(shell, 20), lathe([(x * 0.97, y - 0.02) for x, y in reversed(shell)], 20))
    drawing += of(r.trim, torus(wide, 0.018, 20, 6).moved(y=rim), cone(0.03, 0.1, 10).moved(y=0.92))
    drawing += of(r.trim, cylinder(0.022, 0.8, segments=8).moved(y=0.13))
    hook = r.vary("hook", 0.07, 0.1)
    if "straight handle" in r.parts:
        return drawing + of(r.trim, cylinder(0.05, 0.22, segments=12))
    bend = [math.radians(20.0 * i) for i in range(0, 10)]
    path = [(0.0, 0.3), *((-hook + hook * math.cos(a), 0.13 - hook * math.sin(a)) for a in bend)]
    return drawing + of(r.trim, sweep(path, 0.036))


def _canopy(style: str, wide: float, rise: float, y: float) -> Profile:
    if style == "pointed":
        return [(wide * a, y + rise * b) for a, b in ((1.0, 0.0), (0.7, 0.2), (0.4, 0.5), (0.15, 0.84), (0.0, 1.0))]
    return arc(wide, rise, 0.0, 90.0, 7, cy=y)


def _clock(r: Recipe) -> Drawing:
    if r.style == "standing":
        w, d = r.vary("case", 0.3, 0.36), 0.22
        drawing = of(r.painted, box(w * 0.8, 0.7, d * 0.9).moved(y=0.08)) + of(
            r.body, box(w * 1.15, 0.34, d * 1.1).moved(y=0.62)
        )
        drawing += of(
            r.trim, box(w * 1.0, 0.08, d * 1.1), prism([(-w * 0.68, 0.96), (w * 0.68, 0.96), (0.0, 1.12)], d * 1.2)
        )
        drawing += of(_INK, box(w * 0.42, 0.36, 0.02).moved(y=0.16, z=d * 0.45)) + of(
            r.trim, sphere(0.06, 10).moved(y=0.26, z=d * 0.48)
        )
        return drawing + _dial(r, w * 0.46, 0.79, d * 0.55)
    if r.style == "house":
        w, d = r.vary("case", 0.56, 0.66), 0.3
        drawing = of(r.painted, box(w, 0.5, d).moved(y=0.08)) + of(r.trim, box(w + 0.05, 0.08, d + 0.04))
        roof = prism([(-w / 2 - 0.06, 0.57), (w / 2 + 0.06, 0.57), (0.0, 0.84)], d + 0.06)
        drawing += of(r.trim, roof) + of(
            r.body, prism([(-w / 2 + 0.01, 0.565), (w / 2 - 0.01, 0.565), (0.0, 0.78)], d + 0.08)
        )
        return drawing + _dial(r, w * 0.31, 0.36, d / 2)
    wide, d = r.vary("case", 0.34, 0.4), r.vary("depth", 0.2, 0.28)
    drum = cylinder(wide, d, segments=28).turned("x", 90.0).moved(y=wide + 0.1, z=-d / 2)
    drawing = of(r.painted, drum) + _dial(r, wide * 0.7, wide + 0.1, d / 2)
    bell = lathe([(0.13, 0.0), *arc(0.13, 0.12, 5.0, 90.0, 5)], 14)
    foot = cylinder(0.045, 0.2, segments=10)
    for side in (-1, 1):
        drawing += of(r.trim, bell.turned("z", -28.0 * side).moved(side * wide * 0.55, 2 * wide + 0.03))
        drawing += of(r.trim, foot.turned("z", 22.0 * side).moved(side * wide * 0.72, 0.0))
    if "hammer" in r.parts:
        drawing += of(
            Surface("steel"),
            cylinder(0.02, 0.16, segments=8).moved(y=2 * wide + 0.08),
            sphere(0.045, 8).moved(y=2 * wide + 0.24),
        )
    return drawing


def _dial(r: Recipe, radius: float, y: float, z: float) -> Drawing:
    """A pale face with hands, in a rim of accent color."""
    face = cylinder(radius, 0.02, segments=24).turned("x", 90.0).moved(y=y, z=z)
    rim = torus(radius, radius * 0.09, 24, 6).turned("x", 90.0).moved(y=y, z=z + 0.01)
    hand, turn = box(radius * 0.14, radius * 0.8, 0.02), r.vary("minute", 0.0, 360.0)
    hour = box(radius * 0.16, radius * 0.52, 0.02).turned("z", r.vary("hour", 0.0, 360.0))
    return (
        of(_CREAM, face)
        + of(r.trim, rim)
        + of(_INK, *(m.moved(y=y, z=z + 0.03) for m in (hand.turned("z", turn), hour)))
    )


def _hat(r: Recipe) -> Drawing:
    head, h = r.vary("head", 0.23, 0.28), r.vary("height", 0.36, 0.46)
    brim = {"top": 0.42, "cowboy": 0.5, "witch": 0.5, "cap": 0.0}[r.style]
    band = lathe([(head, 0.03), (head + 0.022, 0.03), (head + 0.018, 0.13), (head, 0.13)], 22)
    if r.style == "cap":
        drawing = of(r.painted, lathe(arc(head * 1.2, 0.34, 0.0, 90.0, 7), 22))
        visor = [(head * 0.98, 0.0), (0.24, 0.26), (0.12, 0.36), (-0.12, 0.36), (-0.24, 0.26), (-head * 0.98, 0.0)]
        flat = prism([(x, -y) for x, y in reversed(visor)], 0.04).turned("x", -90.0)
        return drawing + of(r.trim, flat.moved(y=0.02, z=head * 0.72), sphere(0.055, 10).moved(y=0.35))
    plate = [(head * 0.7, 0.0), (brim, 0.0), (brim, 0.03), (head * 0.7, 0.03)]
    rim = lathe([(x, 0.0 if y == 0.0 else y) for x, y in plate], 26)
    drawing = of(r.body, _curled(rim) if r.style == "cowboy" else rim)
    if r.style == "witch":
        tall = h + 0.34
        drawing += of(
            r.painted, lathe([(head, 0.02), (head * 0.66, tall * 0.36), (head * 0.26, tall * 0.75), (0.0, tall)], 22)
        )
        return drawing + of(
            r.trim, lathe([(head, 0.02), (head + 0.02, 0.02), (head * 0.86, 0.14), (head * 0.8, 0.14)], 22)
        )
    if r.style == "top":
        drawing += of(r.painted, cylinder(head, h + 0.12, top=head * 1.08, segments=22).moved(y=0.01))
    else:
        crown = [(head, 0.02), (head * 0.94, h * 0.55), (head * 0.72, h * 0.72), (0.0, h * 0.62)]
        drawing += of(r.painted, lathe(crown, 22).scaled(0.86, 1.0, 1.1))
        band = band.scaled(0.86, 1.0, 1.1)
    drawing += of(r.trim, band)
    if "feather" in r.parts:
        drawing += of(
            r.trim,
            prism([(0.0, 0.0), (0.06, 0.1), (0.03, 0.34), (-0.05, 0.16)], 0.03)
            .turned("y", 90.0)
            .moved(head, 0.08, -0.02),
        )
    return drawing


def _curled(brim: ProceduralMesh) -> ProceduralMesh:
    """The brim bent upwards at its sides."""
    points = brim.positions.copy()
    points[:, 1] += 0.7 * points[:, 0] ** 2
    return ProceduralMesh(points, brim.normals, brim.uvs, brim.faces)


def _cake(r: Recipe) -> Drawing:
    wide, h = r.vary("radius", 0.38, 0.44), r.vary("height", 0.3, 0.4)
    drawing = of(Surface("steel"), cylinder(wide + 0.08, 0.03, segments=26))
    tiers = {
        "layered": [(wide, h)],
        "two-tier": [(wide, h * 0.8), (wide * 0.62, h * 0.75)],
        "three-tier": [(wide, 0.26), (wide * 0.7, 0.24), (wide * 0.42, 0.22)],
    }[r.style]
    y = 0.03
    for radius, rise in tiers:
        drawing += of(r.painted, cylinder(radius, rise, segments=26).moved(y=y))
        drawing += of(r.trim, torus(radius, 0.024, 26, 6).moved(y=y + 0.02))
        y += rise
    top = tiers[-1][0]
    count = 8 if r.style == "layered" else 5
    drawing += of(r.trim, around(sphere(0.046, 10).moved(y=y + 0.02, z=top * 0.74), count))
    if "candles" in r.parts:
        for x, z in ((0.0, 0.0), (0.1, 0.06), (-0.09, 0.08)):
            drawing += of(_CREAM, cylinder(0.025, 0.2, segments=8).moved(x, y, z)) + of(
                Surface("carrot"), cone(0.026, 0.07, 8).moved(x, y + 0.2, z)
            )
    return drawing


def _ice_cream(r: Recipe) -> Drawing:
    ball = r.vary("scoop", 0.23, 0.28)
    if r.style == "sundae":
        cup = lathe([(0.0, 0.0), (0.17, 0.0), (0.15, 0.03), (0.04, 0.08), (0.05, 0.16), (0.27, 0.42), (0.0, 0.42)], 20)
        drawing, rim = of(Surface("straw"), cup), 0.42
        drawing += of(r.trim, torus(0.265, 0.03, 20, 6).moved(y=rim))
    else:
        rim = r.vary("cone", 0.44, 0.54)
        drawing = of(Surface("straw"), lathe([(0.0, 0.0), (0.2, rim), (0.0, rim)], 20)) + of(
            r.trim, torus(0.2, 0.045, 20, 6).moved(y=rim)
        )
    y = rim + ball * 0.62
    drawing += of(r.painted, sphere(ball, 20).moved(y=y))
    if r.style == "double":
        y += ball * 1.15
        drawing += of(r.painted, sphere(ball * 0.8, 20).moved(y=y))
        ball *= 0.8
    drawing += of(r.trim, sphere(0.075, 12).moved(y=y + ball + 0.04))
    if "wafer" in r.parts:
        drawing += of(
            Surface("straw"),
            cylinder(0.035, 0.32, segments=10).turned("z", -28.0).moved(ball * 0.5, y + ball * 0.5, -0.03),
        )
    return drawing


GUITAR = Family(
    "guitar",
    _guitar,
    {"acoustic": "acoustic guitar", "electric": "electric guitar", "small": "small round guitar"},
    "headstock and bridge",
    (),
    ("depth", "thin", "thick"),
    ("instrument",),
)
UMBRELLA = Family(
    "umbrella",
    _umbrella,
    {"domed": "domed umbrella", "flat": "flat umbrella", "pointed": "pointed umbrella"},
    "handle",
    (Part("straight handle", 0.35, "a straight handle"),),
    ("radius", "narrow", "wide"),
    ("rain",),
)
CLOCK = Family(
    "clock",
    _clock,
    {"alarm": "alarm clock", "standing": "grandfather clock", "house": "house-shaped clock"},
    {"alarm": "bells and feet", "standing": "base and top", "house": "roof"},
    (Part("hammer", 0.5, "a small hammer", ("alarm",)),),
    ("case", "narrow", "wide"),
    ("time",),
)
HAT = Family(
    "hat",
    _hat,
    {"top": "top hat", "cowboy": "cowboy hat", "witch": "pointed hat", "cap": "peaked hat"},
    {"top": "band", "cowboy": "band", "witch": "band", "cap": "peak"},
    (Part("feather", 0.4, "a feather", ("top", "cowboy")),),
    ("height", "low", "high"),
    ("clothing",),
)
CAKE = Family(
    "cake",
    _cake,
    {"layered": "round cake", "two-tier": "two-tier cake", "three-tier": "three-tier cake"},
    "cherries",
    (Part("candles", 0.5, "three candles"),),
    ("radius", "small", "large"),
    ("food",),
)
ICE_CREAM = Family(
    "ice cream",
    _ice_cream,
    {"single": "ice cream cone", "double": "double-scoop ice cream", "sundae": "sundae ice cream"},
    "cherry",
    (Part("wafer", 0.4, "a wafer"),),
    ("scoop", "small", "big"),
    ("food",),
)
