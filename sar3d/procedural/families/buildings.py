"""Houses and towers; their doors face +z."""

from sar3d.procedural.paint import Surface
from sar3d.procedural.parts import around, at_sides, box, cone, cylinder, frustum, prism
from sar3d.procedural.recipe import Drawing, Family, Part, Recipe, of

_GLASS, _DOOR = Surface("glass"), Surface("bark")


def _house(r: Recipe) -> Drawing:
    w, d, h = r.vary("width", 0.72, 0.86), r.vary("depth", 0.54, 0.7), r.vary("walls", 0.42, 0.5)
    rise = r.vary("roof", 0.2, 0.3)
    if r.style == "two-story":
        w, d, h, rise = w * 0.74, d * 0.84, h * 1.35, rise * 0.85
    drawing = of(r.painted, box(w, h, d))
    if r.style == "hipped":
        drawing += of(r.trim, frustum(w + 0.1, d + 0.1, rise * 0.9, w * 0.34, 0.02).moved(y=h))
    else:
        drawing += of(
            r.trim, prism([(-d / 2 - 0.06, h), (d / 2 + 0.06, h), (0.0, h + rise)], w + 0.08).turned("y", 90.0)
        )
        gable = prism([(-d / 2, h), (d / 2, h), (0.0, h + rise * 0.86)], w + 0.095).turned("y", 90.0)
        drawing += of(r.body, gable)
    drawing += of(_DOOR, box(0.13, 0.24, 0.03).moved(z=d / 2))
    pane = box(0.13, 0.13, 0.03)
    levels = (0.36, 0.8) if r.style == "two-story" else (0.42,)
    for level in levels:
        y = h * level - 0.03
        drawing += of(_GLASS, at_sides(pane.moved(y=y), w * 0.32).moved(z=d / 2))
        drawing += of(_GLASS, at_sides(pane.moved(y=y), w * 0.25).moved(z=-d / 2))
        drawing += of(_GLASS, box(w + 0.03, 0.13, 0.14).moved(y=y))
    if "chimney" in r.parts:
        drawing += of(r.body, box(0.1, 0.34, 0.1).moved(w * 0.27, h + rise * 0.35, -d * 0.12))
    if "porch" in r.parts:
        drawing += of(r.trim, box(0.34, 0.035, 0.2).moved(y=0.28, z=d / 2 + 0.09))
        drawing += of(r.body, at_sides(box(0.035, 0.28, 0.035), 0.15).moved(z=d / 2 + 0.16))
    return drawing


def _tower(r: Recipe) -> Drawing:
    wide, h = r.vary("radius", 0.17, 0.22), r.vary("height", 0.58, 0.68)
    square = r.style == "square"
    if square:
        drawing = of(r.painted, box(2 * wide, h, 2 * wide)) + of(r.body, box(2.4 * wide, 0.12, 2.4 * wide).moved(y=h))
        merlon = box(0.1, 0.1, 0.1)
        row = [merlon.moved(x, h + 0.12, z) for x, z in _square_ring(1.2 * wide - 0.05)]
        drawing += of(r.trim, *row)
    else:
        drawing = of(r.painted, cylinder(wide * 1.05, h, top=wide * 0.92, segments=20))
        drawing += of(r.body, cylinder(wide * 1.2, 0.12, segments=20).moved(y=h))
    if r.style == "pointed":
        drawing += of(r.trim, cone(wide * 1.38, 0.34, 20).moved(y=h + 0.12))
    if r.style == "round":
        drawing += of(r.trim, around(box(0.1, 0.1, 0.07).moved(y=h + 0.12, z=wide * 1.16), 8))
    if r.style != "pointed":
        drawing += of(Surface("bark"), cylinder(0.014, 0.3, segments=8).moved(y=h + 0.1))
        drawing += of(r.trim, prism([(0.0, h + 0.26), (0.2, h + 0.33), (0.0, h + 0.4)], 0.025))
    drawing += of(_DOOR, box(0.15, 0.22, 0.06).moved(z=wide * (1.0 if square else 1.02)))
    slit = box(0.06, 0.13, 0.05).moved(y=h * 0.64, z=wide * (1.0 if square else 0.97))
    drawing += of(_GLASS, around(slit, 4))
    if "base" in r.parts:
        drawing += of(r.trim, box(3.0 * wide, 0.06, 3.0 * wide).moved(y=-0.06))
    return drawing


def _square_ring(half: float) -> list[tuple[float, float]]:
    steps = (-half, 0.0, half)
    return [(x, z) for x in steps for z in steps if (x, z) != (0.0, 0.0)]


HOUSE = Family(
    "house",
    _house,
    {"gabled": "gabled house", "hipped": "hip-roofed house", "two-story": "two-story house"},
    "roof",
    (Part("chimney", 0.5, "a chimney"), Part("porch", 0.3, "a porch")),
    ("roof", "low-roofed", "steep-roofed"),
    ("building",),
)
TOWER = Family(
    "tower",
    _tower,
    {"round": "round castle tower", "square": "square castle tower", "pointed": "pointed castle tower"},
    {"round": "battlements and flag", "square": "battlements and flag", "pointed": "roof"},
    (Part("base", 0.4, "a flat base"),),
    ("radius", "slim", "broad"),
    ("building", "castle"),
)
