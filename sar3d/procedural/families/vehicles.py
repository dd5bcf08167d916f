"""Cars, trucks, boats, planes, rockets and balloons. Those that drive, swim or fly level face +z."""

import math

import numpy as np

from sar3d.procedural.mesh import ProceduralMesh
from sar3d.procedural.paint import Surface
from sar3d.procedural.parts import arc, around, at_sides, box, capped, cylinder, lathe, prism, sphere, torus
from sar3d.procedural.recipe import Drawing, Family, Part, Recipe, of

_GLASS, _RUBBER, _STEEL, _LIGHT = Surface("glass"), Surface("rubber"), Surface("steel"), Surface("light")
_FINS = 3, 4


def _side(polygon: list[tuple[float, float]], width: float) -> ProceduralMesh:
    """A side view (z forward, y up), counter-clockwise when the front points right, given a width along x."""
    return prism(polygon, width).turned("y", -90.0)


def _wheels(r: Recipe, radius: float, x: float, places: tuple[float, ...]) -> Drawing:
    """Pairs of wheels at `places` along z, with hubs of accent color."""
    tire = cylinder(radius, 0.1, segments=18).moved(y=-0.05).turned("z", 90.0).moved(y=radius)
    hub = cylinder(radius * 0.55, 0.13, segments=14).moved(y=-0.065).turned("z", 90.0).moved(y=radius)
    drawing: Drawing = []
    for z in places:
        drawing += of(_RUBBER, tire.moved(x, 0.0, z), tire.moved(-x, 0.0, z))
        drawing += of(r.trim, hub.moved(x, 0.0, z), hub.moved(-x, 0.0, z))
    return drawing


def _car(r: Recipe) -> Drawing:
    w, belt, wheel = r.vary("width", 0.4, 0.46), r.vary("belt", 0.25, 0.28), r.vary("wheel", 0.095, 0.115)
    top = belt + (0.11 if r.style == "sports" else r.vary("roof", 0.14, 0.18))
    body = [
        (-0.5, 0.08),
        (0.5, 0.08),
        (0.5, belt - 0.08),
        (0.46, belt - 0.03),
        (0.24, belt),
        (-0.48, belt),
        (-0.5, belt - 0.05),
    ]
    rear = {"sedan": (-0.4, -0.26), "hatchback": (-0.47, -0.42), "sports": (-0.42, -0.18)}[r.style]
    front = (0.26, 0.08) if r.style != "sports" else (0.2, -0.02)
    cabin = [(rear[0], belt), (front[0], belt), (front[1], top), (rear[1], top)]
    roof = box(w * 0.84, 0.04, front[1] - rear[1] + 0.02).moved(y=top - 0.01, z=(front[1] + rear[1]) / 2)
    drawing = of(r.painted, _side(body, w)) + of(_GLASS, _side(cabin, w * 0.82)) + of(r.body, roof)
    for z0, z1 in (rear, front):
        post = _side([(z0 - 0.025, belt), (z0 + 0.025, belt), (z1 + 0.025, top), (z1 - 0.025, top)], 0.03)
        drawing += of(r.body, post.moved(x=w * 0.405), post.moved(x=-w * 0.405))
    lamp = sphere(0.045, 10).moved(y=belt - 0.075, z=0.49)
    drawing += of(_LIGHT, lamp.moved(x=w * 0.33), lamp.moved(x=-w * 0.33))
    bumper = box(w * 1.04, 0.065, 0.06).moved(y=0.08)
    drawing += of(r.trim, bumper.moved(z=0.5), bumper.moved(z=-0.5), box(w * 1.03, 0.05, 0.96).moved(y=0.085))
    if "spoiler" in r.parts:
        drawing += of(r.trim, box(w * 0.95, 0.025, 0.1).moved(y=belt + 0.07, z=-0.47))
        drawing += of(r.trim, at_sides(box(0.03, 0.08, 0.05), w * 0.32).moved(y=belt, z=-0.46))
    if "roof rack" in r.parts:
        drawing += of(_STEEL, at_sides(box(0.025, 0.05, 0.26), w * 0.32).moved(y=top + 0.03, z=-0.1))
    return drawing + _wheels(r, wheel, w / 2 - 0.03, (-0.3, 0.3))


