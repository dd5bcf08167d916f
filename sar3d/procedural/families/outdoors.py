"""Houses and trees."""

import math

from sar3d.procedural.paint import Surface
from sar3d.procedural.parts import arc, band, box, cylinder, lathe, prism, sphere
from sar3d.procedural.recipe import Drawing, Family, Recipe, backing, phrase


def _house(r: Recipe) -> Drawing:
    wall, roof = Surface(r.main, "bricks"), Surface(r.accent, "tiles")
    w, d = r.vary("width", 4.4, 5.4), r.vary("depth", 4.0, 4.8)
    storeys = 1 if r.style == "cottage" else 2
    h, pitch = 1.0 + 2.1 * storeys, r.vary("pitch", 1.3, 1.8)
    drawing: Drawing = [(wall, box(w, h, d).tiled(0.45, 0.45)), (Surface("grey"), box(w + 0.2, 0.15, d + 0.2))]
    if r.style == "cottage":
        gable = prism([(-d / 2, 0.0), (d / 2, 0.0), (0.0, pitch)], w).tiled(0.45, 0.45)
        drawing.append((wall, gable.turned("y", 90.0).moved(y=h)))
        slope = math.hypot(d / 2, pitch) + 0.45
        tilt = math.degrees(math.atan2(pitch, d / 2))
        slab = box(w + 0.6, 0.14, slope).tiled(0.5, 0.5).moved(z=slope / 2).turned("x", tilt).moved(y=h + pitch + 0.02)
        drawing += [(roof, slab), (roof, slab.turned("y", 180.0))]
    else:
        hip = lathe([(0.8, 0.0), (1.0, 0.0), (1.0, 0.12), (0.0, 1.0)], 4, faceted=True).tiled(14.0, 3.0)
        reach = math.sqrt(0.5)
        drawing.append((roof, hip.scaled((w / 2 + 0.35) / reach, pitch, (d / 2 + 0.35) / reach).moved(y=h)))
    if r.style == "tower":
        drawing += _tower(r, w, d, h)
    chimney = box(0.6, pitch + 0.4, 0.6).tiled(0.45, 0.45).moved(-w / 4, h + 0.2, -d / 6)
    return [*drawing, (wall, chimney), *_openings(r, w, d, storeys)]


def _tower(r: Recipe, w: float, d: float, h: float) -> Drawing:
    radius = 0.95
    body = lathe([(0.0, 0.0), (radius, 0.0), (radius, h + 0.7), (0.0, h + 0.7)], 28).tiled(3.0, 3.0)
    hat = lathe([(0.0, 0.0), (radius + 0.25, 0.0), (0.0, 2.0)], 28).tiled(5.0, 2.0).moved(y=h + 0.7)
    parts: Drawing = [(Surface(r.main, "bricks"), body), (Surface(r.accent, "tiles"), hat)]
    return [(s, m.moved(x=w / 2, z=d / 2)) for s, m in parts]


def _openings(r: Recipe, w: float, d: float, storeys: int) -> Drawing:
    frame, pane, door = Surface("cream"), Surface("glass", roughness=0.2), Surface("bark", "planks")
    front = d / 2
    shift = -0.5 if r.style == "tower" else 0.0
    drawing: Drawing = [
        (frame, box(1.2, 2.2, 0.12).moved(shift, 0.0, front)),
        (door, box(0.98, 2.05, 0.2).tiled(0.2, 0.35).moved(shift, 0.0, front)),
        (Surface("light"), sphere(0.06, 10).moved(shift + 0.36, 1.0, front + 0.12)),
        (Surface("grey"), box(1.4, 0.12, 0.7).moved(shift, 0.0, front + 0.3)),
    ]
    spots = [(x, 1.1, front, 0.0) for x in (-w * 0.32, w * 0.32) if not (r.style == "tower" and x > 0.0)]
    if storeys == 2:
        spots += [(x, 3.3, front, 0.0) for x in (-w * 0.32, shift, w * 0.32) if not (r.style == "tower" and x > 0.0)]
    for level in range(storeys):
        y = 1.1 + 2.2 * level
        spots += [(z, y, w / 2, 90.0) for z in ((-0.8,) if r.style == "tower" else (-1.0, 1.0))]
        spots += [(z, y, w / 2, -90.0) for z in (-1.0, 1.0)] + [(z, y, front, 180.0) for z in (-1.2, 1.2)]
    window = [
        (frame, box(1.0, 1.2, 0.12)),
        (pane, box(0.8, 1.0, 0.16).moved(y=0.1)),
        (frame, box(0.07, 1.1, 0.19)),
        (frame, box(0.9, 0.07, 0.19).moved(y=0.56)),
    ]
    for x, y, z, turn in spots:
        drawing += [(s, m.moved(x, y, z).turned("y", turn)) for s, m in window]
    return drawing


