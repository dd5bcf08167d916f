"""What each renderer draws, against scenes whose pictures are known on paper."""

from collections.abc import Iterator

import numpy as np
import pytest
import trimesh
from numpy.typing import NDArray

from sar3d.errors import ObjectError
from sar3d.geometry import camera_rays, intrinsics, look_at, project, spherical_to_cartesian
from sar3d.meshes.scene import AlphaMode, Material, Primitive, Scene, Texture, Wrap
from sar3d.render import BACKENDS, Frames, Renderer, RenderSettings, available, make_renderer
from sar3d.render.lighting import irradiance, srgb_encode

SIZE = 128
FLAT = RenderSettings(resolution=SIZE, lit=False)
FRONT = look_at((2.0, 0.0, 0.0))
RED, GREEN, BLUE = (1.0, 0.0, 0.0, 1.0), (0.0, 1.0, 0.0, 1.0), (0.0, 0.0, 1.0, 1.0)
MIDDLE = (SIZE // 2 + 3, SIZE // 2 - 6)
"""A pixel away from the center, so that nothing hits it by symmetry alone."""


@pytest.fixture(scope="module", params=BACKENDS)
def renderer(request: pytest.FixtureRequest) -> Iterator[Renderer]:
    if request.param == "pyrender" and (reason := available("pyrender")):
        pytest.skip(reason)
    out = make_renderer(request.param)
    yield out
    out.close()


def draw(renderer: Renderer, scene: Scene, *c2w: NDArray[np.float64], settings: RenderSettings = FLAT) -> Frames:
    lens = np.tile(intrinsics(39.6), (len(c2w), 1, 1))
    return renderer.render(scene, np.stack(c2w), lens, settings)


def square(
    material: Material,
    x: float = 0.0,
    half: float = 0.4,
    y: float = 0.0,
    uv: float = 1.0,
    colors: NDArray[np.float32] | None = None,
) -> Primitive:
    """In a plane of constant x, seen upright from +x; uv (0, 0) is the upper left corner, (uv, uv) the lower right."""
    corners = [(x, y - half, half), (x, y + half, half), (x, y + half, -half), (x, y - half, -half)]
    return Primitive(
        positions=np.array(corners, np.float32),
        normals=np.tile(np.array([1, 0, 0], np.float32), (4, 1)),
        faces=np.array([[0, 2, 1], [0, 3, 2]], np.uint32),
        material=material,
        uvs=np.array([(0, 0), (uv, 0), (uv, uv), (0, uv)], np.float32),
        colors=colors,
    )


def mesh(shape: trimesh.Trimesh, normals: NDArray[np.floating]) -> Scene:
    vertices, faces = np.asarray(shape.vertices, np.float32), np.asarray(shape.faces, np.uint32)
    return Scene((Primitive(vertices, np.asarray(normals, np.float32), faces, Material(base_color=RED)),))


def encoded(linear: float) -> int:
    return int(np.round(srgb_encode(np.array(linear)) * 255))


def angle(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.floating]:
    return np.degrees(np.arccos(np.clip(np.sum(a * b, axis=-1), -1, 1)))


def around(*degrees: tuple[float, float]) -> list[NDArray[np.float64]]:
    return [look_at(spherical_to_cartesian(1.8, elevation, azimuth)) for azimuth, elevation in degrees]


def test_a_spheres_depth_and_normals_are_those_of_the_ray_through_the_pixels_center(renderer: Renderer) -> None:
    ball = trimesh.creation.icosphere(subdivisions=5, radius=0.45)
    cameras = around((0, 0), (40, 20), (200, -35), (10, 90), (10, -90))
    frames = draw(renderer, mesh(ball, ball.vertices / 0.45), *cameras)
    for view, c2w in enumerate(cameras):
        origin, direction = camera_rays(c2w, intrinsics(39.6), SIZE, SIZE)
        along = -np.sum(origin * direction, axis=-1)
        under = along**2 - np.sum(origin**2, axis=-1) + 0.45**2
        distance = along - np.sqrt(np.maximum(under, 0))
        truth = (origin + distance[..., None] * direction) / 0.45
        steep = np.sum(truth * direction, axis=-1)
        inside = (under > 0) & (steep < -0.3)
        assert inside.sum() > 2000
        depth = distance * (direction @ c2w[:3, 2])
        assert np.abs(frames.depth[view] - depth)[inside].max() < 1e-3
        assert angle(frames.normal[view], truth)[inside].max() < 1
        assert np.all(np.sum(frames.normal[view] * direction, axis=-1) <= 1e-6)
        assert not frames.depth[view][under < -1e-3].any()


def test_a_cubes_depth_and_normals_are_exact(renderer: Renderer) -> None:
    box = trimesh.creation.box(extents=(0.9, 0.6, 0.5))
    box = trimesh.Trimesh(box.triangles.reshape(-1, 3), np.arange(36).reshape(-1, 3), process=False)
    cameras = around((0, 0), (33, 20), (251, -40), (0, 90))
    frames = draw(renderer, mesh(box, np.repeat(box.face_normals, 3, axis=0)), *cameras)
    half = np.array([0.45, 0.3, 0.25])
    for view, c2w in enumerate(cameras):
        origin, direction = camera_rays(c2w, intrinsics(39.6), SIZE, SIZE)
        safe = np.where(np.abs(direction) < 1e-12, 1e-12, direction)
        near = (-np.sign(safe) * half - origin) / safe
        far = (np.sign(safe) * half - origin) / safe
        enter, leave = near.max(axis=-1), far.min(axis=-1)
        inside = leave - enter > 1e-2
        normal = -np.sign(safe) * (np.arange(3) == near.argmax(axis=-1)[..., None])
        clear = inside & (np.sort(near, axis=-1)[..., 2] - np.sort(near, axis=-1)[..., 1] > 1e-2)
        depth = enter * (direction @ c2w[:3, 2])
        assert np.abs(frames.depth[view] - depth)[clear].max() < 1e-4
        assert angle(frames.normal[view], normal)[clear].max() < 0.1
        assert np.all(frames.alpha[view][np.pad(_eroded(inside), 1)] == 255)
        assert not frames.depth[view][enter > leave + 1e-2].any()


def _eroded(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    height, width = mask.shape
    return np.all([mask[i : height - 2 + i, j : width - 2 + j] for i in range(3) for j in range(3)], axis=0)


def test_a_pixel_has_depth_exactly_if_its_center_is_covered(renderer: Renderer) -> None:
    triangle = np.array([(0, -0.37, -0.31), (0, 0.41, -0.12), (0, -0.05, 0.38)], np.float32)
    normals = np.tile(np.array([1, 0, 0], np.float32), (3, 1))
    scene = Scene((Primitive(triangle, normals, np.array([[0, 1, 2]], np.uint32), Material()),))
    frames = draw(renderer, scene, FRONT)
    corners = project(triangle, FRONT, intrinsics(39.6))[0] * SIZE
    centers = np.stack(np.meshgrid(np.arange(SIZE) + 0.5, np.arange(SIZE) + 0.5), axis=-1)
    sides = []
    for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        edge = (b - a) / np.linalg.norm(b - a)
        sides.append((centers - a)[..., 1] * edge[0] - (centers - a)[..., 0] * edge[1])
    side = np.stack(sides)
    covered = np.all(side > 0, axis=0) | np.all(side < 0, axis=0)
    undecided = np.abs(side).min(axis=0) < 0.01
    assert np.array_equal(frames.depth[0][~undecided] > 0, covered[~undecided])
    area = abs(np.linalg.det(np.stack([corners[1] - corners[0], corners[2] - corners[0]]))) / 2
    assert frames.alpha[0].sum() / 255 == pytest.approx(area, rel=5e-3)


@pytest.mark.acceptance("With lighting off, a flat-colored pixel equals its base color in sRGB")
def test_unlit_base_color_comes_out_exactly(renderer: Renderer) -> None:
    color = (0.2, 0.013, 0.77)
    frames = draw(renderer, Scene((square(Material(base_color=(*color, 1.0))),)), FRONT)
    solid = np.pad(_eroded(frames.depth[0] > 0), 1)
    assert np.all(frames.rgb[0][solid] == [encoded(c) for c in color])
    assert np.all(frames.rgb[0][frames.alpha[0] == 0] == 255)


def test_color_and_alpha_of_an_edge_composite_in_encoded_values(renderer: Renderer) -> None:
    frames = draw(renderer, Scene((square(Material(base_color=RED), half=0.3712),)), FRONT)
    alpha = frames.alpha[0].astype(float)
    assert ((alpha > 20) & (alpha < 235)).any()
    assert np.abs(frames.rgb[0, ..., 1] - (255 - alpha)).max() <= 1
    assert np.all(frames.rgb[0, ..., 0] == 255)


def test_lit_surfaces_follow_the_documented_lights(renderer: Renderer) -> None:
    ball = trimesh.creation.icosphere(subdivisions=4, radius=0.45)
    scene = mesh(ball, ball.vertices / 0.45)
    frames = draw(renderer, scene, *around((0, 0), (150, 20)), settings=RenderSettings(SIZE))
    inside = np.stack([np.pad(_eroded(_eroded(depth > 0)), 2) for depth in frames.depth])
    expected = srgb_encode(irradiance(frames.normal)) * 255
    assert np.abs(frames.rgb[..., 0] - expected)[inside].max() < 3
    assert frames.rgb[..., 0][inside].max() < 255


def test_unlit_materials_keep_their_color_under_the_lights(renderer: Renderer) -> None:
    scene = Scene((square(Material(base_color=(0.5, 0.5, 0.5, 1.0), unlit=True)),))
    frames = draw(renderer, scene, FRONT, settings=RenderSettings(SIZE))
    assert np.all(frames.rgb[0][MIDDLE] == encoded(0.5))


@pytest.mark.acceptance("Normals face the camera")
def test_both_sides_are_drawn_and_normals_face_the_camera(renderer: Renderer) -> None:
    scene = Scene((square(Material(base_color=GREEN, double_sided=False)),))
    frames = draw(renderer, scene, FRONT, look_at((-2.0, 0.0, 0.0)))
    assert np.all(frames.rgb[:, MIDDLE[0], MIDDLE[1]] == (0, 255, 0))
    assert frames.normal[:, MIDDLE[0], MIDDLE[1]] == pytest.approx(np.array([[1, 0, 0], [-1, 0, 0]]), abs=1e-6)


def corner_texture(wrap: Wrap = "clamp", nearest: bool = False) -> Texture:
    pixels = np.array([[(255, 0, 0, 255), (0, 255, 0, 255)], [(0, 0, 255, 255), (128, 128, 128, 255)]], np.uint8)
    return Texture(pixels, wrap_u=wrap, wrap_v=wrap, nearest=nearest)


def seen_at(frames: Frames, fractions: list[tuple[float, float]], half: float = 0.4) -> list[list[int]]:
    """Colors at (right, down) fractions of a `square`."""
    points = np.array([(0, -half + 2 * half * right, half - 2 * half * down) for right, down in fractions])
    pixels = np.floor(project(points, FRONT, intrinsics(39.6))[0] * SIZE).astype(int)
    return [frames.rgb[0, row, column].tolist() for column, row in pixels]


@pytest.mark.parametrize("nearest", [True, False])
def test_row_0_of_a_texture_is_v_0(renderer: Renderer, nearest: bool) -> None:
    frames = draw(renderer, Scene((square(Material(texture=corner_texture(nearest=nearest))),)), FRONT)
    corners = seen_at(frames, [(0.1, 0.1), (0.9, 0.1), (0.1, 0.9), (0.9, 0.9)])
    assert corners == [[255, 0, 0], [0, 255, 0], [0, 0, 255], [128, 128, 128]]
    beside_the_middle = seen_at(frames, [(0.4, 0.1)])[0]
    assert (beside_the_middle == [255, 0, 0]) == nearest


@pytest.mark.parametrize(
    ("wrap", "second", "third"),
    [("repeat", [255, 0, 0], [0, 255, 0]), ("clamp", [0, 255, 0], [0, 255, 0]), ("mirror", [0, 255, 0], [255, 0, 0])],
)
def test_wrap_modes(renderer: Renderer, wrap: Wrap, second: list[int], third: list[int]) -> None:
    texture = corner_texture(wrap, nearest=True)
    frames = draw(renderer, Scene((square(Material(texture=texture), uv=2.0),)), FRONT)
    row = seen_at(frames, [(0.12, 0.12), (0.37, 0.12), (0.62, 0.12), (0.87, 0.12)])
    assert row == [[255, 0, 0], [0, 255, 0], second, third]


def test_a_minified_texture_is_averaged_in_linear_light(renderer: Renderer) -> None:
    checks = np.full((512, 512, 4), 255, np.uint8)
    checks[np.indices((512, 512)).sum(axis=0) % 2 == 0, :3] = 0
    frames = draw(renderer, Scene((square(Material(texture=Texture(checks))),)), FRONT)
    inside = np.pad(_eroded(frames.depth[0] > 0), 1)
    assert np.abs(frames.rgb[0][inside].astype(int) - encoded(0.5)).max() <= 2


def test_factor_texture_and_vertex_color_multiply(renderer: Renderer) -> None:
    pixels = np.full((1, 1, 4), (255, 128, 255, 255), np.uint8)
    colors = np.tile(np.array([0.5, 1.0, 0.25, 1.0], np.float32), (4, 1))
    material = Material(base_color=(1.0, 0.5, 0.5, 1.0), texture=Texture(pixels))
    frames = draw(renderer, Scene((square(material, colors=colors),)), FRONT)
    green = 0.5 * ((128 / 255 + 0.055) / 1.055) ** 2.4
    expected = np.array([encoded(0.5), encoded(green), encoded(0.125)])
    assert np.abs(frames.rgb[0][MIDDLE].astype(int) - expected).max() <= 1


def half_transparent() -> Texture:
    """Alpha 51 on the left, 204 on the right."""
    return Texture(np.array([[(255, 255, 255, 51), (255, 255, 255, 204)]], np.uint8), "clamp", "clamp", nearest=True)


@pytest.mark.parametrize(
    ("mode", "alphas", "deep"),
    [("OPAQUE", [255, 255], [True, True]), ("MASK", [0, 255], [False, True]), ("BLEND", [51, 204], [False, True])],
)
def test_what_alpha_does(renderer: Renderer, mode: AlphaMode, alphas: list[int], deep: list[bool]) -> None:
    material = Material(base_color=BLUE, texture=half_transparent(), alpha_mode=mode, alpha_cutoff=0.6)
    frames = draw(renderer, Scene((square(material),)), FRONT)
    row, columns = MIDDLE[0], [SIZE // 2 - 15, SIZE // 2 + 15]
    assert frames.alpha[0, row, columns] == pytest.approx(alphas, abs=1)
    assert (frames.depth[0, row, columns] > 0).tolist() == deep
    assert np.any(frames.normal[0, row, columns] != 0, axis=-1).tolist() == deep
    assert frames.rgb[0, row, columns, 0] == pytest.approx([255 - a for a in alphas], abs=1)
    assert frames.rgb[0, row, columns, 2] == pytest.approx([255, 255], abs=1)


def test_the_cutoff_itself_is_drawn(renderer: Renderer) -> None:
    material = Material(base_color=(1.0, 1.0, 1.0, 0.5), alpha_mode="MASK", alpha_cutoff=0.5)
    assert draw(renderer, Scene((square(material),)), FRONT).alpha[0][MIDDLE] == 255


def test_blended_surfaces_are_composited_from_back_to_front_in_every_view(renderer: Renderer) -> None:
    red = square(Material(base_color=(1.0, 0.0, 0.0, 0.6), alpha_mode="BLEND"), x=0.1)
    blue = square(Material(base_color=(0.0, 0.0, 1.0, 0.25), alpha_mode="BLEND", texture=half_transparent()), x=0.2)
    green = square(Material(base_color=GREEN), x=-0.1)
    frames = draw(renderer, Scene((blue, red, green)), FRONT, look_at((-2.0, 0.0, 0.0)))
    row, column = MIDDLE[0], SIZE // 2 + 15
    blue_alpha = 0.25 * 204 / 255
    expected = [(1 - blue_alpha) * 0.6, (1 - blue_alpha) * 0.4, blue_alpha]
    assert frames.rgb[0, row, column] == pytest.approx([encoded(c) for c in expected], abs=1)
    assert frames.alpha[0, row, column] == 255
    assert frames.depth[0, row, column] == pytest.approx(1.9, abs=1e-4)
    assert frames.rgb[1][MIDDLE].tolist() == [0, 255, 0]
    assert frames.depth[1][MIDDLE] == pytest.approx(1.9, abs=1e-4)


def test_a_tint_leaves_the_depth_of_what_lies_behind(renderer: Renderer) -> None:
    glass = square(Material(base_color=(1.0, 0.0, 0.0, 0.3), alpha_mode="BLEND"), x=0.2, y=0.2)
    frames = draw(renderer, Scene((glass, square(Material(base_color=GREEN), half=0.2))), FRONT)
    row = SIZE // 2
    tinted, alone = SIZE // 2 + 8, SIZE // 2 + 40
    assert frames.depth[0, row, tinted] == pytest.approx(2.0, abs=1e-4)
    assert frames.rgb[0, row, tinted] == pytest.approx([encoded(0.3), encoded(0.7), 0], abs=1)
    assert frames.depth[0, row, alone] == 0
    assert frames.alpha[0, row, alone] == pytest.approx(0.3 * 255, abs=1)


def test_an_invisible_object_is_refused(renderer: Renderer) -> None:
    scene = Scene((square(Material(base_color=(1.0, 1.0, 1.0, 0.0), alpha_mode="BLEND")),))
    with pytest.raises(ObjectError, match="transparent") as caught:
        draw(renderer, scene, FRONT)
    assert caught.value.kind == "blank_frame"
    assert draw(renderer, Scene((square(Material()),)), FRONT).alpha.any()


def test_an_empty_view_is_no_error_where_nothing_should_be_seen(renderer: Renderer) -> None:
    edge_on, away = look_at((0.0, 2.0, 0.0)), look_at((2.0, 0.0, 0.0), (4.0, 0.0, 0.0))
    frames = draw(renderer, Scene((square(Material()),)), edge_on, away)
    assert not frames.alpha.any()
    assert np.all(frames.rgb == 255)


def test_a_scene_without_triangles_is_refused(renderer: Renderer) -> None:
    with pytest.raises(ObjectError, match="no_faces"):
        draw(renderer, Scene(()), FRONT)


def test_views_do_not_depend_on_each_other_nor_on_what_was_drawn_before(renderer: Renderer) -> None:
    ball = trimesh.creation.icosphere(subdivisions=3, radius=0.45)
    scene = mesh(ball, ball.vertices / 0.45)
    cameras = around((0, 0), (90, 30), (180, 0))
    together = draw(renderer, scene, *cameras)
    draw(renderer, Scene((square(Material()),)), FRONT, settings=RenderSettings(resolution=40))
    alone = draw(renderer, scene, cameras[1])
    for field in ("rgb", "alpha", "depth", "normal"):
        assert np.array_equal(getattr(together, field)[1], getattr(alone, field)[0])


def test_a_camera_inside_the_object_sees_it(renderer: Renderer) -> None:
    ball = trimesh.creation.icosphere(subdivisions=4, radius=0.45)
    frames = draw(renderer, mesh(ball, ball.vertices / 0.45), look_at((0.1, 0.0, 0.0)))
    assert np.all(frames.alpha == 255)
    assert frames.depth[0, SIZE // 2, SIZE // 2] == pytest.approx(0.55, abs=2e-3)
    assert frames.normal[0, SIZE // 2, SIZE // 2] == pytest.approx([1, 0, 0], abs=0.02)


def test_walls_seen_edge_on_invent_no_depth(renderer: Renderer) -> None:
    """Vertical walls through the axis under cameras on it: no area, and so nothing beyond what is there."""
    walls = []
    for angle_ in np.radians(np.arange(0, 360, 15)):
        along = np.array([np.cos(angle_), np.sin(angle_)]) * np.linspace(0.02, 0.45, 7)[:, None]
        low = np.column_stack([along, np.full(7, -0.05)])
        high = np.column_stack([along, np.full(7, 0.05)])
        faces = [f for i in range(6) for f in ((i, i + 1, i + 7), (i + 1, i + 8, i + 7))]
        normals = np.tile([-np.sin(angle_), np.cos(angle_), 0.0], (14, 1))
        parts = (np.concatenate([low, high]), normals)
        walls.append(Primitive(*(p.astype(np.float32) for p in parts), np.array(faces, np.uint32), Material()))
    cameras = [look_at((x, 0, 2.0)) for x in (0, 1e-5, 1e-3, 0.01)]
    base = square(Material(), half=0.01)  # something to see, so that no view is blank
    frames = draw(renderer, Scene((*walls, base)), *cameras, settings=RenderSettings(resolution=256, lit=False))
    depth = frames.depth[frames.depth != 0]
    assert len(depth) > 0
    longest_edge = 0.13
    assert depth.min() > 2.0 - 0.05 - longest_edge
    assert depth.max() < 2.0 + 0.05 + longest_edge
