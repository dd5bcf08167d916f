"""View layouts: the published one, even spheres, fitted radii, and that everything follows from seed and uid."""

import dataclasses
from collections import Counter
from itertools import product
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError
from unprojection import cartesian_to_spherical

from sar3d.camera_layout import CameraLayoutConfig, Cameras, cameras
from sar3d.errors import UserError
from sar3d.geometry import project

CUBE = np.array(list(product((-0.45, 0.45), repeat=3)))
SMALL = CUBE * 0.2
UPPER, LOWER = set(range(24)), set(range(27, 39))


def positions(cams: Cameras) -> dict[int, np.ndarray]:
    """Radius, elevation, azimuth by view id."""
    return dict(zip(cams.view_ids, cartesian_to_spherical(cams.c2w[:, :3, 3]), strict=True))


def test_forty_views_stand_where_the_published_ones_stand() -> None:
    cams = cameras(CameraLayoutConfig(), "chair", SMALL)
    assert cams.view_ids == (*range(24), 25, 26, *range(27, 39))
    assert cams.c2w.shape == (38, 4, 4)
    assert cams.K.shape == (38, 3, 3)
    at = positions(cams)
    assert at[25][1] == pytest.approx(90)
    assert at[26][1] == pytest.approx(-90)
    for ring, step, (low, high) in ((range(24), 15, (5, 25)), (range(27, 39), 30, (-2, 5))):
        elevations = {round(at[v][1], 9) for v in ring}
        assert len(elevations) == 1
        assert low <= elevations.pop() <= high
        turns = np.diff([at[v][2] for v in ring]) % 360
        assert np.allclose(turns, step)
    assert np.allclose(cams.c2w[0, :3, 3] * [1, 0, 0], 0, atol=1e-12)
    assert cams.c2w[0, 1, 3] < 0


def test_elevations_differ_between_objects_and_fill_their_ranges() -> None:
    drawn = np.array(
        [[positions(cameras(CameraLayoutConfig(), f"object {i}", SMALL))[v][1] for v in (0, 27)] for i in range(200)]
    )
    assert drawn[:, 0].min() < 7 < 23 < drawn[:, 0].max()
    assert drawn[:, 1].min() < -1 < 4 < drawn[:, 1].max()


@pytest.mark.parametrize("uid", ["a", "b", "c", "d", "e"])
def test_published_groups_have_the_published_composition_and_use_every_view(uid: str) -> None:
    groups = cameras(CameraLayoutConfig(), uid, SMALL).groups
    assert [len(group) for group in groups] == [12] * 4
    for group in groups:
        for half, pole in ((group[:6], 25), (group[6:], 26)):
            assert half[0] == pole
            assert len(UPPER & set(half)) == 3
            assert len(LOWER & set(half)) == 2
        assert len(set(group)) == 12
    uses = Counter(view for group in groups for view in group)
    assert all(uses[view] == 1 for view in UPPER)
    assert all(1 <= uses[view] <= 2 for view in LOWER)
    assert uses[25] == uses[26] == 4
    assert set(uses) == UPPER | LOWER | {25, 26}


def test_groups_are_shuffled_by_object_and_by_seed() -> None:
    reference = cameras(CameraLayoutConfig(), "a", SMALL)
    assert cameras(CameraLayoutConfig(), "b", SMALL).groups != reference.groups
    assert cameras(CameraLayoutConfig(seed=1), "a", SMALL).groups != reference.groups
    ringed = [view for group in reference.groups for view in group if view in UPPER]
    assert ringed != sorted(ringed)


@pytest.mark.parametrize(
    "config",
    [
        CameraLayoutConfig(),
        CameraLayoutConfig(jitter=2.0),
        CameraLayoutConfig(views=30),
        CameraLayoutConfig(radius=2.5),
    ],
)
def test_the_same_object_gets_the_same_cameras(config: CameraLayoutConfig) -> None:
    one, two = cameras(config, "a", CUBE), cameras(config, "a", CUBE)
    assert np.array_equal(one.c2w, two.c2w)
    assert one.groups == two.groups


def test_cameras_are_known_numbers() -> None:
    """A change here means that stored renders no longer belong to the views they name."""
    cams = cameras(CameraLayoutConfig(), "a", CUBE)
    assert cams.groups[0] == (25, 29, 27, 12, 11, 14, 26, 28, 0, 6, 18, 37)
    assert positions(cams)[0] == pytest.approx([2.2962, 18.28627, -90.0], abs=1e-5)
    assert positions(cams)[38] == pytest.approx([2.52582, 4.19896, -120.0], abs=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        CameraLayoutConfig(),
        CameraLayoutConfig(jitter=5.0),
        CameraLayoutConfig(fov=20.0),
        CameraLayoutConfig(fov=90.0),
        CameraLayoutConfig(views=7),
        CameraLayoutConfig(views=50, jitter=3),
    ],
)
@pytest.mark.parametrize("shape", ["cube", "rod", "ball"])
def test_a_fitted_radius_cuts_nothing_off(config: CameraLayoutConfig, shape: str) -> None:
    ball = np.random.default_rng(0).normal(size=(70_000, 3))
    points = {
        "cube": CUBE,
        "rod": CUBE * [0.02, 0.02, 1],
        "ball": 0.45 * ball / np.linalg.norm(ball, axis=1, keepdims=True),
    }[shape]
    cams = cameras(config, "a", points.astype(np.float32))
    image, depth = project(points, cams.c2w, cams.K)
    assert image.min() >= 0.025 - 1e-6
    assert image.max() <= 0.975 + 1e-6
    assert depth.min() >= 0.1 - 1e-6
    assert np.linalg.norm(cams.c2w[:, :3, 3], axis=1).min() >= 1.5 - 1e-9


