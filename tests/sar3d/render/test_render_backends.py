"""Which renderer is taken, and how renderers behave over a long life."""

import os
import threading
from collections.abc import Iterator

import numpy as np
import psutil
import pytest
import trimesh

from sar3d.errors import UserError
from sar3d.geometry import intrinsics, look_at, spherical_to_cartesian
from sar3d.meshes.scene import Material, Primitive, Scene, Texture
from sar3d.render import (
    BACKENDS,
    Backend,
    Renderer,
    RenderSettings,
    available,
    lighting,
    make_renderer,
    pick_backend,
    sampling,
    textures,
)
from sar3d.render.probe import probe_scene

SMALL = RenderSettings(resolution=48)
CAMERAS = look_at(spherical_to_cartesian(1.8, 20, np.array([0.0, 120.0, 240.0])))
LENSES = np.tile(intrinsics(39.6), (3, 1, 1))


@pytest.fixture
def fresh_probes() -> Iterator[None]:
    available.cache_clear()
    yield
    available.cache_clear()


@pytest.fixture
def without_egl(monkeypatch: pytest.MonkeyPatch, fresh_probes: None) -> None:
    monkeypatch.setenv("__EGL_VENDOR_LIBRARY_FILENAMES", "/no/such/driver.json")


def working(backend: Backend) -> Renderer:
    if backend == "pyrender" and (reason := available(backend)):
        pytest.skip(reason)
    return make_renderer(backend)


@pytest.mark.parametrize("backend", ["moderngl", "raycast"])
def test_this_machine_renders(backend: Backend) -> None:
    assert available(backend) is None
    assert pick_backend(backend) == backend


def test_auto_takes_the_fastest_that_works() -> None:
    assert pick_backend("auto") == "moderngl"


def test_without_a_driver_auto_falls_back_to_the_ray_caster(without_egl: None) -> None:
    assert pick_backend("auto") == "raycast"


@pytest.mark.parametrize("backend", ["moderngl", "pyrender"])
def test_a_chosen_renderer_that_does_not_work_says_what_to_install(backend: str, without_egl: None) -> None:
    with pytest.raises(UserError, match=f"The {backend} renderer does not work.*libegl1 libegl-mesa0 libgl1-mesa-dri"):
        pick_backend(backend)


def test_a_crashing_driver_is_only_a_reason(monkeypatch: pytest.MonkeyPatch, fresh_probes: None) -> None:
    monkeypatch.setattr("sar3d.render.backends.sys.executable", "/bin/false")
    assert "exit code 1" in str(available("raycast"))


def test_an_unknown_renderer_is_named() -> None:
    with pytest.raises(UserError, match="'blender': choose auto, moderngl, pyrender or raycast"):
        pick_backend("blender")


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_second_thread_is_refused(backend: Backend) -> None:
    renderer = working(backend)
    renderer.render(probe_scene(), CAMERAS, LENSES, SMALL)
    caught: list[BaseException] = []

    def use() -> None:
        try:
            renderer.render(probe_scene(), CAMERAS, LENSES, SMALL)
        except RuntimeError as error:
            caught.append(error)

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    renderer.close()
    assert "one renderer per thread" in str(caught[0])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_renderer_may_be_made_on_one_thread_and_used_on_another(backend: Backend) -> None:
    renderer = working(backend)
    covered: list[float] = []

    def use() -> None:
        covered.append(float(renderer.render(probe_scene(), CAMERAS, LENSES, SMALL).alpha.mean()))
        renderer.close()

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert covered[0] > 5


def test_renderers_of_one_thread_do_not_disturb_each_other() -> None:
    renderers = [working("moderngl"), working("pyrender"), working("moderngl")]
    first = [r.render(probe_scene(), CAMERAS, LENSES, SMALL).rgb for r in renderers]
    renderers[1].close()
    renderers[2].close()
    again = renderers[0].render(probe_scene(), CAMERAS, LENSES, SMALL).rgb
    renderers[0].close()
    assert np.array_equal(again, first[0])
    assert np.array_equal(first[2], first[0])
    assert np.abs(first[1].astype(int) - first[0]).max() <= 1


