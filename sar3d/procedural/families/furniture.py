"""Chairs, tables, lamps, beds, sofas and bookshelves."""

from sar3d.procedural.mesh import ProceduralMesh
from sar3d.procedural.paint import Surface
from sar3d.procedural.parts import arc, at_corners, at_sides, box, cylinder, lathe, prism, sphere
from sar3d.procedural.recipe import Drawing, Family, Part, Recipe, of


def _chair(r: Recipe) -> Drawing:
    w, d = r.vary("width", 0.44, 0.54), r.vary("depth", 0.44, 0.52)
    sit, back, leg = r.vary("seat", 0.38, 0.46), r.vary("back", 0.42, 0.58), r.vary("leg", 0.05, 0.07)
    rear = -d / 2 + leg / 2
    cushion = of(r.trim, box(w * 0.94, 0.055, d * 0.88).moved(y=sit, z=leg * 0.4))
    slab = of(r.painted, box(w, 0.07, d).moved(y=sit - 0.07))
    drawing = [*slab, *cushion, *_chair_back(r, w, back, sit, rear, leg)]
    if r.style == "office":
        foot = of(r.body, cylinder(0.045, sit - 0.08, segments=12), *_star(0.29))
        drawing += foot
    else:
        drawing += of(r.body, at_corners(box(leg, sit - 0.06, leg), w / 2 - leg / 2, d / 2 - leg / 2))
    if "armrests" in r.parts:
        post = box(leg * 0.8, 0.17, leg * 0.8).moved(y=sit, z=d / 2 - leg)
        drawing += of(r.body, at_sides(box(0.06, 0.045, d * 0.96).moved(y=sit + 0.17), w / 2))
        drawing += of(r.body, post.moved(x=w / 2 - leg * 0.2), post.moved(x=-w / 2 + leg * 0.2))
    return drawing


def _star(reach: float) -> list[ProceduralMesh]:
    return [box(2 * reach, 0.05, 0.07).turned("y", angle) for angle in (45.0, 135.0)]


def _chair_back(r: Recipe, w: float, back: float, sit: float, rear: float, leg: float) -> Drawing:
    if r.style == "office":
        spine = box(0.09, 0.2, 0.04).moved(y=sit - 0.02, z=rear - 0.02)
        return of(r.body, spine) + of(r.painted, box(w * 0.9, back * 0.74, 0.07).moved(y=sit + back * 0.26, z=rear))
    posts = of(r.body, at_sides(box(leg, back, leg), w / 2 - leg / 2).moved(y=sit, z=rear))
    if r.style == "slatted":
        slat = box(w - leg, back * 0.15, leg * 0.6)
        return posts + of(r.painted, *(slat.moved(y=sit + back * t, z=rear) for t in (0.25, 0.55, 0.85)))
    return posts + of(r.painted, box(w - leg, back * 0.78, leg * 0.6).moved(y=sit + back * 0.22, z=rear))


def _table(r: Recipe) -> Drawing:
    h, w, d = r.vary("height", 0.42, 0.58), r.vary("width", 0.86, 1.0), r.vary("depth", 0.54, 0.72)
    if r.style == "round":
        top = cylinder(0.48, 0.08, segments=28).moved(y=h - 0.08)
        column = lathe([(0.07, 0.07), (0.06, h - 0.1), (0.14, h - 0.07)], 16)
        foot = lathe([(0.0, 0.0), (0.25, 0.0), (0.25, 0.045), (0.06, 0.1)], 18)
        drawing = of(r.painted, top) + of(r.body, column) + of(r.trim, foot)
    else:
        top = box(w, 0.08, d).moved(y=h - 0.08)
        apron = box(w * 0.9, 0.1, d * 0.88).moved(y=h - 0.17)
        drawing = of(r.painted, top) + of(r.body, apron) + of(r.trim, *_table_legs(r, w, d, h - 0.07))
    if "vase" in r.parts:
        drawing += of(r.body, lathe([(0.0, 0.0), (0.05, 0.0), (0.085, 0.07), (0.04, 0.15), (0.06, 0.2)], 14).moved(y=h))
    return drawing


def _table_legs(r: Recipe, w: float, d: float, h: float) -> list[ProceduralMesh]:
    thick = r.vary("leg", 0.06, 0.08)
    if r.style == "trestle":
        frame = [(-0.42, 0.0), (-0.28, 0.0), (0.0, h * 0.7), (0.28, 0.0), (0.42, 0.0), (0.09, h), (-0.09, h)]
        side = prism(frame, 0.08).scaled(d * 0.95 / 0.84, 1.0, 1.0).turned("y", 90.0)
        return [side.moved(x=w * 0.36), side.moved(x=-w * 0.36)]
    return [at_corners(box(thick, h, thick), w / 2 - thick * 0.8, d / 2 - thick * 0.8)]