def _truck(r: Recipe) -> Drawing:
    w, load, high = r.vary("width", 0.34, 0.4), r.vary("load", 0.58, 0.68), r.vary("height", 0.36, 0.46)
    back, front = -0.5, 0.5
    join_at = back + load
    drawing = of(r.trim, box(w * 1.02, 0.06, 0.98).moved(y=0.12), box(w * 1.06, 0.08, 0.05).moved(y=0.1, z=front))
    cab = [(join_at + 0.02, 0.16), (front, 0.16), (front, 0.28), (front - 0.06, 0.42), (join_at + 0.02, 0.42)]
    drawing += of(r.body, _side(cab, w * 0.96))
    roof = (join_at + front) / 2 - 0.02
    drawing += of(r.trim, box(w * 0.9, 0.035, front - join_at - 0.08).moved(y=0.42, z=roof))
    pane = [(front - 0.003, 0.285), (front + 0.012, 0.29), (front - 0.048, 0.4), (front - 0.063, 0.395)]
    drawing += of(_GLASS, _side(pane, w * 0.8), box(w * 0.98, 0.1, 0.14).moved(y=0.28, z=roof))
    lamp = sphere(0.035, 10).moved(y=0.2, z=front)
    drawing += of(_LIGHT, lamp.moved(x=w * 0.34), lamp.moved(x=-w * 0.34))
    middle = back + load / 2
    if r.style == "tank":
        tank = cylinder(high * 0.48, load, segments=22).turned("x", 90.0).moved(y=0.17 + high * 0.46, z=back)
        drawing += of(r.painted, tank) + of(
            r.trim, cylinder(0.05, 0.05, segments=12).moved(y=0.17 + high * 0.93, z=middle)
        )
    elif r.style == "dump":
        tub = [
            (back - 0.06, 0.22),
            (back + 0.08, 0.17),
            (join_at, 0.17),
            (join_at, 0.17 + high * 0.85),
            (back - 0.1, 0.17 + high * 0.6),
        ]
        drawing += of(r.painted, _side(tub, w * 1.05))
        drawing += of(
            Surface("soil"), box(w * 0.9, 0.05, load * 0.8).turned("x", -9.0).moved(y=0.15 + high * 0.72, z=middle)
        )
    else:
        drawing += of(r.painted, box(w * 1.05, high, load).moved(y=0.17, z=middle))
        drawing += of(r.trim, box(w * 1.09, 0.04, load + 0.03).moved(y=0.15 + high, z=middle))
    if "exhaust pipe" in r.parts:
        drawing += of(_STEEL, cylinder(0.025, 0.5, segments=10).moved(w * 0.5, 0.13, join_at))
    return drawing + _wheels(r, 0.095, w / 2 - 0.01, (-0.36, -0.14, 0.36))


