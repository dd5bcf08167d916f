"""Cars, rockets and boats."""

import math

import numpy as np

from sar3d.procedural.mesh import Mesh
from sar3d.procedural.paint import Surface
from sar3d.procedural.parts import arc, band, box, capped, cylinder, lathe, prism, ribbon, sphere, sweep, torus
from sar3d.procedural.recipe import Drawing, Family, Recipe, backing, phrase

_HUES = ("red", "blue", "yellow", "green", "white", "orange", "turquoise", "purple", "pink", "black")
_GLASS = Surface("glass", roughness=0.2)
_RUBBER = Surface("rubber")
_STEEL = Surface("steel", roughness=0.4)


def _side(polygon: list[tuple[float, float]], width: float) -> Mesh:
    """A side view (z forward, y up), counter-clockwise when the front points right, given a width along x."""
    return prism(polygon, width).turned("y", -90.0)


def _car(r: Recipe) -> Drawing:
    length, w = r.vary("length", 3.7, 4.2), r.vary("width", 1.65, 1.8)
    k, body = length / 4.0, Surface(r.main, roughness=0.35)
    outline, cabin, roof = _car_lines(r, k)
    rear, front, y = roof
    drawing: Drawing = [(body, _side(outline, w)), (_GLASS, _side(cabin, w * 0.86))]
    slab = box(w * 0.88, 0.09, front - rear, 0.03).moved(y=y, z=(front + rear) / 2)
    drawing.append((body, slab))
    drawing.append(
        (r.painted(), box(w * 0.82, 0.02, front - rear - 0.06).moved(y=y + 0.08, z=(front + rear) / 2).tiled(1.1, 1.1))
    )
    for (z0, y0), (z1, y1) in _pillars(cabin):
        bar = _side([(z0 - 0.06, y0), (z0 + 0.06, y0), (z1 + 0.06, y1), (z1 - 0.06, y1)], 0.08)
        drawing += [(body, bar.moved(x=x)) for x in (-w * 0.42, w * 0.42)]
    return [*drawing, *_running_gear(r, k, w)]


Line = list[tuple[float, float]]


def _car_lines(r: Recipe, k: float) -> tuple[Line, Line, tuple[float, float, float]]:
    """Body outline, cabin outline, and the roof's rear, front and height."""
    floor, tail, nose = 0.28, -2.0 * k, 2.0 * k
    if r.style == "van":
        belt, top = 1.15, r.vary("top", 1.75, 1.95)
        body = [(tail, floor), (nose, floor), (nose + 0.02, 0.75), (nose - 0.25, belt), (tail, belt)]
        cabin = [(tail + 0.06, belt), (nose - 0.3, belt), (nose - 0.75, top), (tail + 0.12, top)]
        return body, cabin, (tail + 0.04, nose - 0.66, top)
    belt, top = r.vary("belt", 0.85, 0.92), r.vary("top", 1.35, 1.45)
    body = [
        (tail, floor),
        (nose, floor),
        (nose + 0.03, 0.6),
        (nose - 0.25, belt - 0.12),
        (0.95 * k, belt),
        (tail + 0.12, belt),
    ]
    body.append((tail - 0.02, belt - 0.15))
    if r.style == "pickup":
        cabin = [(-0.5 * k, belt), (0.95 * k, belt), (0.45 * k, top + 0.1), (-0.42 * k, top + 0.1)]
        return body, cabin, (-0.5 * k, 0.52 * k, top + 0.1)
    cabin = [(-1.5 * k, belt), (0.95 * k, belt), (0.3 * k, top), (-1.0 * k, top)]
    return body, cabin, (-1.08 * k, 0.38 * k, top)


def _pillars(cabin: Line) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    rear, front, ahead, behind = cabin
    middle = ((rear[0] + front[0]) / 2 - 0.05, rear[1]), ((rear[0] + front[0]) / 2 - 0.05, ahead[1])
    inset = 0.05
    return [
        ((rear[0] + inset, rear[1]), (behind[0] + inset, behind[1])),
        middle,
        ((front[0] - inset, front[1]), (ahead[0] - inset, ahead[1])),
    ]


