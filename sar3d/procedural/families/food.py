"""Cakes and mushrooms."""

import math

from sar3d.procedural.mesh import Mesh
from sar3d.procedural.paint import Surface
from sar3d.procedural.parts import arc, band, cone, cylinder, lathe, sphere, torus
from sar3d.procedural.recipe import Drawing, Family, Recipe, phrase


def _ring(mesh: Mesh, count: int, radius: float, y: float) -> list[Mesh]:
    return [mesh.moved(z=radius, y=y).turned("y", 360.0 * i / count) for i in range(count)]


def _tier(r: Recipe, radius: float, height: float, y: float) -> Drawing:
    icing = Surface(r.main, roughness=0.6)
    body = cylinder(radius, height, bevel=0.012, segments=40).moved(y=y)
    belt = band((radius, y + height * 0.3), (radius, y + height * 0.75), 0.0012, 0.1)
    pearls = _ring(sphere(0.013, 10), round(2 * math.pi * radius / 0.032), radius - 0.012, y + height)
    foot = torus(radius, 0.012, 36, 8).moved(y=y + 0.008)
    return [(icing, body), (r.painted(), belt), (icing, foot), *((Surface(r.accent), p) for p in pearls)]


def _cake(r: Recipe) -> Drawing:
    plate = lathe([(0.0, 0.0), (0.1, 0.0), (0.19, 0.016), (0.19, 0.02), (0.0, 0.012)], 40)
    if r.style == "cupcake":
        return _cupcake(r)
    radius, h = r.vary("radius", 0.13, 0.15), r.vary("height", 0.1, 0.13)
    drawing: Drawing = [(Surface("steel", roughness=0.4), plate), *_tier(r, radius, h, 0.014)]
    if r.style == "two-tier":
        upper = h * r.vary("upper", 0.7, 0.85)
        drawing += _tier(r, radius * 0.62, upper, 0.014 + h)
        return [
            *drawing,
            (Surface("red" if r.main != "red" else "light", roughness=0.3), _cherry().moved(y=0.014 + h + upper)),
        ]
    for candle in _ring(cylinder(0.007, 0.07, segments=10), _candles(r), radius * 0.55, 0.014 + h):
        drawing.append((Surface(r.accent), candle))
    for flame in _ring(lathe([(0.0, 0.0), (0.006, 0.008), (0.0, 0.026)], 10), _candles(r), radius * 0.55, 0.086 + h):
        drawing.append((Surface("light"), flame))
    return drawing


def _candles(r: Recipe) -> int:
    return 3 + int(r.vary("candles", 0.0, 4.0))


def _cherry() -> Mesh:
    return sphere(0.026, 18).moved(y=0.02)


def _cupcake(r: Recipe) -> Drawing:
    icing, wrap = Surface(r.main, roughness=0.6), Surface("straw", "stripes")
    h = r.vary("cup", 0.055, 0.065)
    cup = lathe([(0.0, 0.0), (0.045, 0.0), (0.062, h), (0.0, h)], 36).tiled(12.0, 1.0)
    swirl = [(0.0, h)]
    for k, radius in enumerate((0.07, 0.056, 0.04, 0.022)):
        swirl += arc(0.02, 0.016, -80.0, 80.0, 8, cx=radius - 0.018, cy=h + 0.014 + 0.024 * k)
    top = h + 0.11
    sprinkled = band((0.0725, h + 0.006), (0.0725, h + 0.022), 0.001, 0.06)
    cherry = Surface("red" if r.main != "red" else "light", roughness=0.3)
    beads = _ring(sphere(0.006, 8), 12, 0.057, h + 0.046) + _ring(sphere(0.006, 8), 8, 0.04, h + 0.07)
    drawing: Drawing = [(wrap, cup), (icing, lathe([*swirl, (0.0, top)], 36)), (r.painted(), sprinkled)]
    return [
        *drawing,
        (cherry, _cherry().scaled(0.7, 0.7, 0.7).moved(y=top - 0.01)),
        *((Surface(r.accent), b) for b in beads),
    ]


def _describe_cake(r: Recipe) -> tuple[str, str]:
    kind, rest = {
        "birthday": ("round birthday cake", f"pearls and {_NUMBERS[_candles(r)]} {r.accent} candles"),
        "two-tier": ("two-tier cake", f"rings of {r.accent} pearls and a cherry on top"),
        "cupcake": ("cupcake", f"{r.accent} sprinkles and a cherry on top"),
    }[r.style]
    noun = "cupcake" if r.style == "cupcake" else "cake"
    return (
        f"{phrase(r.main, noun)} with {r.accent} {r.pattern}",
        f"{phrase(kind)} in {r.main} icing, decorated with {r.accent} {r.pattern}, {rest}.".capitalize(),
    )


