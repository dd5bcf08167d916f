"""Birds, fish, dogs, robots and snowmen; they look along +z."""

from sar3d.procedural.mesh import ProceduralMesh, join
from sar3d.procedural.paint import Surface
from sar3d.procedural.parts import (
    arc,
    at_sides,
    box,
    cone,
    cylinder,
    ellipsoid,
    lathe,
    prism,
    sphere,
    sweep,
    tapered,
    torus,
)
from sar3d.procedural.recipe import Drawing, Family, Part, Recipe, of

_INK, _CREAM = Surface("ink"), Surface("cream")


def _pair(mesh: ProceduralMesh, x: float) -> ProceduralMesh:
    """The part at x and again at -x, not turned."""
    return join([mesh.moved(x=x), mesh.moved(x=-x)])


def _upright(outline: list[tuple[float, float]], width: float) -> ProceduralMesh:
    """A side view (z forward, y up), counter-clockwise when the front points right, given a width along x."""
    return prism(outline, width).turned("y", -90.0)


def _eyes(x: float, y: float, z: float, size: float) -> Drawing:
    white = _pair(sphere(size, 10).moved(y=y, z=z), x)
    return of(_CREAM, white) + of(_INK, _pair(sphere(size * 0.62, 8).moved(y=y, z=z + size * 0.6), x * 1.08))


def _bird(r: Recipe) -> Drawing:
    plump = r.vary("plump", 0.24, 0.29)
    leg = {"songbird": 0.16, "duck": 0.08, "wader": r.vary("leg", 0.34, 0.42)}[r.style]
    y, neck = leg + plump * 0.85, {"songbird": 0.2, "duck": 0.28, "wader": 0.36}[r.style]
    drawing = of(r.painted, ellipsoid(plump * 0.86, plump * 0.88, plump * 1.3, 18).turned("x", -14.0).moved(y=y))
    head, ahead = 0.155 if r.style == "songbird" else 0.13, plump * 0.95
    top = y + neck
    if r.style != "songbird":
        drawing += of(
            r.body,
            cylinder(0.085, neck + 0.06, top=0.07, segments=12).turned("x", 12.0).moved(y=y - 0.02, z=ahead * 0.72),
        )
    drawing += of(r.body, sphere(head, 16).moved(y=top, z=ahead)) + _eyes(
        head * 0.62, top + head * 0.25, ahead + head * 0.62, 0.035
    )
    beak = cone(0.055, 0.19, 10).turned("x", 90.0)
    drawing += of(
        r.trim, (beak.scaled(1.7, 0.5, 1.0) if r.style == "duck" else beak).moved(y=top - 0.02, z=ahead + head * 0.85)
    )
    wing = ellipsoid(0.05, plump * 0.42, plump * 0.78, 12).turned("x", -20.0).moved(y=y + 0.03, z=-0.04)
    drawing += of(r.trim, _pair(wing, plump * 0.84))
    tail = _upright(
        [(-plump - 0.26, y + 0.16), (-plump * 0.8, y - 0.05), (-plump * 0.8, y + 0.14), (-plump - 0.26, y + 0.24)], 0.16
    )
    drawing += of(r.body, tail)
    foot = join([cylinder(0.024, leg + 0.06, segments=8), box(0.09, 0.025, 0.14).moved(z=0.035)])
    drawing += of(r.trim, _pair(foot, plump * 0.4))
    if "crest" in r.parts:
        drawing += of(
            r.trim,
            _upright(
                [(ahead - 0.1, top + head * 0.7), (ahead + 0.06, top + head * 0.8), (ahead - 0.12, top + head * 1.9)],
                0.05,
            ),
        )
    return drawing


def _fish(r: Recipe) -> Drawing:
    long = r.vary("length", 0.32, 0.37)
    high = long * {"long": 0.5, "round": 0.78, "tall": 1.05}[r.style]
    thick = long * (0.3 if r.style == "tall" else 0.46)
    body = ellipsoid(thick, long, high, 20).turned("x", 90.0)
    drawing = of(r.painted, body.moved(z=0.12)) + _eyes(thick * 0.72, high * 0.2, 0.12 + long * 0.62, 0.055)
    fan, root = r.vary("tail", 0.14, 0.2), 0.12 - long * 0.9
    drawing += of(
        r.trim,
        _upright(
            [(root + 0.06, -0.03), (root + 0.06, 0.03), (root - 0.26, fan), (root - 0.18, 0.0), (root - 0.26, -fan)],
            0.05,
        ),
    )
    fin = [(-0.1, high * 0.82), (0.2, high * 0.82), (0.02, high + 0.1), (-0.12, high + 0.1)]
    drawing += of(r.trim, _upright(fin, 0.045), _upright([(z * 0.7, -y) for z, y in reversed(fin)], 0.045))
    side = prism([(0.0, 0.06), (0.0, -0.06), (0.17, -0.09), (0.17, 0.03)], 0.03).turned("z", -25.0).turned("y", 25.0)
    drawing += of(r.trim, at_sides(side, thick * 0.9).moved(y=-high * 0.25, z=0.14))
    return drawing + of(r.body, torus(0.05, 0.028, 12, 6).turned("x", 90.0).moved(y=-0.02, z=0.12 + long * 0.97))