def _running_gear(r: Recipe, k: float, w: float) -> Drawing:
    radius, drawing = (
        r.vary("wheel", 0.33, 0.38),
        [(_STEEL, box(w + 0.04, 0.14, 0.1, 0.03).moved(y=0.32, z=z)) for z in (-2.02 * k, 2.02 * k)],
    )
    tyre = cylinder(radius, 0.24, bevel=0.05, segments=28).moved(y=-0.12).turned("z", 90.0)
    hub = cylinder(radius * 0.55, 0.27, bevel=0.03, segments=20).moved(y=-0.135).turned("z", 90.0)
    for x in (-w / 2 + 0.06, w / 2 - 0.06):
        for z in (-1.2 * k, 1.2 * k):
            drawing += [(_RUBBER, tyre.moved(x, radius, z)), (_STEEL, hub.moved(x, radius, z))]
        lamp = cylinder(0.12, 0.08, bevel=0.02, segments=16).turned("x", 90.0)
        drawing.append((Surface("light", roughness=0.3), lamp.moved(x * 0.78, 0.6, 2.0 * k - 0.02)))
        drawing.append(
            (Surface("red" if r.main != "red" else "orange"), box(0.3, 0.12, 0.05).moved(x * 0.8, 0.6, -2.02 * k))
        )
    if r.style == "pickup":
        drawing.append((_RUBBER, box(w * 0.82, 0.02, 1.3 * k).moved(y=0.905, z=-1.2 * k)))
        for x in (-w * 0.46, w * 0.46):
            drawing.append((Surface(r.main, roughness=0.35), box(0.1, 0.22, 1.42 * k, 0.02).moved(x, 0.8, -1.22 * k)))
        drawing.append((Surface(r.main, roughness=0.35), box(w, 0.22, 0.1, 0.02).moved(y=0.8, z=-1.9 * k)))
    return drawing


def _describe_car(r: Recipe) -> tuple[str, str]:
    kind = {"sedan": "sedan", "van": "van", "pickup": "pickup truck"}[r.style]
    return (
        f"{phrase(r.main, 'van' if r.style == 'van' else 'car')} with {r.accent} {r.pattern} on its roof",
        f"{phrase(r.main, kind)} on four black wheels; its roof is painted with {r.accent} {r.pattern}.".capitalize(),
    )


def _rocket(r: Recipe) -> Drawing:
    body, trim = Surface(r.main, roughness=0.4), Surface(r.accent, roughness=0.4)
    wide, h = r.vary("radius", 0.24, 0.3), r.vary("height", 1.5, 1.9)
    if r.style == "bulging":
        wide, h = wide * 1.15, h * 0.85
    lift, steps = 0.3, 16
    wall = [(wide * _rocket_radius(r, i / steps), lift + h * i / steps) for i in range(steps + 1)]
    tip, top = wall[-1]
    nose = [(tip * math.cos(a) ** 0.9, top + 0.5 * math.sin(a)) for a in (math.radians(6.0 * i) for i in range(15))]
    drawing: Drawing = [
        (body, lathe([(0.0, lift), *wall, (0.0, top)], 32)),
        (trim, lathe([(0.0, top), (tip + 0.012, top), *nose[1:], (0.0, top + 0.5)], 32)),
        (r.painted(), ribbon(wall[5:9], 0.004, 0.5, 32)),
        (
            Surface("grey", roughness=0.4),
            lathe([(0.0, 0.16), (wide * 0.7, 0.12), (wide * 0.45, lift + 0.02), (0.0, lift + 0.02)], 24),
        ),
    ]
    port, level = wide * _rocket_radius(r, 0.7), lift + h * 0.7
    pane = sphere(0.1, 20).scaled(1.0, 1.0, 0.4).moved(y=level, z=port - 0.005)
    drawing += [(_STEEL, torus(0.11, 0.025, 24, 8).turned("x", 90.0).moved(y=level, z=port)), (_GLASS, pane)]
    return [*drawing, *_fins(r, wide, h, lift)]


def _rocket_radius(r: Recipe, t: float) -> float:
    if r.style == "bulging":
        return 0.62 + 0.45 * math.sin(math.pi * (0.08 + 0.72 * t))
    return 1.0 - 0.16 * t * t