def _lamp(r: Recipe) -> Drawing:
    wide, h = r.vary("shade", 0.29, 0.36), r.vary("rise", 0.36, 0.46)
    top = wide * (0.9 if r.style == "drum" else r.vary("taper", 0.42, 0.6))
    neck = {"floor": r.vary("neck", 0.74, 0.9), "table": 0.36, "drum": 0.36}[r.style]
    shade = lathe([(wide * 0.96, 0.0), (wide, 0.0), (top, h), (0.0, h)], 24)
    inner = lathe([(0.0, h - 0.02), (top * 0.94, h - 0.02), (wide * 0.96, 0.0)], 24)
    drawing = of(r.painted, shade.moved(y=neck)) + of(Surface("light"), inner.moved(y=neck))
    if r.style == "floor":
        drawing += of(r.trim, cylinder(0.03, neck + 0.1, segments=10), cylinder(0.21, 0.06, top=0.17))
    else:
        girth = r.vary("girth", 0.12, 0.16)
        belly = arc(girth, 0.14, -70.0, 80.0, 8, cy=0.17)
        foot = lathe([(0.0, 0.0), (0.14, 0.0), (0.14, 0.04), *belly, (0.0, 0.32)], 18)
        drawing += of(r.trim, foot, cylinder(0.028, 0.14, segments=10).moved(y=0.28))
    if "finial" in r.parts:
        drawing += of(r.trim, sphere(0.045, 10).moved(y=neck + h + 0.03))
    return drawing


def _bed(r: Recipe) -> Drawing:
    double = r.style != "single"
    w = r.vary("width", 0.72, 0.84) if double else r.vary("width", 0.46, 0.54)
    head, low = r.vary("head", 0.38, 0.52), 0.12
    drawing = of(r.body, box(w, 0.14, 1.0).moved(y=0.1), box(w + 0.04, head, 0.06).moved(z=-0.5))
    drawing += of(Surface("cream"), box(w * 0.94, 0.09, 0.95).moved(y=0.22, z=0.01))
    blanket = box(w + 0.02, 0.13, 0.62).moved(y=0.2, z=0.19)
    drawing += of(r.painted, blanket)
    drawing += _pillows(r, w)
    drawing += of(r.trim, box(w + 0.03, 0.14, 0.09).moved(y=0.2, z=-0.14))
    if r.style == "four-poster":
        drawing += of(r.body, at_corners(box(0.06, 0.84, 0.06), w / 2 - 0.01, 0.48))
        drawing += of(r.painted, box(w + 0.06, 0.06, 1.04).moved(y=0.82))
    if "footboard" in r.parts:
        drawing += of(r.body, box(w + 0.04, 0.3, 0.05).moved(z=0.5))
    return [*drawing, *of(r.trim, at_corners(box(0.07, low, 0.07), w / 2 - 0.05, 0.45))]


def _pillows(r: Recipe, w: float) -> Drawing:
    if r.style == "single":
        return of(r.trim, box(0.34, 0.09, 0.2).moved(y=0.3, z=-0.34))
    pillow = box(w * 0.4, 0.09, 0.2).moved(y=0.3, z=-0.34)
    return of(r.trim, pillow.moved(x=w * 0.23), pillow.moved(x=-w * 0.23))


def _sofa(r: Recipe) -> Drawing:
    w, d = r.vary("width", 0.88, 1.0), r.vary("depth", 0.4, 0.48)
    high, arm = r.vary("back", 0.42, 0.52), r.vary("arm", 0.1, 0.14)
    drawing = of(r.body, box(w, 0.2, d).moved(y=0.06), box(w, high - 0.06, 0.14).moved(y=0.06, z=-d / 2 + 0.07))
    seats = 2 if r.style == "two-seat" else 3
    wide = (w - 2 * arm) / seats
    places = [wide * (i + 0.5 - seats / 2) for i in range(seats)]
    cushion = box(wide * 0.95, 0.08, d - 0.14).moved(y=0.26, z=0.08)
    drawing += of(r.painted, *(cushion.moved(x=x) for x in places))
    if r.style == "corner":
        drawing += of(r.body, box(0.36, 0.2, 0.4).moved(x=-w / 2 + 0.18, y=0.06, z=d / 2 + 0.18))
        drawing += of(r.painted, box(0.34, 0.08, 0.38).moved(x=-w / 2 + 0.18, y=0.26, z=d / 2 + 0.18))
        drawing += of(r.body, box(arm, 0.36, d).moved(x=w / 2 - arm / 2, y=0.06))
        drawing += of(r.body, box(arm, 0.36, d).moved(x=-w / 2 + arm / 2, y=0.06))
    else:
        drawing += of(r.body, at_sides(box(arm, 0.32, d), w / 2 - arm / 2).moved(y=0.06))
        roll = cylinder(arm * 0.62, d, segments=14).turned("x", 90.0).moved(y=0.4, z=-d / 2)
        drawing += of(r.body, roll.moved(x=w / 2 - arm / 2), roll.moved(x=-w / 2 + arm / 2))
    thrown = box(0.22, 0.2, 0.08).turned("x", -20.0).moved(y=0.34, z=-d / 2 + 0.24)
    drawing += of(r.trim, thrown.moved(x=w / 2 - arm - 0.13), thrown.moved(x=-w / 2 + arm + 0.13))
    drawing += of(r.trim, box(w * 0.9, 0.13, 0.02).moved(y=high * 0.5, z=-d / 2 - 0.01))
    return [*drawing, *of(r.trim, at_corners(box(0.08, 0.07, 0.08), w / 2 - 0.06, d / 2 - 0.06))]


