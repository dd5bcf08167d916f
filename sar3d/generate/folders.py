"""Where the models of one generator system lie. No model is imported."""

from dataclasses import dataclass
from pathlib import Path

from sar3d.errors import UserError
from sar3d.generate.prompts import Kind

VQVAE_FOLDER = "vqvae"
CAPTIONER_FOLDER = "llm"
GENERATOR_FOLDERS: dict[Kind, str] = {"text": "ar_text", "image": "ar_image"}
PUBLISHED_ENCODERS: dict[Kind, str] = {"text": "clip-text", "image": "dinov2"}
"""What a converted generator was trained with; its folder does not say."""
_CONFIG = "config.json"


@dataclass(frozen=True)
class Folders:
    """Folders of saved models that belong together."""

    vqvae: Path
    generators: dict[Kind, Path]
    where: str
    """What a person gave, for sentences."""
    captioner: Path | None = None
    """What describes objects, if there is one."""


def find_folders(
    path: str | Path | None = None,
    *,
    vqvae: str | Path | None = None,
    text: str | Path | None = None,
    image: str | Path | None = None,
    captioner: str | Path | None = None,
) -> Folders:
    """The models in `path`, a bundle or a single generator; the other folders take precedence over what is in it.

    Raises:
        UserError: there is no VQVAE, or no generator at all.
    """
    generators: dict[Kind, Path] = {}
    found: Path | None = None
    describer = None if captioner is None else Path(captioner)
    if path is not None:
        place = Path(path)
        if not place.is_dir():
            raise UserError(f"there is no folder {place} with models: give a bundle, a generator, or a pipeline's root")
        found, generators = _single(place) if (place / _CONFIG).is_file() else _bundle(place)
        if describer is None and (place / CAPTIONER_FOLDER / _CONFIG).is_file():
            describer = place / CAPTIONER_FOLDER
    for kind, given in (("text", text), ("image", image)):
        if given is not None:
            generators["text" if kind == "text" else "image"] = Path(given)
    tokenizer = Path(vqvae) if vqvae is not None else found
    where = str(path) if path is not None else ", ".join(map(str, generators.values()))
    if not generators:
        raise UserError(
            f"{where or 'the request'} names no generator: give a folder with {VQVAE_FOLDER}/ and "
            f"{' or '.join(f'{name}/' for name in GENERATOR_FOLDERS.values())}"
        )
    if tokenizer is None:
        raise UserError(f"there is no VQVAE in {where}: give its folder too (vqvae)")
    return Folders(tokenizer, generators, where, describer)


def _bundle(place: Path) -> tuple[Path | None, dict[Kind, Path]]:
    def within(name: str) -> Path | None:
        return place / name if (place / name / _CONFIG).is_file() else None

    generators = {kind: folder for kind, name in GENERATOR_FOLDERS.items() if (folder := within(name)) is not None}
    return within(VQVAE_FOLDER), generators


def _single(place: Path) -> tuple[Path | None, dict[Kind, Path]]:
    """The folder of one saved model."""
    from sar3d.hub.files import read_json

    described = read_json(place / _CONFIG)
    if described.get("kind") == "vqvae":
        return place, {}
    condition = (described.get("config") or {}).get("condition")
    return None, {"text" if condition == "text" else "image": place}
