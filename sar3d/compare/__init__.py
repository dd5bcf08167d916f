"""What other systems wrote, brought into our world and measured by our code.

A system has layouts: which files it writes, and the frame they stand in (`systems`). A file becomes a mesh, splats or
pictures (`files`, `load`), is placed in our world (`place`: z up, right-handed, front at -y, longest side 0.9), turned
about the vertical axis where asked (`align`), and drawn and measured like our own objects (`draw`, `measure`).
"""

from sar3d.compare.align import Alignment, align, icp, ring_of
from sar3d.compare.draw import Drawing, draw
from sar3d.compare.files import Found, find_files
from sar3d.compare.load import Loaded, import_process, load_found
from sar3d.compare.measure import Measured, cloud_of, measure_floor, measure_shape
from sar3d.compare.place import Placed, place, posed, turned
from sar3d.compare.systems import SYSTEMS, Layout, System, system_named

__all__ = [
    "SYSTEMS",
    "Alignment",
    "Drawing",
    "Found",
    "Layout",
    "Loaded",
    "Measured",
    "Placed",
    "System",
    "align",
    "cloud_of",
    "draw",
    "find_files",
    "icp",
    "import_process",
    "load_found",
    "measure_floor",
    "measure_shape",
    "place",
    "posed",
    "ring_of",
    "system_named",
    "turned",
]