def _dog(r: Recipe) -> Drawing:
    long, girth = {"short-legged": 0.34, "tall": 0.27, "stocky": 0.27}[r.style], r.vary("girth", 0.135, 0.165)
    leg = {"short-legged": 0.14, "tall": r.vary("leg", 0.3, 0.36), "stocky": 0.2}[r.style]
    girth *= 1.25 if r.style == "stocky" else 1.0
    y, head = leg + girth * 0.8, r.vary("head", 0.15, 0.17)
    drawing = of(r.painted, ellipsoid(girth, long + 0.06, girth, 16).turned("x", 90.0).moved(y=y))
    drawing += of(r.body, _pair(cylinder(0.055, leg + 0.06, segments=10), girth * 0.55).moved(z=long * 0.68))
    drawing += of(r.body, _pair(cylinder(0.055, leg + 0.06, segments=10), girth * 0.55).moved(z=-long * 0.68))
    top, ahead = y + girth * 0.7 + 0.16, long * 0.95
    drawing += of(r.body, tapered([(0.0, 0.0, 0.1), (0.0, 0.22, 0.085)]).turned("x", 24.0).moved(y=y, z=long * 0.66))
    drawing += of(r.body, sphere(head, 16).moved(y=top, z=ahead))
    drawing += of(r.body, ellipsoid(0.075, 0.065, 0.13, 12).moved(y=top - 0.05, z=ahead + head * 0.95))
    drawing += of(_INK, sphere(0.038, 8).moved(y=top - 0.02, z=ahead + head * 0.95 + 0.12))
    drawing += _eyes(head * 0.48, top + head * 0.32, ahead + head * 0.78, 0.034)
    drawing += of(r.trim, *_ears(r, head, top, ahead))
    drawing += of(r.trim, torus(0.1, 0.032, 14, 6).turned("x", 24.0).moved(y=y + 0.13, z=long * 0.72))
    drawing += of(r.trim, _pair(ellipsoid(0.066, 0.045, 0.09, 10).moved(y=0.03, z=long * 0.68 + 0.02), girth * 0.55))
    drawing += of(r.trim, _pair(ellipsoid(0.066, 0.045, 0.09, 10).moved(y=0.03, z=-long * 0.68 + 0.02), girth * 0.55))
    tail = tapered([(0.0, 0.0, 0.04), (0.07, 0.1, 0.04), (0.09, 0.24, 0.028)]).turned("y", 90.0)
    return drawing + of(r.body, tail.moved(y=y + girth * 0.4, z=-long * 0.95))


def _ears(r: Recipe, head: float, top: float, ahead: float) -> list[ProceduralMesh]:
    if "pointed ears" in r.parts:
        ear, lean, x, y = cone(0.07, 0.17, 8).scaled(1.0, 1.0, 0.6), -12.0, head * 0.55, top + head * 0.6
    else:
        ear, lean, x, y = ellipsoid(0.035, 0.13, 0.075, 10), 14.0, head * 1.02, top - 0.02
    return [ear.turned("z", side * lean).moved(side * x, y, ahead) for side in (1, -1)]