def _fins(r: Recipe, wide: float, h: float, lift: float) -> Drawing:
    trim = Surface(r.accent, roughness=0.4)
    count, reach = (4 if r.vary("fins", 0.0, 1.0) > 0.5 else 3), wide + r.vary("reach", 0.2, 0.3)
    inner = wide * 0.72
    outline = [
        (inner, lift + 0.02),
        (reach * 0.92, 0.0),
        (reach, 0.0),
        (reach, 0.22),
        (wide, lift + 0.34 * h * 0.8),
        (inner, lift + 0.34 * h * 0.8),
    ]
    fin = prism(outline, 0.05)
    drawing: Drawing = [(trim, fin.turned("y", 45.0 + 360.0 * i / count)) for i in range(count)]
    if r.style != "boosted":
        return drawing
    tall = h * 0.55
    side = [(0.0, 0.0), (0.11, 0.0), (0.08, 0.1), (0.11, 0.12), (0.11, tall), (0.0, tall)]
    cap = lathe([(0.0, tall), (0.11, tall), *arc(0.11, 0.22, 0.0, 90.0, 8, cy=tall)[1:]], 20)
    for x in (-wide - 0.1, wide + 0.1):
        drawing += [(Surface(r.main, roughness=0.4), lathe(side, 20).moved(x, 0.12)), (trim, cap.moved(x, 0.12))]
    return drawing


def _describe_rocket(r: Recipe) -> tuple[str, str]:
    kind = {"slim": "slim rocket", "bulging": "bulging toy rocket", "boosted": "rocket with two boosters"}[r.style]
    return (
        f"{phrase(r.main, 'rocket')} with {r.accent} fins and a band of {r.pattern}",
        f"{phrase(kind)} in {r.main}, with {phrase(r.accent, 'nose')}, a round window and {r.pattern}.".capitalize(),
    )


def _hull(length: float, width: float, height: float, hollow: float) -> Mesh:
    """A closed hull along z with its bow at +z; `hollow` is how deep the inside is scooped out."""
    sections = []
    for i in range(17):
        t = i / 16
        taper = 1.0 - max((t - 0.35) / 0.65, 0.0) ** 2
        fullness = max(taper, 0.02) * (0.8 + 0.2 * min(t / 0.35, 1.0))
        half, sheer = width / 2 * fullness, height * (1.0 + 0.35 * (t - 0.3) ** 2 + 0.25 * t**4)
        keel = height * 0.55 * max((t - 0.55) / 0.45, 0.0) ** 2
        scoop = hollow * min(1.0, 12.0 * t * 0.98, max(0.0, 6.0 * (0.97 - t)))
        outer = [
            (half * math.sin(a), sheer - (sheer - keel) * math.cos(a))
            for a in (math.radians(9.0 * j) for j in range(-10, 11))
        ]
        rim = half * 0.86
        inner = [
            (rim * math.sin(a), sheer - scoop * math.cos(a))
            for a in (math.radians(9.0 * j) for j in range(10, -11, -1))
        ]
        sections.append([(x, y, length * (t - 0.5)) for x, y in [*outer, *inner]])
    rings = np.array(sections)
    return capped(rings, (0, 10, 20, 21, 31, 41)).tiled(3.0, 2.0)


def _boat(r: Recipe) -> Drawing:
    length, width, height = r.vary("length", 2.6, 3.2), r.vary("width", 1.0, 1.2), r.vary("height", 0.55, 0.68)
    hull = Surface(r.main, roughness=0.45)
    drawing: Drawing = [(hull, _hull(length, width, height, height * (0.75 if r.style == "rowing" else 0.06)))]
    if r.style == "rowing":
        return drawing + _thwarts(r, length, width, height)
    if r.style == "steam":
        return drawing + _cabin(r, length, width, height)
    mast, z = r.vary("mast", 2.0, 2.4), length * 0.08
    wood = Surface("bark", "wood")
    drawing.append((wood, cylinder(0.035, mast + 0.1, segments=12).moved(y=height * 0.9, z=z)))
    foot, peak = height + 0.28, height + mast - 0.1
    drawing.append(
        (wood, sweep([(0.0, foot - 0.06), (length * 0.46, foot - 0.06)], 0.025).turned("y", 90.0).moved(z=z))
    )
    cloth = Surface(backing(r.accent, "white"), r.pattern, r.accent)
    main = prism([(-length * 0.44, foot), (-0.05, foot), (-0.05, peak)], 0.02).tiled(1.0, 1.0).turned("y", -90.0)
    jib = prism([(0.06, foot), (length * 0.36, foot - 0.12), (0.06, peak * 0.88)], 0.02).turned("y", -90.0)
    return [*drawing, (cloth, main.moved(z=z)), (Surface("white"), jib.moved(z=z)), *_deck(r, length, width, height)]


