"""Which material each face of an .obj file has, from `mtllib`, `usemtl` and the libraries."""

from dataclasses import dataclass

import numpy as np

from sar3d.errors import ObjectError
from sar3d.meshes.beside import Beside, Reference, find_all, names_of, shown
from sar3d.meshes.colors import srgb_to_linear
from sar3d.meshes.obj import mtl
from sar3d.meshes.scene import AlphaMode, Material
from sar3d.meshes.textures import TextureFiles
from sar3d.meshes.warning_list import WarningList

_NO_MATERIAL = ("", "(null)", "off")
"""What exporters write after `usemtl` for faces without a material."""


@dataclass(frozen=True)
class MappedMaterial:
    """A material and what its texture's options do to texture coordinates: uv * scale + offset."""

    material: Material
    scale: tuple[float, float] = (1.0, 1.0)
    offset: tuple[float, float] = (0.0, 0.0)


_PLAIN = MappedMaterial(Material())


class Materials:
    """The libraries of one object."""

    def __init__(self, beside: Beside, textures: TextureFiles, warnings: WarningList) -> None:
        self._beside, self._textures, self._warnings = beside, textures, warnings
        self._texts: dict[str, mtl.MaterialText] = {}
        self._missing: ObjectError | None = None
        self._known: dict[str, MappedMaterial] = {}

    def add_libraries(self, line: str) -> None:
        """Read what one `mtllib` line names: a file whose name may hold blanks, or several files.

        A library that is not there matters when a material is looked for in vain.
        """
        files, failure = find_all(mtl.library_reference(line), self._beside.find)
        if failure is not None:
            self._missing = self._missing or failure
            self._warnings.add(f"a material library is not read: {failure.reason}")
        for file in files:
            for material in mtl.read_library(self._beside.read(file), file):
                self._texts[material.name] = material

    def named(self, name: str) -> MappedMaterial:
        """Of the faces after `usemtl name`; white, with a warning, where no library has the name.

        Raises ObjectError: that of a missing library that may have had it, and what `TextureFiles.load` raises.
        """
        if name in _NO_MATERIAL:
            return _PLAIN
        if name not in self._known:
            self._known[name] = self._found(name)
        return self._known[name]

    def unnamed(self, faces: int, *, any_named: bool) -> MappedMaterial:
        """Of the faces that no `usemtl` stands before: the only material of the libraries, if there is only one."""
        if len(self._texts) == 1 and not any_named:
            (name,) = self._texts
            self._warnings.add(f"it names no material; the only one of its library, {shown(name)}, was taken")
            return self.named(name)
        if self._texts:
            self._warnings.add(f"{faces} of its faces name no material of its library; they are drawn white")
        return _PLAIN

    def _found(self, name: str) -> MappedMaterial:
        text = self._texts.get(name) or self._texts.get(name.split(" #")[0].strip())
        if text is None:
            alike = [t for known, t in self._texts.items() if known.casefold() == name.casefold()]
            text = alike[0] if len(alike) == 1 else None
        if text is None and self._missing is not None:
            raise self._missing
        if text is None:
            where = "its library does not have" if self._texts else "it has no library with"
            self._warnings.add(f"{where} the material {shown(name)}; what it covers is drawn white")
            return _PLAIN
        return self._made(text)

    def _made(self, text: mtl.MaterialText) -> MappedMaterial:
        mtl.unread(text, self._warnings)
        alpha = mtl.opacity(text, self._warnings)
        mode: AlphaMode = "BLEND" if alpha < 1.0 else "OPAQUE"
        reference = mtl.texture_reference(text, "map_kd", self._warnings)
        if reference is None:
            red, green, blue = srgb_to_linear(np.array(mtl.diffuse(text, self._warnings))).tolist()
            return MappedMaterial(Material((red, green, blue, alpha), None, mode))
        # A texture replaces Kd, which exporters leave at arbitrary values then.
        names = Reference(names_of(reference.name))
        files, failure = find_all(names, lambda name: self._beside.find(name, text.library))
        if failure is not None:
            raise failure
        texture = self._textures.load(files[0], "clamp" if reference.clamp else "repeat")
        return MappedMaterial(Material((1.0, 1.0, 1.0, alpha), texture, mode), reference.scale, reference.offset)
