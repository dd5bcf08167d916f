"""Fitting FlexiCubes to an object's views by gradient descent through the rasterizer, and how near it comes."""

import time
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn import functional as F
from unprojection import back_project

from sar3d.flexicubes import FlexiMesh, extract, regular_grid, sign_consistency
from sar3d.geometry import intrinsics, look_at
from sar3d.meshes.scene import Material, Primitive, Scene
from sar3d.render import Frames, RenderSettings, make_renderer
from sar3d.render.raster import Raster, rasterize, to_screen, vertex_normals

LENS = intrinsics(39.6)
DISTANCE = 1.75
SIDE = 128
RESOLUTION = 32
STEPS = 300
VIEWS = 32
VIEWS_PER_STEP = 4
MASK, DEPTH, NORMAL, DEVIATION, WEIGHT = 4.0, 4.0, 0.1, 0.25, 0.02
SIGN = 0.02, 0.001
"""Weight of the sign term at the start and from the first quarter on."""
STEEPNESS = 0.2
"""Of the first field: its change from one grid point to the next."""


@dataclass(frozen=True)
class Fitted:
    mesh: FlexiMesh
    cpu_seconds: float


@dataclass
class Parameters:
    """What is fitted: field, deformation and weights on a grid of side 1."""

    sdf: Tensor
    shift: Tensor
    weights: Tensor

    def mesh(self, *, training: bool) -> FlexiMesh:
        grid = regular_grid(RESOLUTION, 1.0)
        positions = grid + torch.tanh(self.shift) * (0.45 / RESOLUTION)
        return extract(positions[None], self.sdf[None], self.weights[None], training=training)[0]


def around(count: int, shift: float) -> NDArray[np.float64]:
    """(count, 4, 4) cameras spread over a sphere."""
    number = np.arange(count) + shift
    height, angle = 1 - 2 * number / count, number * np.pi * (3 - 5**0.5)
    radius = np.sqrt(1 - height * height)
    return look_at(DISTANCE * np.stack([radius * np.cos(angle), radius * np.sin(angle), height], -1))


def frames_of(scene: Scene, poses: NDArray[np.float64], side: int) -> Frames:
    renderer = make_renderer("moderngl")
    frames = renderer.render(scene, poses, np.broadcast_to(LENS, (len(poses), 3, 3)), RenderSettings(side))
    renderer.close()
    return frames


def hull(masks: NDArray[np.bool_], poses: NDArray[np.float64]) -> Tensor:
    """The visual hull as a field: the greatest, over the views, of the distance to the silhouette."""
    grid = regular_grid(RESOLUTION, 1.0)
    field = torch.full(grid.shape[:3], -1.0)
    for mask, pose in zip(masks, poses, strict=True):
        pixels = ndimage.distance_transform_edt(~mask) - ndimage.distance_transform_edt(mask)
        pixels = torch.from_numpy(pixels + np.where(mask, 0.5, -0.5)).float()[None, None]
        c2w, lens = torch.from_numpy(pose)[None], torch.from_numpy(LENS)[None]
        screen = to_screen(grid.view(-1, 3), c2w, lens, SIDE, SIDE)[0]
        at = (screen[:, :2] * (2 / SIDE) - 1)[None, None]
        found = F.grid_sample(pixels, at, padding_mode="border", align_corners=False)[0, 0, 0]
        field = torch.maximum(field, (found * screen[:, 2] / (LENS[0, 0] * SIDE)).view(field.shape))
    return field


def fit(scene: Scene) -> Fitted:
    """From masks, depth and normals of 32 views."""
    torch.manual_seed(0)
    poses = around(VIEWS, 0.5)
    frames = frames_of(scene, poses, SIDE)
    began = time.process_time()
    first = (hull(frames.alpha > 127, poses) * (STEEPNESS * RESOLUTION)).clamp(-1, 1)
    grid = (RESOLUTION + 1,) * 3
    parameters = Parameters(
        first.requires_grad_(),
        torch.zeros(*grid, 3, requires_grad=True),
        torch.zeros(*3 * (RESOLUTION,), 21, requires_grad=True),
    )
    groups = [{"params": [parameters.sdf], "lr": 0.012}, {"params": [parameters.shift, parameters.weights], "lr": 0.01}]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 16 ** (-1 / STEPS))
    order: list[int] = []
    for step in range(STEPS):
        if not order:
            order = torch.randperm(VIEWS).tolist()
        some, order = order[:VIEWS_PER_STEP], order[VIEWS_PER_STEP:]
        optimizer.zero_grad()
        loss(parameters, frames, poses, some, step).backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return Fitted(parameters.mesh(training=False), time.process_time() - began)


def loss(parameters: Parameters, frames: Frames, poses: NDArray[np.float64], some: list[int], step: int) -> Tensor:
    mesh = parameters.mesh(training=True)
    c2w = torch.from_numpy(poses[some]).float()
    lens = torch.from_numpy(LENS).float().expand(len(some), 3, 3)
    raster = rasterize(mesh.vertices, mesh.faces, c2w, lens, SIDE, SIDE)
    first, last = SIGN
    sign = first + (last - first) * min(1.0, 4 * step / STEPS)
    return (
        picture_loss(raster, mesh, frames, some)
        + DEVIATION * mesh.l_dev.mean()
        + WEIGHT * parameters.weights[..., :20].abs().mean()
        + sign * sign_consistency(parameters.sdf[None])
    )


def picture_loss(raster: Raster, mesh: FlexiMesh, frames: Frames, some: list[int]) -> Tensor:
    mask = raster.with_silhouettes(raster.mask())[..., 0]
    alpha = torch.from_numpy(frames.alpha[some]).float() / 255
    depth = torch.from_numpy(frames.depth[some]).flatten().index_select(0, raster.pixel)
    normal = torch.from_numpy(frames.normal[some]).view(-1, 3).index_select(0, raster.pixel)
    both = depth > 0
    count = both.sum().clamp_min(1)
    normals = F.normalize(raster.interpolate(vertex_normals(mesh.vertices, mesh.faces)), dim=-1)
    away = 1 - (normals * normal).sum(-1)
    return (
        MASK * (mask - alpha).abs().mean()
        + DEPTH * ((raster.depth - depth).abs() * both).sum() / count
        + NORMAL * (away * both).sum() / count
    )


def scene_of(mesh: FlexiMesh) -> Scene:
    normals = vertex_normals(mesh.vertices, mesh.faces)
    faces = mesh.faces.numpy().astype(np.uint32)
    return Scene((Primitive(mesh.vertices.numpy(), normals.numpy(), faces, Material()),))


def visible_points(scene: Scene) -> NDArray[np.float64]:
    """40,000 surface points that 16 other cameras see."""
    poses = around(16, 0.2)
    depth = frames_of(scene, poses, 256).depth
    points = back_project(depth, poses, LENS)[depth > 0]
    chosen: NDArray[np.float64] = np.random.default_rng(0).permutation(points)[:40_000]
    return chosen


def chamfer_and_f(a: Scene, b: Scene, reach: float = 0.01) -> tuple[float, float]:
    """The mean of the two mean distances over visible points, and the F-score at `reach`."""
    ours, theirs = visible_points(a), visible_points(b)
    there, back = cKDTree(theirs).query(ours)[0], cKDTree(ours).query(theirs)[0]
    precision, recall = (there < reach).mean(), (back < reach).mean()
    return float(there.mean() + back.mean()) / 2, float(2 * precision * recall / (precision + recall))