_NUMBERS = {3: "three", 4: "four", 5: "five", 6: "six"}


def _mushroom(r: Recipe) -> Drawing:
    height, wide = r.vary("height", 0.09, 0.12), r.vary("cap", 0.075, 0.095)
    rise = {"domed": 0.75, "flat": 0.38, "pointed": 1.25}[r.style] * wide
    drawing = _toadstool(r, "large", height, wide, rise, 13)
    small = _toadstool(r, "small", height * 0.55, wide * 0.5, rise * 0.5, 7)
    side = 1.0 if r.vary("side", -1.0, 1.0) > 0.0 else -1.0
    drawing += [(s, m.turned("z", -8.0 * side).moved(x=side * wide * 1.05, y=0.004, z=wide * 0.35)) for s, m in small]
    for i in range(9):
        blade = cone(0.006, r.vary(f"blade{i}", 0.03, 0.05), 6)
        lean = blade.turned("x", r.vary(f"bend{i}", 5.0, 25.0)).moved(z=r.vary(f"far{i}", 0.025, 0.05))
        drawing.append((Surface("stalk"), lean.turned("y", 40.0 * i)))
    return drawing


def _toadstool(r: Recipe, which: str, height: float, wide: float, rise: float, spots: int) -> Drawing:
    flesh, base = Surface("cream"), wide * 0.3
    outline = [
        (0.0, 0.0),
        (base * 0.9, 0.0),
        (base * 1.15, height * 0.12),
        (base * 0.8, height * 0.5),
        (base * 0.72, height),
    ]
    skirt = lathe(
        [
            (base * 0.7, height * 0.72),
            (base * 1.25, height * 0.6),
            (base * 1.2, height * 0.66),
            (base * 0.7, height * 0.78),
        ]
    )
    stem = lathe([*outline, (0.0, height)], 28).tiled(5.0, 1.0)
    dome = [*arc(wide, rise, 0.0, 90.0, 14, cy=height)]
    rim = arc(wide * 0.06, wide * 0.06, -90.0, 0.0, 4, cx=wide * 0.94, cy=height)
    gills = lathe([(0.0, height), (wide * 0.6, height + 0.002), (wide * 0.94, height - wide * 0.06)], 36).turned(
        "z", 0.0
    )
    drawing: Drawing = [
        (Surface("cream", "stripes", "light"), stem),
        (flesh, skirt),
        (Surface("straw", "stripes", "cream"), gills.tiled(16.0, 1.0)),
    ]
    drawing.append((Surface(r.main, roughness=0.45), lathe([*rim, *dome[1:]], 40)))
    return drawing + [(Surface(r.accent), spot.moved(y=height)) for spot in _spots(r, which, wide, rise, spots)]


def _spots(r: Recipe, which: str, wide: float, rise: float, count: int) -> list[Mesh]:
    """Flat warts on the cap, spread by the golden angle."""
    spots = []
    for i in range(count):
        slope = math.radians(88.0 - 72.0 * math.sqrt((i + 0.2) / count))
        radius = wide * r.vary(f"{which}{i}", 0.1, 0.17)
        outward = math.degrees(math.atan2(math.cos(slope) / wide, math.sin(slope) / rise))
        wart = sphere(radius, 12).scaled(1.0, 0.3, 1.0).turned("x", outward)
        spots.append(wart.moved(y=rise * math.sin(slope), z=wide * math.cos(slope)).turned("y", 137.5 * i))
    return spots


def _describe_mushroom(r: Recipe) -> tuple[str, str]:
    shape = {"domed": "domed", "flat": "broad flat", "pointed": "pointed"}[r.style]
    return (
        f"{phrase(r.main, 'mushroom')} with {r.accent} spots",
        f"Two mushrooms on cream stems, their {shape} {r.main} caps dotted with {r.accent}.",
    )


CAKE = Family(
    "cake",
    ("birthday", "two-tier", "cupcake"),
    ("pink", "white", "brown", "yellow", "turquoise", "purple", "orange", "blue", "green", "red"),
    ("dots", "stripes", "zigzags", "checks"),
    _cake,
    _describe_cake,
    ("food", "dessert"),
)
MUSHROOM = Family(
    "mushroom",
    ("domed", "flat", "pointed"),
    ("red", "brown", "orange", "purple", "yellow", "blue", "turquoise", "pink", "green", "white"),
    ("dots",),
    _mushroom,
    _describe_mushroom,
    ("nature", "fungus"),
)
