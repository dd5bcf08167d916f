"""SAR3D: 3D generation and understanding by next-scale token prediction.

The science: geometry, meshes, rendering, data formats and (later) the models. Nothing here knows Ray, DeepSpeed or
MLflow, nor folders of runs; the programs that do live in `pipelines`.

Shape legend, used by every docstring:
    B batch   V views   S scales   L tokens   P planes (always 3)   C width   K codes   D code dim
    N points, vertices or samples   F faces   H W image height and width
World axes: right-handed, z up. Cameras: OpenCV (x right, y down, z forward), matrices are camera-to-world.
"""

__version__ = "0.1.0"
