"""Where the models of one generator system lie: in a bundle, in a pipeline's root, or one by one. None is loaded here."""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from sar3d.conditions.kinds import ConditionKind
from sar3d.errors import UserError

VQVAE_FOLDER = "vqvae"
CAPTIONER_FOLDER = "llm"
GENERATOR_FOLDERS: dict[ConditionKind, str] = {"text": "ar_text", "image": "ar_image"}
PUBLISHED_ENCODERS: dict[ConditionKind, str] = {"text": "clip-text", "image": "dinov2"}
"""What a converted generator was trained with; its folder does not say."""
_CONFIG = "config.json"
_SUCCESS, _MODEL = "_SUCCESS", "model"
"""Of a training stage's output, `<root>/<stage>/<fingerprint>/`."""


@dataclass(frozen=True)
class Folders:
    """Folders of saved models that belong together."""

    vqvae: Path
    generators: dict[ConditionKind, Path]
    where: str
    """What a person gave, for sentences."""
    captioner: Path | None = None
    """What describes objects, if there is one."""


@dataclass
class _Found:
    """Folders of models in one place, as far as there are any."""

    vqvae: Path | None = None
    generators: dict[ConditionKind, Path] | None = None
    captioner: Path | None = None


def find_folders(
    path: str | Path | None = None,
    *,
    vqvae: str | Path | None = None,
    text: str | Path | None = None,
    image: str | Path | None = None,
    captioner: str | Path | None = None,
) -> Folders:
    """The models in `path`: a bundle, a pipeline's root or a single generator. The other arguments name models
    elsewhere, and take precedence over what is in it. Every place may be a folder, a URL or a repository of the Hugging
    Face hub, see `sar3d.hub.source.Source`; what is not on this machine is fetched.

    Raises:
        UserError: there is no VQVAE, or no generator at all, or a place cannot be reached.
    """
    found = _Found() if path is None else _find(path)
    generators = dict(found.generators or {})
    if text is not None:
        generators["text"] = _local(text)
    if image is not None:
        generators["image"] = _local(image)
    tokenizer = found.vqvae if vqvae is None else _local(vqvae)
    describer = found.captioner if captioner is None else _local(captioner)
    where = str(path) if path is not None else ", ".join(map(str, generators.values()))
    if not generators:
        raise UserError(
            f"{where or 'the request'} names no generator: give a folder with {VQVAE_FOLDER}/ and "
            f"{' or '.join(f'{name}/' for name in GENERATOR_FOLDERS.values())}, or a pipeline's root"
        )
    if tokenizer is None:
        raise UserError(f"there is no VQVAE in {where}: give its folder too (vqvae)")
    return Folders(tokenizer, generators, where, describer)


def _local(where: str | Path) -> Path:
    """The folder of a single model; a local one is checked when it is loaded."""
    from sar3d.hub.folder import local_folder
    from sar3d.hub.source import Source

    return Path(where).expanduser() if Source(where).local else local_folder(where)


def _find(where: str | Path) -> _Found:
    """The models of a place, their files fetched."""
    from sar3d.hub.files import read_json
    from sar3d.hub.folder import files_of
    from sar3d.hub.source import Source

    source = Source(where)
    if source.local and not source.root.is_dir():
        raise UserError(f"there is no folder {where} with models: give a bundle, a generator, or a pipeline's root")
    names = [VQVAE_FOLDER, *GENERATOR_FOLDERS.values(), CAPTIONER_FOLDER]
    source.fetch([_CONFIG, *(f"{name}/{_CONFIG}" for name in names)])
    if (source.root / _CONFIG).is_file():
        found = _single(source.root)
    else:
        found = _bundle(source.root)
        if not found.generators and found.vqvae is None:
            outputs = [str(PurePosixPath(name).parent) for name in source.find(f"*/*/{_SUCCESS}")]
            source.fetch(f"{output}/{name}" for output in outputs for name in (_SUCCESS, f"{_MODEL}/{_CONFIG}"))
            found = _root([source.root / output for output in outputs])
    for folder in (found.vqvae, found.captioner, *(found.generators or {}).values()):
        if folder is not None:
            within = folder.relative_to(source.root)
            source.fetch((within / name).as_posix() for name in files_of(read_json(folder / _CONFIG)))
    return found


def _bundle(place: Path) -> _Found:
    def within(name: str) -> Path | None:
        return place / name if (place / name / _CONFIG).is_file() else None

    generators = {kind: folder for kind, name in GENERATOR_FOLDERS.items() if (folder := within(name)) is not None}
    return _Found(within(VQVAE_FOLDER), generators, within(CAPTIONER_FOLDER))


def _single(place: Path) -> _Found:
    """The folder of one saved model."""
    from sar3d.hub.files import read_json

    described = read_json(place / _CONFIG)
    if described.get("kind") == "vqvae":
        return _Found(vqvae=place)
    condition = (described.get("config") or {}).get("condition")
    return _Found(generators={"text" if condition == "text" else "image": place})


def _root(outputs: list[Path]) -> _Found:
    """Of a pipeline's finished outputs the newest VQVAE that a generator was trained with, and the newest models that
    were trained with this VQVAE.
    """
    from sar3d.hub.files import read_json

    trained = [output for output in outputs if (output / _MODEL / _CONFIG).is_file()]
    about = {output: (read_json(output / _SUCCESS), read_json(output / _MODEL / _CONFIG)) for output in trained}
    newest = sorted(trained, key=lambda output: -float(about[output][0]["finished"]))

    def of(kind: str) -> list[Path]:
        return [output for output in newest if about[output][1].get("kind") == kind]

    def made_for(output: Path) -> str:
        return str((about[output][1].get("extra") or {}).get("vqvae"))

    digests = {str(about[output][0]["model"]): output for output in reversed(of("vqvae"))}
    vqvae = next((digests[made_for(output)] for output in of("ar") if made_for(output) in digests), None)
    if vqvae is None:
        return _Found()
    wanted = str(about[vqvae][0]["model"])
    generators: dict[ConditionKind, Path] = {}
    for output in of("ar"):
        if made_for(output) == wanted:
            generators.setdefault(about[output][1]["config"]["condition"], output / _MODEL)
    captioner = next((output / _MODEL for output in of("llm") if made_for(output) == wanted), None)
    return _Found(vqvae / _MODEL, generators, captioner)