def test_a_fitted_radius_is_the_least_that_fits() -> None:
    cams = cameras(CameraLayoutConfig(), "a", CUBE)
    main = np.isin(cams.view_ids, list(LOWER), invert=True)
    nearer = cams.c2w[main].copy()
    nearer[:, :3, 3] *= 0.999
    image, _ = project(CUBE, nearer, cams.K[main])
    assert image.min() < 0.025 or image.max() > 0.975


def test_small_objects_are_seen_from_the_least_radius_and_the_lower_ring_stands_further_out() -> None:
    at = positions(cameras(CameraLayoutConfig(), "a", SMALL))
    assert all(at[v][0] == pytest.approx(1.5) for v in UPPER | {25, 26})
    assert all(at[v][0] == pytest.approx(1.65) for v in LOWER)


def test_a_given_radius_holds_for_every_camera_and_needs_no_points() -> None:
    cams = cameras(CameraLayoutConfig(radius=1.8), "a", np.zeros((0, 3)))
    assert np.allclose(np.linalg.norm(cams.c2w[:, :3, 3], axis=1), 1.8)


@pytest.mark.parametrize("points", [np.zeros((0, 3)), np.zeros(3), np.array([[0, 0, np.nan]])])
def test_a_radius_cannot_be_fitted_to_nothing(points: np.ndarray) -> None:
    with pytest.raises(ValueError, match="finite points"):
        cameras(CameraLayoutConfig(), "a", points)


def test_jitter_moves_every_camera_a_little() -> None:
    still, moved = (cameras(CameraLayoutConfig(jitter=j, radius=2.0), "a", SMALL) for j in (0.0, 3.0))
    before, after = positions(still), positions(moved)
    for view in UPPER | LOWER:
        shift = after[view] - before[view]
        assert 0 <= shift[0] <= 0.06 + 1e-9
        assert 0 < abs(shift[1]) <= 3 + 1e-9
        assert 0 < abs((shift[2] + 180) % 360 - 180) <= 3 + 1e-9
    for pole in (25, 26):
        i = moved.view_ids.index(pole)
        assert 87 <= abs(after[pole][1]) < 90
        assert np.allclose(moved.c2w[i, :3, 0], [1, 0, 0], atol=0.06)


@pytest.mark.parametrize(("views", "size"), [(13, 12), (24, 12), (26, 12), (48, 12), (100, 12), (12, 12), (9, 4)])
def test_other_counts_make_full_groups_that_use_every_view(views: int, size: int) -> None:
    cams = cameras(CameraLayoutConfig(views=views, group_size=size), "a", SMALL)
    assert cams.view_ids == tuple(range(views))
    assert len(cams.groups) == -(-views // size)
    assert all(len(group) == len(set(group)) == size for group in cams.groups)
    uses = Counter(view for group in cams.groups for view in group)
    assert set(uses) == set(range(views))


@pytest.mark.parametrize("views", [1, 2, 5, 11])
def test_fewer_views_than_a_group_make_one_group(views: int) -> None:
    (group,) = cameras(CameraLayoutConfig(views=views), "a", SMALL).groups
    assert sorted(group) == list(range(views))


def test_forty_views_in_groups_of_another_size_still_use_every_camera() -> None:
    groups = cameras(CameraLayoutConfig(group_size=8), "a", SMALL).groups
    assert len(groups) == 5
    assert {view for group in groups for view in group} == UPPER | LOWER | {25, 26}


def gap(directions: np.ndarray) -> float:
    """The largest angle in degrees between any direction and the nearest of `directions`."""
    probes = np.random.default_rng(0).normal(size=(4000, 3))
    probes /= np.linalg.norm(probes, axis=1, keepdims=True)
    return float(np.degrees(np.arccos(np.clip(probes @ directions.T, -1, 1).max(axis=1))).max())


def test_a_sphere_of_views_leaves_no_hole_nor_do_its_groups() -> None:
    cams = cameras(CameraLayoutConfig(views=48, radius=2.0), "a", SMALL)
    directions = cams.c2w[:, :3, 3] / 2
    assert gap(directions) < 25
    for group in cams.groups:
        assert gap(directions[list(group)]) < 65
        assert gap(directions[list(group[:6])]) < 85


@pytest.mark.parametrize(
    "wrong",
    [
        {"views": 0},
        {"views": 40_000},
        {"group_size": 0},
        {"radius": -1.0},
        {"radius": float("nan")},
        {"radius": "near"},
        {"fov": 0.0},
        {"fov": 180.0},
        {"jitter": -1.0},
        {"jitter": float("nan")},
        {"upper_elevation": (20.0, 10.0)},
        {"lower_elevation": (-90.0, 0.0)},
    ],
)
def test_impossible_rigs_are_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"the camera layout's {next(iter(wrong))} is"):
        CameraLayoutConfig(**wrong)


def test_a_config_file_can_give_every_field_and_no_other() -> None:
    adapter = TypeAdapter(CameraLayoutConfig)
    fields = dataclasses.asdict(CameraLayoutConfig(radius=2.0, views=12, upper_elevation=(1, 2)))
    assert adapter.validate_python(fields) == CameraLayoutConfig(radius=2.0, views=12, upper_elevation=(1, 2))
    with pytest.raises(ValidationError, match="elevations"):
        adapter.validate_python({"elevations": 3})