def _describe_house(r: Recipe) -> tuple[str, str]:
    kind = {"cottage": "cottage with a gable roof", "villa": "two-storey house", "tower": "house with a round tower"}[
        r.style
    ]
    return (
        f"{phrase(r.main, 'brick house')} with {phrase(r.accent, 'roof')}",
        f"{phrase(kind)}, built of {r.main} bricks and covered with {r.accent} tiles.".capitalize(),
    )


def _tree(r: Recipe) -> Drawing:
    leaves, bark = Surface(r.main, "foliage"), Surface("bark", "wood")
    trunk, wide, rim = r.vary("trunk", 0.5, 0.7), r.vary("crown", 0.55, 0.68), 0.42
    drawing = _pot(r, rim)
    drawing.append((bark, cylinder(0.085, trunk + 0.5, top=0.05, segments=14).tiled(1.0, 2.0).moved(y=rim - 0.08)))
    base = rim + trunk - 0.15
    if r.style == "conical":
        for k in range(4):
            size = wide * (1.0 - 0.2 * k)
            skirt = lathe([(0.0, 0.06), (size, 0.0), (size * 0.95, 0.06), (0.0, 0.75 - 0.06 * k)], 28).tiled(4.0, 1.5)
            drawing.append((leaves, skirt.moved(y=base - 0.1 + 0.38 * k)))
    elif r.style == "round":
        drawing.append((leaves, sphere(wide * 0.8, 24).tiled(3.0, 1.5).moved(y=base + wide * 0.7)))
        for i in range(7):
            size, lift = wide * r.vary(f"puff{i}", 0.42, 0.55), wide * r.vary(f"lift{i}", 0.35, 1.1)
            puff = sphere(size, 18).tiled(2.0, 1.0).moved(z=wide * 0.58, y=base + lift).turned("y", 360.0 / 7 * i)
            drawing.append((leaves, puff))
    else:
        for size, y in ((wide * 0.75, 0.3), (wide * 0.55, 1.0), (wide * 0.36, 1.5)):
            drawing.append((leaves, sphere(size, 24).tiled(3.0, 1.5).moved(y=base + y)))
        drawing.append((bark, cylinder(0.05, 1.4, segments=12).tiled(1.0, 2.0).moved(y=base)))
    return drawing


def _pot(r: Recipe, rim: float) -> Drawing:
    low, top = 0.2, r.vary("pot", 0.27, 0.31)
    clay = Surface(r.accent)
    shell = lathe(
        [(0.0, 0.0), (low, 0.0), (top, rim - 0.08), (top + 0.03, rim - 0.08), (top + 0.03, rim), (0.0, rim)], 32
    )
    soil = lathe([*arc(top, 0.05, 0.0, 90.0, 5, cy=rim)], 24)
    start, end = 0.15, 0.9
    line = [(low + (top - low) * t, (rim - 0.08) * t) for t in (start, end)]
    return [
        (clay, shell),
        (Surface("soil"), soil),
        (
            Surface(r.accent, r.pattern, backing(r.accent)),
            band(line[0], line[1], 0.003, 0.3),
        ),
    ]


def _describe_tree(r: Recipe) -> tuple[str, str]:
    shape = {"conical": "conical", "round": "bushy round", "topiary": "three-ball topiary"}[r.style]
    return (
        f"a tree with {r.main} leaves in {phrase(r.accent, 'pot')} with {r.pattern}",
        f"{phrase(shape)} tree with {r.main} foliage, planted in {phrase(r.accent, 'pot')}.".capitalize(),
    )


HOUSE = Family(
    "house",
    ("cottage", "villa", "tower"),
    ("white", "red", "yellow", "blue", "pink", "orange", "turquoise", "green", "brown", "purple"),
    ("bricks",),
    _house,
    _describe_house,
    ("building", "architecture"),
)
TREE = Family(
    "tree",
    ("round", "conical", "topiary"),
    ("green", "orange", "pink", "yellow", "red", "turquoise", "purple", "white", "blue"),
    ("stripes", "zigzags", "checks", "dots"),
    _tree,
    _describe_tree,
    ("nature", "plant"),
)