def _deck(r: Recipe, length: float, width: float, height: float) -> Drawing:
    bench = box(width * 0.5, 0.16, length * 0.2, 0.03).tiled(1.0, 1.0).moved(y=height * 0.92, z=-length * 0.22)
    return [(Surface("straw", "planks"), bench)]


def _thwarts(r: Recipe, length: float, width: float, height: float) -> Drawing:
    seat, wood = Surface(r.accent, "planks"), Surface("straw", "wood")
    drawing: Drawing = [
        (seat, box(width * wide, 0.05, 0.24).moved(y=height * 0.74, z=length * z).tiled(1.0, 2.0))
        for z, wide in ((-0.26, 0.7), (-0.02, 0.76), (0.18, 0.6))
    ]
    for side in (-1, 1):
        oar = [
            (wood, cylinder(0.022, 1.5, segments=10)),
            (r.painted(), box(0.2, 0.5, 0.03, 0.008).moved(y=-0.45).tiled(2.0, 2.0)),
        ]
        tilted = [(s, m.moved(y=-0.9).turned("z", 66.0 * side)) for s, m in oar]
        drawing += [(s, m.moved(side * (width / 2 - 0.02), height + 0.06, 0.1)) for s, m in tilted]
    return drawing


def _cabin(r: Recipe, length: float, width: float, height: float) -> Drawing:
    house, deep = Surface("white"), length * 0.3
    drawing: Drawing = [
        (house, box(width * 0.56, 0.5, deep, 0.03).moved(y=height * 0.9, z=-0.1)),
        (Surface(r.main), box(width * 0.64, 0.06, deep + 0.1, 0.02).moved(y=height * 0.9 + 0.5, z=-0.1)),
    ]
    for side in (-1, 1):
        for z in (-0.32, 0.1):
            pane = (
                cylinder(0.1, 0.04, segments=18)
                .turned("z", 90.0)
                .moved(side * width * 0.28 + 0.02, height * 0.9 + 0.27, z)
            )
            drawing.append((_GLASS, pane))
    front = box(width * 0.4, 0.2, 0.04).moved(y=height * 0.9 + 0.2, z=-0.1 + deep / 2)
    funnel = cylinder(0.15, 0.55, bevel=0.02, segments=24).moved(y=height * 0.9 + 0.5, z=-0.2)
    y = height * 0.9 + 0.62
    return [
        *drawing,
        (_GLASS, front),
        (Surface(r.main), funnel),
        (r.painted(), band((0.15, y), (0.15, y + 0.3), 0.004, 0.3).moved(z=-0.2)),
    ]


def _describe_boat(r: Recipe) -> tuple[str, str]:
    first, kind = {
        "sail": ("sail", "sailing boat with a white jib"),
        "rowing": ("oars", "rowing boat with three benches"),
        "steam": ("funnel", "small steamboat with a white cabin"),
    }[r.style]
    return (
        f"{phrase(r.main, 'boat')} with {r.accent} {r.pattern} on its {first}",
        f"{phrase(kind)} and {phrase(r.main, 'hull')}; its {first} shows {r.accent} {r.pattern}.".capitalize(),
    )


CAR = Family(
    "car",
    ("sedan", "van", "pickup"),
    _HUES,
    ("checks", "stripes", "dots", "zigzags"),
    _car,
    _describe_car,
    ("vehicle",),
)
ROCKET = Family(
    "rocket",
    ("slim", "bulging", "boosted"),
    _HUES,
    ("checks", "hoops", "zigzags", "stripes"),
    _rocket,
    _describe_rocket,
    ("vehicle", "space"),
)
BOAT = Family(
    "boat",
    ("sail", "rowing", "steam"),
    _HUES,
    ("stripes", "dots", "zigzags", "checks"),
    _boat,
    _describe_boat,
    ("vehicle", "water"),
)
