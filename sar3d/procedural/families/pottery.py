"""Mugs and vases."""

import math

from sar3d.procedural.paint import Surface
from sar3d.procedural.parts import Profile, cylinder, lathe, ribbon, sphere, sweep
from sar3d.procedural.recipe import Drawing, Family, Recipe, phrase

_GLAZES = ("blue", "yellow", "red", "white", "turquoise", "green", "pink", "black", "orange", "purple")


def _mug_radius(r: Recipe, t: float) -> float:
    radius = r.vary("radius", 0.038, 0.045)
    if r.style == "tapered":
        return radius * (0.78 + 0.27 * t)
    if r.style == "rounded":
        return radius * (0.86 + 0.22 * math.sin(math.pi * (0.12 + 0.8 * t)))
    return radius


def _mug(r: Recipe) -> Drawing:
    glaze, h, steps = Surface(r.main, roughness=0.35), r.vary("height", 0.085, 0.115), 12
    wall = [(_mug_radius(r, i / steps), h * i / steps) for i in range(steps + 1)]
    lip = wall[-1][0]
    inside = [(max(x - 0.004, 0.0), y) for x, y in reversed(wall[2:])]
    outer = lathe([(0.0, 0.0), (wall[0][0] - 0.003, 0.0), (wall[0][0], 0.003), *wall[1:], (lip - 0.004, h)], 40)
    belt = ribbon(wall[4:10], 0.0006, 0.045, 40)
    low, high = wall[3], wall[10]
    reach = r.vary("handle", 0.026, 0.034)
    middle, half = (low[1] + high[1]) / 2, (high[1] - low[1]) / 2
    root = min(low[0], high[0]) - 0.004
    path = [
        (root + reach * 1.3 * math.cos(a), middle + half * math.sin(a))
        for a in (math.radians(d) for d in range(-90, 91, 12))
    ]
    coffee = cylinder(wall[9][0] - 0.003, 0.002, segments=32).moved(y=h * 0.78)
    return [
        (glaze, outer),
        (Surface("cream", roughness=0.35), lathe([*inside, (0.0, inside[-1][1])], 40)),
        (r.painted(), belt),
        (glaze, sweep(path, 0.0055, 0.008)),
        (Surface("coffee", roughness=0.3), coffee),
    ]


def _describe_mug(r: Recipe) -> tuple[str, str]:
    shape = {"straight": "straight", "tapered": "tapered", "rounded": "rounded"}[r.style]
    return (
        f"{phrase(r.main, 'mug')} with a band of {r.accent} {r.pattern}",
        f"{phrase(shape, r.main, 'coffee mug')} with one handle, decorated with {r.accent} {r.pattern}.".capitalize(),
    )


def _vase_wall(r: Recipe) -> Profile:
    belly, neck, h = r.vary("belly", 0.095, 0.12), r.vary("neck", 0.032, 0.045), r.vary("height", 0.3, 0.38)
    if r.style == "slender":
        points = [(0.0, 0.5), (0.2, 0.62), (0.45, 0.58), (0.75, 0.36), (0.9, 0.34), (1.0, 0.56)]
        belly, h = belly * 0.95, h * 1.2
    elif r.style == "two-handled":
        points = [
            (0.0, 0.42),
            (0.06, 0.4),
            (0.4, 0.92),
            (0.6, 1.0),
            (0.74, 0.7),
            (0.84, neck / belly),
            (0.93, neck / belly),
            (1.0, 0.52),
        ]
    else:
        points = [
            (0.0, 0.52),
            (0.15, 0.82),
            (0.38, 1.0),
            (0.6, 0.82),
            (0.78, neck / belly + 0.06),
            (0.9, neck / belly),
            (1.0, 0.6),
        ]
    samples = [i / 28 for i in range(29)]
    return [(belly * _smooth(points, t), h * t) for t in samples]


