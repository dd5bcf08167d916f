"""What one 3D file may ask for before it is rejected."""

from dataclasses import dataclass


@dataclass(frozen=True)
class MeshLimits:
    """Bounds on one object. Exceeding one is an `ObjectError` whose kind is given with each field."""

    triangles: int = 5_000_000
    """Triangles after instancing (`too_many_triangles`)."""
    vertices: int = 15_000_000
    """Vertices after instancing and after unsharing for flat normals; also of any one accessor
    (`too_many_vertices`)."""
    texture_pixels: int = 4096 * 4096
    """Pixels of one image. A larger JPEG is reduced by 2, 4 or 8 while it is decoded; any other format, and anything
    above Pillow's own bomb limit (179 million pixels), is rejected (`texture_too_large`)."""
    total_texture_pixels: int = 4 * 4096 * 4096
    """Pixels of all images that the object draws (`texture_too_large`)."""
    bytes: int = 512 << 20
    """Size of the file and everything that it refers to (`too_large`)."""
    nodes: int = 100_000
    """Nodes of the scene graph, GPU instances included (`too_many_nodes`)."""
