"""A differentiable rasterizer in plain torch, on CPU and GPU: deterministic, without extensions.

`rasterize` finds what cameras see; the `Raster` it gives interpolates attributes, makes pictures and gives them the
gradient of moving silhouettes:

    raster = rasterize(vertices, faces, c2w, intrinsics, 2 * 128, 2 * 128)
    colors = field_color(raster.interpolate(vertices))
    picture = averaged(raster.with_silhouettes(raster.picture(colors, 1.0)), 2)
"""

from sar3d.render.raster.pictures import averaged, face_vectors, vertex_normals
from sar3d.render.raster.projection import to_screen
from sar3d.render.raster.raster import Raster, rasterize
from sar3d.render.raster.visibility import visible_faces

__all__ = ["Raster", "averaged", "face_vectors", "rasterize", "to_screen", "vertex_normals", "visible_faces"]
