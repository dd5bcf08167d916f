"""Chairs, tables and lamps."""

from sar3d.procedural.mesh import Mesh
from sar3d.procedural.paint import Surface
from sar3d.procedural.parts import arc, band, box, cylinder, lathe, prism, sphere, sweep
from sar3d.procedural.recipe import Drawing, Family, Recipe, backing, phrase

_HUES = ("red", "yellow", "blue", "green", "orange", "white", "purple", "turquoise", "brown", "pink")


def _chair(r: Recipe) -> Drawing:
    frame, seat = Surface(r.main, roughness=0.6), r.painted()
    w, d, back = r.vary("width", 0.42, 0.52), r.vary("depth", 0.42, 0.48), r.vary("back", 0.44, 0.58)
    leg, sit = 0.022 + r.vary("leg", 0.0, 0.008), 0.45
    x, z, rear = w / 2 - leg, d / 2 - leg, -d / 2 + leg
    drawing: Drawing = [(frame, box(w, 0.05, d, 0.01).moved(y=sit - 0.05))]
    cushion = box(w - 0.03, 0.03 if r.style != "armchair" else 0.08, d - 0.05, 0.012).moved(y=sit, z=0.01)
    drawing.append((seat, cushion.tiled(4.2, 4.2)))
    for sx in (-1, 1):
        for sz in (-1, 1):
            post = _leg(r, leg, sit).moved(x * sx, 0.0, z * sz)
            drawing.append((frame, post))
        drawing.append((frame, box(2 * leg, back + 0.04, 2 * leg, 0.006).moved(x * sx, sit - 0.03, rear)))
    drawing += _chair_back(r, w, back, sit, rear, leg)
    if r.style == "armchair":
        for sx in (-1, 1):
            drawing.append((frame, box(0.06, 0.04, d, 0.01).moved(x * sx, sit + 0.2, 0.0)))
            drawing.append((frame, box(0.04, 0.22, 0.04, 0.006).moved(x * sx, sit, z)))
    return drawing


def _leg(r: Recipe, half: float, height: float) -> Mesh:
    if r.style == "panelled":
        return cylinder(half * 0.65, height, top=half * 1.1, segments=12)
    return box(2 * half, height, 2 * half, 0.006)


def _chair_back(r: Recipe, w: float, back: float, sit: float, rear: float, leg: float) -> Drawing:
    frame, inner = Surface(r.main, roughness=0.6), w - 4 * leg + 0.02
    rail = box(w, 0.07, 2.4 * leg, 0.012).moved(y=sit + back - 0.02, z=rear)
    if r.style == "slatted":
        heights = [sit + back * t for t in (0.28, 0.52, 0.76)]
        return [(frame, rail), *((frame, box(inner, 0.055, 0.02, 0.005).moved(y=y, z=rear)) for y in heights)]
    panel = box(inner, back * 0.72, 0.03, 0.01).moved(y=sit + back * 0.22, z=rear)
    return [(frame, rail), (frame if r.style == "panelled" else r.painted(), panel.tiled(4.2, 4.2))]


def _describe_chair(r: Recipe) -> tuple[str, str]:
    back = {"slatted": "a slatted back", "panelled": "a solid back", "armchair": "armrests"}[r.style]
    return (
        f"{phrase(r.main, 'chair')} with {r.accent} {r.pattern} on its seat",
        f"A wooden chair painted {r.main}, with {back} and a cushion patterned in {r.accent} {r.pattern}.",
    )


def _table(r: Recipe) -> Drawing:
    plain, cloth = Surface(r.main, roughness=0.6), Surface(backing(r.accent), r.pattern, r.accent)
    h, w, d = r.vary("height", 0.68, 0.8), r.vary("width", 1.05, 1.4), r.vary("depth", 0.7, 0.85)
    if r.style == "round":
        radius = d * 0.68
        foot = [(0.0, 0.0), (0.3, 0.0), (0.3, 0.03), (0.1, 0.08), (0.05, 0.2), (0.07, 0.4), (0.05, h - 0.1), (0.14, h)]
        top = cylinder(radius, 0.05, bevel=0.015, segments=48).moved(y=h - 0.05)
        cover = cylinder(radius * 0.55, 0.008, segments=40).moved(y=h - 0.001)
        wood = Surface(r.main, "wood", roughness=0.6)
        return [(plain, lathe(foot)), (wood, _from_above(top, 1.2)), (cloth, _from_above(cover, 2.4))]
    runner = w * 0.3
    drawing = _table_top(r, w, d, h)
    drawing.append((plain, box(w - 0.14, 0.09, d - 0.14, 0.006).moved(y=h - 0.14)))
    drawing.append((cloth, box(runner, 0.008, d + 0.016).moved(y=h).tiled(2.4, 2.4)))
    for sz in (-1, 1):
        drawing.append((cloth, box(runner, 0.2, 0.008).moved(y=h - 0.196, z=sz * (d / 2 + 0.004)).tiled(2.4, 2.4)))
    return [*drawing, *((plain, support) for support in _supports(r, w, d, h))]


def _table_top(r: Recipe, w: float, d: float, h: float) -> Drawing:
    wood = Surface(r.main, "wood", roughness=0.6)
    boards = 4 if r.style == "trestle" else 1
    deep = d / boards
    board = box(w, 0.05, deep, 0.01).tiled(1.2, 1.2)
    return [(wood, board.moved(y=h - 0.05, z=deep * (i + 0.5) - d / 2)) for i in range(boards)]


