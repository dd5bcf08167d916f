"""Where weights come from: the Hugging Face hub, a URL, an installed package."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from sar3d.errors import UserError

SAFETENSORS = "*.safetensors"
_SMALL = ("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt")
"""What of a hub repository is fetched besides the tensors."""


class Source(Protocol):
    """Where weights come from."""

    @property
    def local_name(self) -> str:
        """Name of the file or folder in `$SAR3D_WEIGHTS`."""

    @property
    def where(self) -> str:
        """Repository, URL or package, for people."""

    @property
    def sha256(self) -> str:
        """Digest of the published file or its beginning; empty where it is not known."""

    def cached(self) -> Path | None:
        """What a cache or a package holds; nothing is fetched."""

    def download(self, folder: Path | None) -> Path:
        """Fetch into `folder`, or into the usual cache. Raises `OSError`, `ValueError` or `UserError`."""


@dataclass(frozen=True)
class HubModel:
    """A model's folder on the Hugging Face hub."""

    repository: str
    tensors: str = SAFETENSORS
    """Pattern of the files with tensors. `pytorch_model.bin` is read with `weights_only=True` by transformers."""
    sha256: ClassVar[str] = ""

    @property
    def local_name(self) -> str:
        return self.repository.rpartition("/")[2]

    @property
    def where(self) -> str:
        return self.repository

    def cached(self) -> Path | None:
        from huggingface_hub import snapshot_download

        try:
            folder = Path(snapshot_download(self.repository, allow_patterns=self._patterns, local_files_only=True))
        except (OSError, ValueError):
            return None
        return folder if is_model(folder, self.tensors) else None

    def download(self, folder: Path | None) -> Path:
        from huggingface_hub import snapshot_download

        to = None if folder is None else folder / self.local_name
        return Path(snapshot_download(self.repository, allow_patterns=self._patterns, local_dir=to))

    @property
    def _patterns(self) -> list[str]:
        return [*_SMALL, self.tensors]


@dataclass(frozen=True)
class HubFile:
    """One file of a hub repository."""

    repository: str
    file: str
    sha256: str = ""

    @property
    def local_name(self) -> str:
        return self.file if self.sha256 else f"{self.repository.rpartition('/')[2]}.{self.file.rpartition('.')[2]}"

    @property
    def where(self) -> str:
        return f"{self.repository}/{self.file}"

    def cached(self) -> Path | None:
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        try:
            found = try_to_load_from_cache(self.repository, self.file)
        except HFValidationError as error:
            raise UserError(f"{self.repository!r} is no name of a hub repository: set repository=owner/name") from error
        return Path(found) if isinstance(found, str) else None

    def download(self, folder: Path | None) -> Path:
        from huggingface_hub import hf_hub_download

        path = Path(hf_hub_download(self.repository, self.file, local_dir=folder))
        return path if folder is None else path.replace(folder / self.local_name)


@dataclass(frozen=True)
class UrlFile:
    """One file at a URL, cached where `torch.hub` would."""

    url: str
    sha256: str

    @property
    def local_name(self) -> str:
        return self.url.rpartition("/")[2]

    @property
    def where(self) -> str:
        return self.url

    def cached(self) -> Path | None:
        path = _torch_cache() / self.local_name
        return path if path.is_file() else None

    def download(self, folder: Path | None) -> Path:
        import torch

        folder = folder or _torch_cache()
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / self.local_name
        try:
            torch.hub.download_url_to_file(self.url, str(path), hash_prefix=self.sha256, progress=False)
        except RuntimeError as error:  # another digest
            raise UserError(f"what {self.url} gave is not the published file ({error}): fetch it again") from error
        return path


@dataclass(frozen=True)
class Package:
    """Files inside an installed Python package."""

    package: str
    path: str
    """Of the file or folder in it; `*` stands for any letters."""
    sha256: ClassVar[str] = ""

    @property
    def local_name(self) -> str:
        return f"{self.package}-{self.path.rpartition('/')[2]}".replace("*", "weights")

    @property
    def where(self) -> str:
        return f"the Python package {self.package.replace('_', '-')}"

    def cached(self) -> Path | None:
        # Found without an import, which may cost seconds.
        spec = importlib.util.find_spec(self.package)
        roots = (spec.submodule_search_locations if spec else None) or []
        return next((file for root in roots for file in sorted(Path(root).glob(self.path))), None)

    def download(self, folder: Path | None) -> Path:
        raise UserError(f"they come in a package that is not installed: pip install {self.package.replace('_', '-')}")


def is_model(folder: Path, tensors: str = SAFETENSORS) -> bool:
    """Whether a folder holds a model's configuration and tensors."""
    return (folder / "config.json").is_file() and any(folder.glob(tensors))


def _torch_cache() -> Path:
    import torch

    return Path(torch.hub.get_dir()) / "checkpoints"
