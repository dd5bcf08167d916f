"""What the pixels of V pictures show of a mesh, and pictures of it that are differentiable in the mesh."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sar3d.render.raster.projection import to_screen
from sar3d.render.raster.silhouettes import Jumps, find_jumps, with_gradient
from sar3d.render.raster.visibility import visible_faces

_BEYOND = 0.01
"""How far a weight may leave [0, 1]: rounding moves it by less, unless a face is so thin that it has no weights."""

_LEAST_AREA = 1e-12
"""Square pixels; the doubled area of a face counts as no less."""


@dataclass(frozen=True)
class Raster:
    """V pictures of H × W pixels, K of which show the mesh; everything per pixel is listed in raster order."""

    shape: tuple[int, int, int]
    """V, H, W"""
    pixel: Int[Tensor, "K"]
    """Numbers of the covered pixels among V·H·W."""
    face: Int[Tensor, "K"]
    """The face that each shows."""
    corners: Int[Tensor, "K 3"]
    """Its vertices."""
    screen: Float[Tensor, "K 3 3"]
    """Their pixel coordinates and z-depths, see `projection.to_screen`."""
    shares: Float[Tensor, "K 3"]
    """Barycentric weights of the pixel's center on the screen, summing to 1."""
    focal: Float[Tensor, "V"]
    """Focal length of each view in pixels."""

    @cached_property
    def depth(self) -> Float[Tensor, "K"]:
        """z-depth at the pixels' centers."""
        return 1 / (self.shares / self.screen[..., 2]).sum(-1)

    @cached_property
    def weights(self) -> Float[Tensor, "K 3"]:
        """Perspective-correct weights of the corners, summing to 1."""
        return self.shares / self.screen[..., 2] * self.depth[:, None]

    @cached_property
    def view(self) -> Int[Tensor, "K"]:
        """The picture that each pixel belongs to."""
        return self.pixel // (self.shape[1] * self.shape[2])

    def interpolate(self, attributes: Float[Tensor, "N C"]) -> Float[Tensor, "K C"]:
        """Attributes of the mesh's vertices at the pixels' centers."""
        columns = [column.index_select(0, self.corners.flatten()).view(-1, 3) for column in attributes.unbind(-1)]
        return torch.stack([(self.weights * column).sum(-1) for column in columns], -1)

    def picture(
        self, values: Float[Tensor, "K C"], background: Float[Tensor, "C"] | float = 0.0
    ) -> Float[Tensor, "V H W C"]:
        """`values` where the mesh is seen, `background` elsewhere; as differentiable as the values."""
        ground = torch.as_tensor(background, dtype=values.dtype, device=values.device)
        views, height, width = self.shape
        empty = ground.expand(views * height * width, values.shape[-1]).contiguous()
        return empty.index_copy(0, self.pixel, values).view(views, height, width, -1)

    def mask(self) -> Float[Tensor, "V H W 1"]:
        """1 where the mesh is seen, 0 elsewhere."""
        return self.picture(self.shares.new_ones(len(self.pixel), 1))

    def with_silhouettes(self, picture: Float[Tensor, "V H W C"]) -> Float[Tensor, "V H W C"]:
        """The same picture with the gradient of moving silhouettes, see `silhouettes`."""
        if not self.screen.requires_grad:
            return picture
        return with_gradient(picture, self.jumps, self.screen, self.shares)

    @cached_property
    def jumps(self) -> Jumps:
        """Neighboring pixels between which one surface ends in front of another or of the background."""
        return find_jumps(self.shape, self.pixel, self.face, self.screen, self.shares, self.focal[self.view])


def rasterize(
    vertices: Float[Tensor, "N 3"],
    faces: Int[Tensor, "F 3"],
    c2w: Float[Tensor, "V 4 4"],
    intrinsics: Float[Tensor, "V 3 3"],
    height: int,
    width: int,
) -> Raster:
    """Find what V cameras see of a mesh. Differentiable in the vertices, in float32 or float64, on CPU and GPU.

    Args:
        vertices: in the world.
        faces: seen from both sides. Those that reach behind a camera are not drawn.
        c2w: OpenCV camera-to-world matrices.
        intrinsics: normalized by the picture's size, see `sar3d.geometry`.

    Raises:
        ValueError: a vertex is not finite or not float32 or float64, or a picture has no pixel.
    """
    _check(vertices, height, width)
    screen = to_screen(vertices, c2w, intrinsics, height, width)
    seen = visible_faces(screen.detach(), faces, height, width)
    pixel = (seen >= 0).flatten().nonzero().flatten()
    face = seen.flatten().index_select(0, pixel)
    corners = faces.index_select(0, face).long()
    view = pixel // (height * width)
    row = (corners + view[:, None] * len(vertices)).flatten()
    columns = [column.index_select(0, row).view(-1, 3) for column in screen.reshape(-1, 3).unbind(-1)]
    at = torch.stack(columns, -1)
    return Raster(
        shape=(len(screen), height, width),
        pixel=pixel,
        face=face,
        corners=corners,
        screen=at,
        shares=_shares(at, pixel, width, height),
        focal=intrinsics[:, 0, 0].to(vertices.dtype) * width,
    )


def _check(vertices: Tensor, height: int, width: int) -> None:
    if vertices.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"vertices must be float32 or float64, not {vertices.dtype}: cast them first")
    if height < 1 or width < 1:
        raise ValueError(f"a picture of {height} × {width} pixels cannot be drawn")
    if not vertices.isfinite().all():
        raise ValueError("vertices must be finite: the mesh has diverged")


def _centers(pixel: Int[Tensor, "K"], height: int, width: int) -> tuple[Int[Tensor, "K"], Int[Tensor, "K"]]:
    """Column and row of pixels by number."""
    return pixel % width, pixel // width % height


def _shares(screen: Float[Tensor, "K 3 3"], pixel: Int[Tensor, "K"], width: int, height: int) -> Float[Tensor, "K 3"]:
    """Barycentric weights of pixels' centers on the screen."""
    column, row = _centers(pixel, height, width)
    x = screen[..., 0] - (column + 0.5)[:, None]
    y = screen[..., 1] - (row + 0.5)[:, None]
    areas = x.roll(-1, -1) * y.roll(-2, -1) - x.roll(-2, -1) * y.roll(-1, -1)
    total = areas.sum(-1, keepdim=True)
    total = torch.where(total.abs() < _LEAST_AREA, _LEAST_AREA, total)
    # The center of a face too thin to be measured still lies in it: whatever the weights are, they are its corners'.
    shares = (areas / total).clamp(-_BEYOND, 1 + _BEYOND)
    return shares / shares.sum(-1, keepdim=True)