def _robot(r: Recipe) -> Drawing:
    w, h = r.vary("width", 0.36, 0.44), r.vary("chest", 0.34, 0.42)
    low = 0.2 if r.style == "rolling" else 0.26
    deep, steel = w * 0.68, Surface("steel")
    if r.style == "round":
        drawing = of(r.painted, cylinder(w / 2, h, segments=20).moved(y=low))
        drawing += of(
            r.body, lathe([(0.0, 0.0), (0.18, 0.0), *arc(0.18, 0.2, 0.0, 90.0, 6, cy=0.04)], 18).moved(y=low + h + 0.05)
        )
    else:
        drawing = of(r.painted, box(w, h, deep).moved(y=low)) + of(
            r.body, box(0.32, 0.22, 0.28).moved(y=low + h + 0.05)
        )
    top, face = low + h + 0.27, 0.155 if r.style == "round" else 0.14
    drawing += of(steel, cylinder(0.07, 0.07, segments=12).moved(y=low + h - 0.01))
    drawing += of(Surface("light"), _pair(sphere(0.042, 10).moved(y=top - 0.1, z=face), 0.075))
    drawing += of(r.trim, cylinder(0.014, 0.12, segments=8).moved(y=top - 0.01), sphere(0.042, 10).moved(y=top + 0.12))
    reach = w / 2 + 0.065
    arm = join([box(0.085, h * 0.72, 0.1).moved(y=low + h * 0.22), sphere(0.075, 10).moved(y=low + h * 0.18)])
    drawing += of(
        r.trim,
        _pair(arm, reach),
        box(w * 0.5, h * 0.3, 0.03).moved(y=low + h * 0.42, z=(w / 2 if r.style == "round" else deep / 2)),
    )
    if r.style == "rolling":
        wheel = cylinder(0.13, 0.1, segments=18).turned("z", 90.0).moved(y=0.13)
        drawing += of(Surface("rubber"), wheel.moved(x=w * 0.5 + 0.02), wheel.moved(x=-w * 0.5 + 0.08)) + of(
            r.body, box(w * 0.6, 0.14, deep * 0.8).moved(y=0.08)
        )
    else:
        drawing += of(r.body, _pair(box(0.1, low, 0.12), w * 0.25)) + of(
            r.trim, _pair(box(0.15, 0.08, 0.22).moved(z=0.03), w * 0.25)
        )
    return drawing


def _snowman(r: Recipe) -> Drawing:
    low = r.vary("girth", 0.25, 0.3)
    radii = [low, low * 0.72] if r.style == "two-ball" else [low, low * 0.76, low * 0.56]
    drawing: Drawing = []
    y = 0.0
    places: list[float] = []
    for radius in radii:
        y += radius * (1.0 if not places else 0.8)
        places.append(y)
        drawing += of(r.body if radius == radii[-1] else r.painted, sphere(radius, 20).moved(y=y))
        y += radius * 0.8
    head, level = radii[-1], places[-1]
    drawing += of(_INK, _pair(sphere(0.032, 8).moved(y=level + head * 0.28, z=head * 0.86), head * 0.38))
    drawing += of(Surface("carrot"), cone(0.045, 0.2, 10).turned("x", 90.0).moved(y=level, z=head * 0.9))
    drawing += of(r.trim, torus(head * 0.8, 0.055, 20, 6).moved(y=level - head * 0.68))
    drawing += of(r.trim, box(0.09, 0.22, 0.05).moved(head * 0.35, level - head * 0.7 - 0.2, head * 0.95))
    hat = r.vary("hat", 0.16, 0.24)
    drawing += of(r.trim, cylinder(head * 0.95, 0.035, segments=18).moved(y=level + head * 0.78))
    drawing += of(r.trim, cylinder(head * 0.6, hat, segments=18).moved(y=level + head * 0.8))
    if "stick arms" in r.parts:
        stick = sweep([(0.0, 0.0), (0.22, 0.1), (0.34, 0.2)], 0.022).moved(x=radii[-2] * 0.85, y=places[-2] + 0.02)
        drawing += of(Surface("bark"), stick, stick.turned("y", 180.0))
    if "buttons" in r.parts:
        body, at = radii[-2], places[-2]
        drawing += of(_INK, *(sphere(0.032, 8).moved(y=at + dy, z=(body**2 - dy**2) ** 0.5) for dy in (-0.09, 0.02)))
    return drawing


BIRD = Family(
    "bird",
    _bird,
    {"songbird": "small bird", "duck": "duck-like bird", "wader": "long-legged bird"},
    "wings and beak",
    (Part("crest", 0.35, "a crest"),),
    ("plump", "slim", "plump"),
    ("animal",),
)
FISH = Family(
    "fish",
    _fish,
    {"long": "long fish", "round": "round fish", "tall": "tall flat fish"},
    "fins",
    (),
    ("tail", "small-tailed", "big-tailed"),
    ("animal", "water"),
)
DOG = Family(
    "dog",
    _dog,
    {"short-legged": "short-legged dog", "tall": "long-legged dog", "stocky": "stocky dog"},
    "ears and paws",
    (Part("pointed ears", 0.5, "pointed ears"),),
    ("girth", "thin", "plump"),
    ("animal",),
)
ROBOT = Family(
    "robot",
    _robot,
    {"boxy": "boxy robot", "round": "round robot", "rolling": "two-wheeled robot"},
    "arms and antenna",
    (),
    ("width", "slim", "broad"),
    ("toy", "figure"),
)
SNOWMAN = Family(
    "snowman",
    _snowman,
    {"two-ball": "two-ball snowman", "three-ball": "three-ball snowman"},
    "hat and scarf",
    (Part("stick arms", 0.6, "stick arms"), Part("buttons", 0.5, "buttons")),
    ("girth", "slim", "fat"),
    ("figure", "winter"),
)