def _supports(r: Recipe, w: float, d: float, h: float) -> list[Mesh]:
    if r.style == "four-legged":
        leg = cylinder(0.028, h - 0.05, top=0.045, segments=14)
        x, z = w / 2 - 0.07, d / 2 - 0.07
        return [leg.moved(sx * x, 0.0, sz * z) for sx in (-1, 1) for sz in (-1, 1)]
    beam = h - 0.05
    frame = [(-0.32, 0.0), (-0.22, 0.0), (0.0, 0.5), (0.22, 0.0), (0.32, 0.0), (0.06, beam), (-0.06, beam)]
    trestle = prism(frame, 0.06).scaled(d / 0.8, 1.0, 1.0).turned("y", 90.0)
    return [trestle.moved(x=sx * (w / 2 - 0.18)) for sx in (-1, 1)]


def _from_above(mesh: Mesh, scale: float) -> Mesh:
    """Texture coordinates of a projection along y."""
    return Mesh(mesh.positions, mesh.normals, mesh.positions[:, [0, 2]] * scale, mesh.faces)


def _describe_table(r: Recipe) -> tuple[str, str]:
    kind = {"round": "round table on one foot", "four-legged": "table on four legs", "trestle": "trestle table"}[
        r.style
    ]
    return (
        f"{phrase(r.main, 'table')} with {r.accent} {r.pattern} on its cloth",
        f"{phrase(r.main, 'wooden', kind)}, its middle under a cloth with {r.accent} {r.pattern}.".capitalize(),
    )


def _lamp(r: Recipe) -> Drawing:
    base, metal, light = Surface(r.accent, "wood", roughness=0.5), Surface("steel", roughness=0.4), Surface("light")
    if r.style == "desk":
        return _desk_lamp(r)
    tall = r.style == "floor"
    wide, h = r.vary("shade", 0.17, 0.21), r.vary("rise", 0.24, 0.3)
    neck = r.vary("neck", 1.05, 1.25) if tall else r.vary("neck", 0.3, 0.38)
    drawing: Drawing = [(metal, cylinder(0.012, neck + 0.1, segments=12))]
    if tall:
        drawing.append((base, cylinder(0.16, 0.05, top=0.13, bevel=0.012)))
    else:
        body = r.vary("body", 0.085, 0.11)
        foot = [(0.0, 0.0), (body * 0.9, 0.0), (body * 0.9, 0.03), (body * 0.5, 0.05)]
        drawing.append(
            (base, lathe([*foot, *arc(body, neck * 0.4, -60.0, 84.0, 12, cy=neck * 0.45), (0.0, neck * 0.85)]))
        )
    top = wide * r.vary("taper", 0.5, 0.7)
    drawing += [(s, m.moved(y=neck)) for s, m in _shade(r, wide, top, h, 0.14)]
    return [*drawing, (light, sphere(0.045, 14).moved(y=neck + 0.08))]


def _shade(r: Recipe, wide: float, top: float, height: float, cell: float) -> Drawing:
    """An open lampshade of main colour, patterned in its lower part."""
    shell = lathe([(wide - 0.006, 0.0), (wide, 0.0), (top, height), (top - 0.006, height), (wide - 0.006, 0.0)], 36)
    low, high = 0.12, 0.62
    ends = [(wide + (top - wide) * t, height * t) for t in (low, high)]
    rim = lathe([(wide, -0.004), (wide + 0.004, -0.004), (wide + 0.004, 0.008), (wide, 0.008)], 36)
    return [(Surface(r.main), shell), (r.painted(), band(ends[0], ends[1], 0.002, cell)), (Surface(r.main), rim)]


def _desk_lamp(r: Recipe) -> Drawing:
    base, metal = Surface(r.accent, "wood", roughness=0.5), Surface("steel", roughness=0.4)
    reach, rise = r.vary("reach", 0.1, 0.16), r.vary("arm", 0.3, 0.38)
    elbow, wrist = (-reach, 0.05 + rise * 0.55), (0.02, 0.05 + rise)
    head = [(s, m.moved(y=-0.19)) for s, m in _shade(r, 0.15, 0.05, 0.17, 0.1)]
    cap = (Surface(r.main), sphere(0.055, 18).moved(y=-0.02))
    bulb = (Surface("light"), sphere(0.045, 14).moved(y=-0.14))
    tilted = [(s, m.turned("z", 35.0).moved(wrist[0], wrist[1], 0.0)) for s, m in [*head, cap, bulb]]
    arms: Drawing = [(metal, sweep([(0.0, 0.02), elbow], 0.012)), (metal, sweep([elbow, wrist], 0.012))]
    joint = (base, sphere(0.024, 12).moved(elbow[0], elbow[1], 0.0))
    foot = (base, cylinder(0.12, 0.035, top=0.1, bevel=0.01))
    return [(s, m.turned("y", -90.0)) for s, m in [foot, *arms, joint, *tilted]]


def _describe_lamp(r: Recipe) -> tuple[str, str]:
    kind = {"table": "table lamp", "floor": "tall floor lamp", "desk": "desk lamp with a bent arm"}[r.style]
    base = phrase(r.accent, "wooden base")
    return (
        f"{phrase(r.main, 'lamp')} with {r.accent} {r.pattern} around its shade",
        f"{phrase(kind)}: {phrase(r.main, 'shade')} with {r.pattern} above {base}.".capitalize(),
    )


CHAIR = Family(
    "chair",
    ("slatted", "panelled", "armchair"),
    _HUES,
    ("stripes", "checks", "dots", "zigzags"),
    _chair,
    _describe_chair,
    ("furniture", "seat"),
)
TABLE = Family(
    "table",
    ("four-legged", "round", "trestle"),
    _HUES,
    ("checks", "stripes", "dots", "zigzags"),
    _table,
    _describe_table,
    ("furniture",),
)
LAMP = Family(
    "lamp",
    ("table", "floor", "desk"),
    _HUES,
    ("stripes", "dots", "zigzags", "checks"),
    _lamp,
    _describe_lamp,
    ("furniture", "light"),
)