def varied_scene(seed: int) -> Scene:
    """A textured ball, some glass, and a plain box, of sizes that change with the seed."""
    random = np.random.default_rng(seed)
    size = int(random.integers(64, 512))
    picture = Texture(random.integers(0, 256, (size, size, 4), dtype=np.uint8))
    glass = Material(base_color=(0.5, 0.8, 1.0, 0.4), alpha_mode="BLEND", texture=picture)
    parts = []
    for radius, material in ((0.2, Material(texture=picture)), (0.3, glass), (0.1, Material())):
        ball = trimesh.creation.icosphere(subdivisions=int(random.integers(2, 5)), radius=radius)
        positions = np.asarray(ball.vertices + random.uniform(-0.1, 0.1, 3), np.float32)
        normals = np.asarray(ball.vertices / radius, np.float32)
        uvs = np.asarray(ball.vertices[:, :2] / radius, np.float32)
        parts.append(Primitive(positions, normals, np.asarray(ball.faces, np.uint32), material, uvs))
    return Scene(tuple(parts))


@pytest.mark.parametrize("backend", BACKENDS)
def test_memory_stays_flat_over_many_objects(backend: Backend) -> None:
    renderer, process = working(backend), psutil.Process(os.getpid())
    warm, total, bound = (40, 190, 10e6) if backend == "moderngl" else (30, 90, 20e6)
    before = 0
    for seed in range(total):
        if seed == warm:
            before = process.memory_info().rss
        renderer.render(varied_scene(seed), CAMERAS, LENSES, SMALL)
    grown = process.memory_info().rss - before
    renderer.close()
    # One leaked texture per object would be 0.5 MB on average; pyrender's heap alone moves by some 15 MB at times.
    assert grown < bound


def test_wrong_cameras_are_refused() -> None:
    renderer = make_renderer("raycast")
    with pytest.raises(ValueError, match="cameras must be"):
        renderer.render(probe_scene(), CAMERAS[0], LENSES[0], SMALL)
    with pytest.raises(ValueError, match="finite"):
        renderer.render(probe_scene(), CAMERAS * np.nan, LENSES, SMALL)
    with pytest.raises(ValueError, match="pixels"):
        RenderSettings(resolution=0)


def test_a_white_surface_stays_just_below_white() -> None:
    normals = np.random.default_rng(0).normal(size=(200_000, 3))
    light = lighting.irradiance(normals / np.linalg.norm(normals, axis=1, keepdims=True))
    assert 0.9 < light.max() < 0.995
    assert light.min() > 0.2


def test_srgb_round_trip() -> None:
    values = np.arange(256) / 255
    assert lighting.srgb_encode(lighting.srgb_decode(values)) == pytest.approx(values, abs=1e-6)
    assert lighting.srgb_encode(np.array(0.5)) == pytest.approx(0.7353569, abs=1e-6)


def test_every_third_sample_row_is_a_pixel_center() -> None:
    rays = sampling.sample_rays(np.eye(4), intrinsics(39.6), 8, (2, 1, 6, 8))
    assert rays.shape == (9, 15, 3)
    u, v = (intrinsics(39.6) @ rays[2 * 3 + 1, 2 * 4 + 1])[:2]
    assert (u, v) == pytest.approx(((1 + 4 + 0.5) / 8, (2 + 3 + 0.5) / 8))


def test_the_tent_keeps_what_is_constant_and_spreads_what_is_not() -> None:
    flat = np.full((9, 9, 1), 0.37)
    assert sampling.tent(flat) == pytest.approx(np.full((4, 4, 1), 0.37))
    point = np.zeros((9, 9, 1))
    point[4, 4] = 16
    assert sampling.tent(point)[1:3, 1:3, 0].tolist() == [[1, 1], [1, 1]]


def test_mip_levels_shrink_to_one_texel_of_the_mean() -> None:
    pixels = np.zeros((600, 300, 4), np.uint8)
    pixels[::2] = 255
    levels = textures.pyramid(Texture(pixels))
    assert levels.sizes[-1].tolist() == [1, 1]
    assert levels.texels[-1] == pytest.approx([188, 188, 188, 128], abs=1)


def test_between_two_mip_levels_lies_their_mean() -> None:
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0, 0] = 255
    levels = textures.pyramid(Texture(pixels, "clamp", "clamp"))
    corner = np.full((3, 2), 0.25, np.float32)
    found = textures.sample(levels, corner, np.array([1.0, np.sqrt(2), 2.0], np.float32))
    assert found[:, 3] == pytest.approx([1, (1 + 64 / 255) / 2, 64 / 255], abs=1e-3)