def _boat(r: Recipe) -> Drawing:
    w, h = r.vary("width", 0.32, 0.4), r.vary("hull", 0.2, 0.26)
    drawing = of(r.body, _hull(w, h)) + of(r.trim, _hull(w * 1.06, h).scaled(1.0, 0.22, 1.02).moved(y=h * 0.8))
    if r.style == "sailing":
        mast = r.vary("mast", 0.72, 0.86)
        top, foot = h + mast, h + 0.1
        drawing += of(Surface("bark"), cylinder(0.022, mast + 0.04, segments=10).moved(y=h - 0.02, z=0.06))
        drawing += of(r.painted, _side([(-0.4, foot), (0.03, foot), (0.03, top - 0.03)], 0.03))
        drawing += of(r.painted, _side([(0.1, foot), (0.42, foot), (0.1, top - 0.14)], 0.03))
        return drawing + of(r.trim, _side([(-0.14, top), (0.06, top - 0.06), (0.06, top + 0.06)], 0.03))
    deck = box(w * 0.62, 0.16, 0.42).moved(y=h, z=-0.1)
    drawing += of(r.painted, deck) + of(r.trim, box(w * 0.7, 0.035, 0.48).moved(y=h + 0.16, z=-0.1))
    drawing += of(
        _GLASS, box(w * 0.64, 0.07, 0.3).moved(y=h + 0.06, z=-0.1), box(w * 0.44, 0.07, 0.44).moved(y=h + 0.06, z=-0.1)
    )
    if r.style == "steam":
        funnel = r.vary("funnel", 0.22, 0.32)
        drawing += of(r.painted, cylinder(0.075, funnel, segments=16).moved(y=h + 0.18, z=-0.14))
        drawing += of(r.trim, cylinder(0.085, 0.07, segments=16).moved(y=h + 0.14 + funnel, z=-0.14))
    else:
        drawing += of(
            r.body,
            box(w * 0.42, 0.1, 0.2).moved(y=h + 0.19, z=-0.14),
            cylinder(0.012, 0.2, segments=8).moved(y=h + 0.28, z=-0.2),
        )
    return drawing


def _hull(width: float, height: float) -> ProceduralMesh:
    """A closed hull from z = -0.5 to its bow at z = 0.5."""
    rings = []
    for i in range(9):
        t = i / 8
        half = width / 2 * max(1.0 - max((t - 0.4) / 0.6, 0.0) ** 2, 0.03) * (0.82 + 0.18 * min(t / 0.4, 1.0))
        sheer, keel = height * (1.0 + 0.3 * t**4), height * 0.5 * max((t - 0.55) / 0.45, 0.0) ** 2
        bow = 0.1 * t**3
        section = [
            (-half, sheer),
            (-half * 0.86, keel + (sheer - keel) * 0.4),
            (-half * 0.45, keel),
            (half * 0.45, keel),
        ]
        section += [(half * 0.86, keel + (sheer - keel) * 0.4), (half, sheer)]
        rings.append([(x, y, t - 0.5 + bow * (y / height - 0.5)) for x, y in section])
    return capped(np.array(rings), (0, 5, 6))


def _plane(r: Recipe) -> Drawing:
    girth, span, chord = r.vary("girth", 0.085, 0.105), r.vary("span", 0.42, 0.5), r.vary("chord", 0.17, 0.22)
    nose = [(girth, 0.3), (girth * 0.86, 0.4), (girth * 0.5, 0.475), (0.0, 0.5)]
    body = lathe([(0.0, -0.5), (girth * 0.28, -0.49), (girth * 0.7, -0.28), (girth, -0.05), *nose], 16)
    drawing = of(r.painted, body.turned("x", 90.0))
    sweep_back = 0.16 if r.style == "jet" else 0.02
    wing = [(0.0, chord / 2), (0.0, -chord / 2), (span, -sweep_back - chord * 0.32), (span, -sweep_back + chord * 0.25)]
    flat = prism(wing, 0.035).turned("x", 90.0)
    both = [flat.moved(y=-0.02), _mirrored(wing, 0.035).moved(y=-0.02)]
    drawing += of(r.painted, *(m.moved(z=0.06) for m in both))
    if r.style == "biplane":
        drawing += of(r.painted, *(m.moved(y=0.24, z=0.08) for m in both))
        strut = box(0.025, 0.24, 0.03).moved(y=-0.01, z=0.06)
        drawing += of(r.trim, at_sides(strut.moved(z=-0.06), span * 0.62).moved(z=0.06))
    tail = [(0.0, 0.07), (0.0, -0.06), (0.19, -0.08), (0.19, 0.0)]
    tails = [prism(tail, 0.03).turned("x", 90.0), _mirrored(tail, 0.03)]
    drawing += of(r.trim, *(m.moved(y=0.02, z=-0.42) for m in tails))
    drawing += of(r.trim, _side([(-0.5, 0.02), (-0.32, 0.02), (-0.42, 0.24), (-0.5, 0.24)], 0.035))
    drawing += of(_GLASS, sphere(girth * 0.72, 12).scaled(0.8, 1.0, 1.5).moved(y=girth * 0.55, z=0.24))
    if r.style == "jet":
        pod = (
            lathe([(0.0, -0.1), (0.05, -0.1), (0.058, 0.08), (0.0, 0.08)], 12).turned("x", 90.0).moved(y=-0.09, z=0.02)
        )
        return drawing + of(r.trim, pod.moved(x=span * 0.42), pod.moved(x=-span * 0.42))
    blade = box(0.4, 0.05, 0.02).moved(y=-0.025, z=0.5)
    drawing += of(r.trim, blade.turned("z", 35.0), sphere(0.05, 10).moved(z=0.5))
    return drawing + _gear(r, girth)


