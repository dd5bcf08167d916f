"""One generated object: its tokens, its field, every setting, and the files that it becomes."""

import json
import platform
import time
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sar3d.errors import UserError
from sar3d.export.config import ExportSettings, Format
from sar3d.vqvae.config import VolumeConfig
from sar3d.vqvae.field import Field

TOKENS = "tokens.safetensors"
SETTINGS = "settings.json"
EXPORTED: dict[Format, str] = {
    "glb": "object.glb",
    "ply": "object.ply",
    "obj": "object.obj",
    "mp4": "turntable.mp4",
    "gif": "turntable.gif",
    "png": "sheet.png",
}
"""What `sar3d.export.export.export_object` calls the files."""


@dataclass(frozen=True)
class Sample:
    """One generated object."""

    tokens: Int[Tensor, "L"]
    """Codes, scale after scale, in it plane after plane, in it row by row; on the CPU."""
    planes: Float[Tensor, "1 P C R R"]
    """The triplane that they decode to."""
    field: Field
    """What the triplane says, a batch of one: a radiance field, or a mesh (`sar3d.vqvae.field.MeshField`)."""
    volume: VolumeConfig
    """Samples on the rays of pictures."""
    settings: dict[str, Any]
    """JSON values: prompt, seed, decoding, digests of the models, encoder, versions, seconds of each part."""

    def save(self, folder: str | Path, export: ExportSettings = ExportSettings()) -> dict[str, Any]:  # noqa: B008  frozen
        """Write tokens.safetensors, settings.json and what `export` asks for into `folder`; returns the settings written.

        Tokens and settings come first, so they are there even where the export fails.

        Raises:
            ObjectError: the field has no surface to export.
            UserError: the folder cannot be written.
        """
        from sar3d.export.export import export_object

        place, wanted = Path(folder), [EXPORTED[name] for name in export.formats]
        settings = {**self.settings, "export": asdict(export), "files": [TOKENS, SETTINGS]}
        try:
            place.mkdir(parents=True, exist_ok=True)
            for name in EXPORTED.values():
                (place / name).unlink(missing_ok=True)  # an earlier sample's must not stand beside this one's settings
            self._save_tokens(place / TOKENS)
            _write(place, settings)
            if wanted:
                began = time.perf_counter()
                parts = export_object(self.field, place, settings=export, volume=self.volume, device=self.planes.device)
                settings["seconds"] = {**settings["seconds"], **parts, "export": time.perf_counter() - began}
                settings["files"] = [*settings["files"], *wanted]
                _write(place, settings)
        except (OSError, SafetensorError) as error:
            raise UserError(f"cannot write to {place} ({error}): choose another folder") from error
        return settings

    def _save_tokens(self, file: Path) -> None:
        digest = str(self.settings["models"]["vqvae"])
        save_file({"tokens": self.tokens.to(torch.int32)}, file, metadata={"vqvae": digest})
        file.chmod(0o644)  # safetensors makes files that only their owner can read


def load_tokens(path: str | Path, vqvae: str) -> Int[Tensor, "L"]:
    """The tokens that `Sample.save` wrote: the file, or the folder with it.

    Args:
        vqvae: digest of the VQVAE whose tokens are wanted.

    Raises:
        UserError: there are none, they are damaged, or they are another VQVAE's.
    """
    file = Path(path)
    file = file / TOKENS if file.is_dir() else file
    try:
        with safe_open(file, "pt") as stored:
            made_by, tokens = (stored.metadata() or {}).get("vqvae"), stored.get_tensor("tokens")
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{path} holds no tokens ({error}): give a folder that was generated, or its {TOKENS}"
        ) from error
    if made_by != vqvae:
        raise UserError(
            f"the tokens in {path} are of the VQVAE {str(made_by)[:16]}, not of {vqvae[:16]}: give the models that made them"
        )
    return tokens.long()


def _write(folder: Path, settings: dict[str, Any]) -> None:
    (folder / SETTINGS).write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def versions() -> dict[str, str]:
    """Of everything that decides a sample."""
    try:
        own = metadata.version("sar3d")
    except metadata.PackageNotFoundError:
        own = "not installed"
    return {"sar3d": own, "torch": torch.__version__, "python": platform.python_version()}