def _smooth(points: list[tuple[float, float]], t: float) -> float:
    """Catmull-Rom through points (t, value)."""
    k = max(i for i, p in enumerate(points[:-1]) if p[0] <= t)
    (t0, a), (t1, b) = points[k], points[k + 1]
    before, after = points[max(k - 1, 0)], points[min(k + 2, len(points) - 1)]
    m0 = (b - before[1]) / (t1 - before[0]) * (t1 - t0)
    m1 = (after[1] - a) / (after[0] - t0) * (t1 - t0)
    s = (t - t0) / (t1 - t0)
    return (2 * s**3 - 3 * s**2 + 1) * a + (s**3 - 2 * s**2 + s) * m0 + (3 * s**2 - 2 * s**3) * b + (s**3 - s**2) * m1


def _vase(r: Recipe) -> Drawing:
    wall, glaze = _vase_wall(r), Surface(r.main, roughness=0.35)
    top = wall[-1]
    inside = [(x - 0.006, y) for x, y in reversed(wall[6:])]
    body = lathe([(0.0, 0.0), (wall[0][0], 0.0), *wall[1:], *inside, (0.0, inside[-1][1])], 40)
    drawing: Drawing = [(glaze, body), (r.painted(), ribbon(wall[8:17], 0.0012, 0.11, 40))]
    if r.style == "two-handled":
        h, shoulder = top[1], wall[20][0]
        path = [
            (shoulder * 0.5 + 0.045 * math.cos(a), h * 0.82 + 0.055 * math.sin(a))
            for a in (math.radians(d) for d in range(-100, 101, 10))
        ]
        handle = sweep(path, 0.008)
        drawing += [(glaze, handle), (glaze, handle.turned("y", 180.0))]
    else:
        drawing += _bouquet(r, top[1])
    return drawing


def _bouquet(r: Recipe, rim: float) -> Drawing:
    drawing: Drawing = []
    stalk, heart = Surface("stalk"), Surface("light" if r.accent != "yellow" else "soil")
    for i in range(5):
        lean = 6.0 if i == 0 else r.vary(f"lean{i}", 20.0, 30.0)
        length = r.vary(f"stem{i}", 0.12, 0.17) + (0.05 if i == 0 else 0.0)
        petals = [
            sphere(0.017, 10).scaled(1.0, 0.45, 1.0).moved(x=0.02).turned("y", 72.0 * k).moved(y=length)
            for k in range(5)
        ]
        flower = [
            (stalk, cylinder(0.0035, length + 0.08, segments=6).moved(y=-0.08)),
            *((Surface(r.accent), p) for p in petals),
        ]
        flower.append((heart, sphere(0.012, 10).moved(y=length + 0.006)))
        turn = 90.0 * i + r.vary(f"turn{i}", -15.0, 15.0)
        drawing += [(s, m.turned("x", lean).turned("y", turn).moved(y=rim - 0.03)) for s, m in flower]
    return drawing


def _describe_vase(r: Recipe) -> tuple[str, str]:
    kind = {"round": "round vase", "slender": "slender vase", "two-handled": "vase with two handles"}[r.style]
    rest = "It is empty." if r.style == "two-handled" else f"It holds five {r.accent} flowers."
    return (
        f"{phrase(r.main, 'vase')} with {r.accent} {r.pattern}",
        f"{phrase(r.main, kind)} {'and' if r.style == 'two-handled' else 'with'} a belt of {r.accent} {r.pattern}. ".capitalize()
        + rest,
    )


MUG = Family(
    "mug",
    ("straight", "tapered", "rounded"),
    _GLAZES,
    ("stripes", "dots", "checks", "zigzags"),
    _mug,
    _describe_mug,
    ("tableware", "cup"),
)
VASE = Family(
    "vase",
    ("round", "slender", "two-handled"),
    _GLAZES,
    ("zigzags", "stripes", "dots", "checks"),
    _vase,
    _describe_vase,
    ("pottery",),
)