def _gear(r: Recipe, girth: float) -> Drawing:
    if "landing gear" not in r.parts:
        return []
    wheel = cylinder(0.05, 0.035, segments=12).turned("z", 90.0).moved(y=-girth - 0.1, z=0.16)
    leg = box(0.02, 0.12, 0.03).moved(y=-girth - 0.1, z=0.16)
    return of(_RUBBER, wheel.moved(x=0.14), wheel.moved(x=-0.1)) + of(r.trim, leg.moved(x=0.11), leg.moved(x=-0.11))


def _mirrored(outline: list[tuple[float, float]], depth: float) -> ProceduralMesh:
    """The flat prism of an outline on the side of -x."""
    return prism([(-x, y) for x, y in reversed(outline)], depth).turned("x", 90.0)


def _rocket(r: Recipe) -> Drawing:
    wide, h, lift = r.vary("radius", 0.13, 0.17), 0.6, 0.14
    shape = [(1.0, 0.0), (1.0, 0.35), (0.98, 0.7), (0.92, 1.0)]
    if r.style == "bulging":
        wide *= 1.2
        shape = [(0.6, 0.0), (0.86, 0.2), (1.0, 0.45), (0.96, 0.7), (0.8, 1.0)]
    wall = [(wide * x, lift + h * y) for x, y in shape]
    tip, top = wall[-1]
    point = r.vary("nose", 0.22, 0.32)
    nose = [(tip * math.cos(a) ** 0.85, top + point * math.sin(a)) for a in (0.35, 0.7, 1.05, 1.35)]
    drawing = of(r.painted, lathe([(0.0, lift), *wall], 20))
    drawing += of(r.body, lathe([(tip, top), *nose[:2], (0.0, nose[1][1])], 20))
    drawing += of(r.trim, lathe([nose[1], *nose[2:], (0.0, top + point)], 20))
    drawing += of(_STEEL, lathe([(0.0, 0.06), (wide * 0.7, 0.05), (wide * 0.4, lift + 0.01)], 16))
    port, level = wide * (0.93 if r.style == "bulging" else 1.0), lift + h * 0.72
    drawing += of(_STEEL, torus(0.065, 0.02, 16, 6).turned("x", 90.0).moved(y=level, z=port))
    drawing += of(_GLASS, sphere(0.062, 12).scaled(1.0, 1.0, 0.4).moved(y=level, z=port))
    count, reach, root = r.pick("fins", *_FINS), wide + r.vary("reach", 0.11, 0.16), wide * 0.55
    fin = prism(
        [(root, lift), (reach * 0.9, 0.0), (reach, 0.0), (reach, 0.14), (wide * 0.9, 0.38), (root, 0.38)], 0.045
    )
    drawing += of(r.trim, around(fin, count, 45.0))
    if r.style == "boosted":
        side = lathe([(0.0, 0.0), (0.065, 0.0), (0.065, 0.36), *arc(0.065, 0.11, 0.0, 90.0, 4, cy=0.36)[1:]], 14)
        drawing += of(r.body, side.moved(wide + 0.06, 0.05), side.moved(-wide - 0.06, 0.05))
    return drawing