def _bookshelf(r: Recipe) -> Drawing:
    tall = r.style == "tall"
    w = r.vary("width", 0.46, 0.58) if tall else r.vary("width", 0.84, 1.0)
    h = 1.0 if tall else r.vary("height", 0.54, 0.68)
    d, board, rows = r.vary("depth", 0.2, 0.27), 0.04, 4 if tall else 2
    gap = (h - board) / rows
    drawing = of(r.body, at_sides(box(board, h, d), w / 2 - board / 2))
    drawing += of(r.body, *(box(w - board, board, d).moved(y=gap * i) for i in range(rows + 1)))
    drawing += of(r.painted, box(w, h, 0.025).moved(z=-d / 2))
    books = [_books(r, row, w - 2 * board, gap - board, d * 0.75) for row in range(rows)]
    for row, (colored, pale) in enumerate(books):
        y = gap * row + board
        drawing += of(r.trim, *(book.moved(y=y, z=0.01) for book in colored))
        drawing += of(Surface("cream"), *(book.moved(y=y, z=0.01) for book in pale))
    if "ball on top" in r.parts:
        drawing += of(r.trim, sphere(0.09, 12).moved(x=w * 0.22, y=h + 0.08))
    return drawing


def _books(
    r: Recipe, row: int, room: float, space: float, deep: float
) -> tuple[list[ProceduralMesh], list[ProceduralMesh]]:
    """Books of a shelf from the left: those of accent color, and every third one that is not."""
    rows: tuple[list[ProceduralMesh], list[ProceduralMesh]] = ([], [])
    x, number = -room / 2, 0
    full = room * r.vary(f"full {row}", 0.6, 1.0) - room / 2
    while x < full - 0.05:
        thick = r.vary(f"book {row} {number}", 0.05, 0.09)
        high = space * r.vary(f"high {row} {number}", 0.7, 0.95)
        rows[number % 3 == 2].append(box(thick * 0.9, high, deep).moved(x=x + thick / 2))
        x, number = x + thick, number + 1
    return rows


CHAIR = Family(
    "chair",
    _chair,
    {"dining": "dining chair", "slatted": "slatted chair", "office": "office chair"},
    "seat cushion",
    (Part("armrests", 0.4, "two armrests"),),
    ("back", "low", "high-backed"),
    ("furniture", "seat"),
)
TABLE = Family(
    "table",
    _table,
    {"square": "four-legged table", "round": "round table", "trestle": "trestle table"},
    {"square": "legs", "round": "foot", "trestle": "trestles"},
    (Part("vase", 0.3, "a small vase on it"),),
    ("height", "low", "high"),
    ("furniture",),
)
LAMP = Family(
    "lamp",
    _lamp,
    {"table": "table lamp", "floor": "floor lamp", "drum": "drum-shaded lamp"},
    "base",
    (Part("finial", 0.4, "a knob on top"),),
    ("shade", "narrow", "wide"),
    ("furniture", "light"),
)
BED = Family(
    "bed",
    _bed,
    {"single": "single bed", "double": "double bed", "four-poster": "four-poster bed"},
    {"single": "pillow", "double": "pillows", "four-poster": "pillows"},
    (Part("footboard", 0.5, "a footboard"),),
    ("width", "narrow", "wide"),
    ("furniture",),
)
SOFA = Family(
    "sofa",
    _sofa,
    {"two-seat": "two-seat sofa", "three-seat": "three-seat sofa", "corner": "corner sofa"},
    "cushions",
    (),
    ("width", "short", "long"),
    ("furniture", "seat"),
)
BOOKSHELF = Family(
    "bookshelf",
    _bookshelf,
    {"tall": "tall bookshelf", "wide": "wide bookshelf"},
    "books",
    (Part("ball on top", 0.3, "a ball on top"),),
    ("depth", "shallow", "deep"),
    ("furniture",),
)