def _balloon(r: Recipe) -> Drawing:
    wide = r.vary("radius", 0.33, 0.38)
    ball = {"round": wide, "tall": wide * 1.15}[r.style]
    middle = (1.0 if r.style == "round" else 1.14) - ball
    upper = arc(wide, ball, 0.0, 90.0, 8, cy=middle)
    lower = [(wide * x, middle - ball * y) for x, y in ((0.24, 1.22), (0.5, 0.94), (0.78, 0.62), (0.95, 0.3))]
    mouth = lower[0][1]
    drawing = of(r.painted, lathe([(0.0, mouth), *lower, *upper], 24))
    drawing += of(
        r.trim, lathe([(wide * 0.25, mouth - 0.01), (wide * 0.46, mouth + wide * 0.26), (0.0, mouth + 0.3)], 20)
    )
    basket = r.vary("basket", 0.15, 0.19)
    drawing += of(r.trim, box(basket, 0.13, basket))
    rope = box(0.016, mouth - 0.09, 0.016).moved(y=0.11)
    drawing += of(
        Surface("bark"), *(rope.moved(i * basket * 0.44, 0.0, j * basket * 0.44) for i in (-1, 1) for j in (-1, 1))
    )
    if "belt" in r.parts:
        drawing += of(
            r.trim,
            lathe(
                [
                    (wide, middle - 0.05),
                    (wide + 0.014, middle - 0.05),
                    (wide + 0.014, middle + 0.05),
                    (wide, middle + 0.05),
                ],
                24,
            ),
        )
    return drawing


CAR = Family(
    "car",
    _car,
    {"sedan": "four-door car", "hatchback": "small hatchback car", "sports": "sports car"},
    "bumpers and sills",
    (Part("spoiler", 0.35, "a rear spoiler"), Part("roof rack", 0.3, "a roof rack", ("sedan", "hatchback"))),
    ("width", "narrow", "wide"),
    ("vehicle",),
)
TRUCK = Family(
    "truck",
    _truck,
    {"box": "box truck", "tank": "tank truck", "dump": "dump truck"},
    "roof and frame",
    (Part("exhaust pipe", 0.4, "a tall exhaust pipe"),),
    ("height", "low", "high"),
    ("vehicle",),
)
BOAT = Family(
    "boat",
    _boat,
    {"sailing": "sailing boat", "steam": "steam boat", "motor": "motor boat"},
    {"sailing": "rim and flag", "steam": "rim", "motor": "rim"},
    (),
    ("width", "slim", "wide"),
    ("vehicle", "water"),
)
PLANE = Family(
    "plane",
    _plane,
    {"jet": "jet plane", "propeller": "propeller plane", "biplane": "double-winged plane"},
    {"jet": "tail and engines", "propeller": "tail and propeller", "biplane": "tail and propeller"},
    (Part("landing gear", 0.5, "two wheels", ("propeller", "biplane")),),
    ("span", "short-winged", "long-winged"),
    ("vehicle", "air"),
)
ROCKET = Family(
    "rocket",
    _rocket,
    {"slim": "slim rocket", "bulging": "bulging rocket", "boosted": "booster rocket"},
    "tip and fins",
    (),
    ("nose", "blunt", "pointed"),
    ("vehicle", "space"),
)
BALLOON = Family(
    "balloon",
    _balloon,
    {"round": "hot-air balloon", "tall": "tall hot-air balloon"},
    "basket",
    (Part("belt", 0.4, "a belt around its middle"),),
    ("basket", "", "big-basketed"),
    ("vehicle", "air"),
)
