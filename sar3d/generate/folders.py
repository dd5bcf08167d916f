"""Where the models of one system lie: in a bundle, in a pipeline's root, or one by one. None is loaded here."""

from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Literal

from sar3d.conditions.kinds import ConditionKind
from sar3d.errors import UserError

VQVAE_FOLDER = "vqvae"
CAPTIONER_FOLDER = "llm"
MESH_FOLDER = "flexicubes"
GENERATOR_FOLDERS: dict[ConditionKind, str] = {"text": "ar_text", "image": "ar_image"}
PUBLISHED_ENCODERS: dict[ConditionKind, str] = {"text": "clip-text", "image": "dinov2"}
"""What a converted generator was trained with; its folder does not say."""
_CONFIG = "config.json"
_SUCCESS, _MODEL = "_SUCCESS", "model"
"""Of a training stage's output, `<root>/<stage>/<fingerprint>/`."""

Purpose = Literal["text", "image", "caption", "mesh"]
"""What models are wanted for: prompts of one kind, captions, or meshes of tokens."""


@dataclass(frozen=True)
class Folders:
    """Folders of saved models that belong together."""

    vqvae: Path
    generators: dict[ConditionKind, Path]
    where: str
    """What a person gave, for sentences."""
    captioner: Path | None = None
    """What describes objects, if there is one."""
    flexicubes: Path | None = None
    """What decodes tokens to meshes, if there is one."""


@dataclass(frozen=True)
class _Found:
    """Folders of models in one place, as far as there are any."""

    vqvae: Path | None = None
    generators: dict[ConditionKind, Path] = field(default_factory=dict)
    captioner: Path | None = None
    flexicubes: Path | None = None


def find_folders(
    path: str | Path | None = None,
    *,
    vqvae: str | Path | None = None,
    text: str | Path | None = None,
    image: str | Path | None = None,
    captioner: str | Path | None = None,
    flexicubes: str | Path | None = None,
    kind: ConditionKind | None = None,
) -> Folders:
    """The models in `path`: a bundle, a pipeline's root, or a single generator's folder or training output. The other
    arguments name models elsewhere, and take precedence over what is in it. Every place may be a folder, a URL or a
    repository of the Hugging Face hub, see `sar3d.hub.source.Source`; what is not on this machine is fetched.

    Args:
        flexicubes: the mesh decoder's own folder or training output, or a bundle or root with one.
        kind: of these generators only the one for this kind of prompt.

    Raises:
        UserError: there is no VQVAE, or no generator that is asked for, or a place cannot be reached.
    """
    found = _Found() if path is None else _find(path, kind)
    given: dict[ConditionKind, str | Path | None] = {"text": text, "image": image}
    generators = {**found.generators, **{k: _model_folder(place) for k, place in given.items() if place is not None}}
    tokenizer = found.vqvae if vqvae is None else _model_folder(vqvae)
    describer = found.captioner if captioner is None else _model_folder(captioner)
    mesher = found.flexicubes if flexicubes is None else _mesh_decoder(flexicubes)
    where = str(path) if path is not None else ", ".join(map(str, generators.values()))
    if not generators:
        what = {"text": "generator for texts", "image": "generator for pictures", None: "generator"}[kind]
        names = " or ".join(f"{name}/" for k, name in GENERATOR_FOLDERS.items() if kind in (None, k))
        raise UserError(
            f"{where or 'the request'} names no {what}: give a folder with {VQVAE_FOLDER}/ and {names}, or a pipeline's "
            "root with a finished one"
        )
    if tokenizer is None:
        raise UserError(
            f"there is no VQVAE in {where} that its generator was trained with: give its folder too (vqvae)"
        )
    return Folders(tokenizer, generators, where, describer, mesher)


def find_captioner(path: str | Path, vqvae: str | Path | None = None) -> tuple[Path, Path | None]:
    """The captioner in `path` (a bundle, a pipeline's root, or its own folder or training output), and the VQVAE whose
    tokens it reads: `vqvae`, else that beside it, else None.

    Raises:
        UserError: there is no captioner, a place cannot be reached, or the VQVAE is another one.
    """
    from sar3d import hub

    found = _find(path, "caption")
    if found.captioner is None:
        raise UserError(f"{path} holds no model that describes objects: give a folder with {CAPTIONER_FOLDER}/ in it")
    tokenizer = found.vqvae if vqvae is None else _model_folder(vqvae)
    if tokenizer is not None:
        made_for = (hub.describe(found.captioner).get("extra") or {}).get("vqvae")
        hub.check_tokens(f"the captioner in {found.captioner}", made_for, str(tokenizer), hub.digest(tokenizer))
    return found.captioner, tokenizer


def _mesh_decoder(path: str | Path) -> Path:
    found = _find(path, "mesh").flexicubes
    if found is None:
        raise UserError(f"{path} holds no model that decodes meshes: give a folder with {MESH_FOLDER}/ in it")
    return found


def _model_folder(where: str | Path) -> Path:
    """The folder of a single model, or of the one in a training output; a local one is checked when it is loaded."""
    from sar3d.hub.folder import local_folder
    from sar3d.hub.source import Source

    source = Source(where)
    if not source.local:
        return local_folder(where)
    return source.root / _MODEL if (source.root / _MODEL / _CONFIG).is_file() else source.root


def _find(where: str | Path, purpose: Purpose | None = None) -> _Found:
    """The models of a place that serve the purpose, their files fetched."""
    from sar3d.hub.files import read_json
    from sar3d.hub.folder import files_of
    from sar3d.hub.source import Source

    source = Source(where)
    if source.local and not source.root.is_dir():
        raise UserError(f"there is no folder {where} with models: give a bundle, a generator, or a pipeline's root")
    names = [VQVAE_FOLDER, *GENERATOR_FOLDERS.values(), CAPTIONER_FOLDER, MESH_FOLDER, _MODEL]
    source.fetch([_CONFIG, *(f"{name}/{_CONFIG}" for name in names)])
    single = next((place for place in (source.root, source.root / _MODEL) if (place / _CONFIG).is_file()), None)
    found = _bundle(source.root) if single is None else _single(single)
    if found == _Found():
        outputs = [str(PurePosixPath(name).parent) for name in source.find(f"*/*/{_SUCCESS}")]
        source.fetch(f"{output}/{name}" for output in outputs for name in (_SUCCESS, f"{_MODEL}/{_CONFIG}"))
        found = _root([source.root / output for output in outputs], purpose)
    if purpose is not None:
        found = replace(found, generators={k: v for k, v in found.generators.items() if k == purpose})
    for folder in (found.vqvae, found.captioner, found.flexicubes, *found.generators.values()):
        if folder is not None:
            within = folder.relative_to(source.root)
            source.fetch((within / name).as_posix() for name in files_of(read_json(folder / _CONFIG)))
    return found


def _bundle(place: Path) -> _Found:
    def within(name: str) -> Path | None:
        return place / name if (place / name / _CONFIG).is_file() else None

    generators = {kind: folder for kind, name in GENERATOR_FOLDERS.items() if (folder := within(name)) is not None}
    return _Found(within(VQVAE_FOLDER), generators, within(CAPTIONER_FOLDER), within(MESH_FOLDER))


def _single(place: Path) -> _Found:
    """The folder of one saved model."""
    from sar3d.hub.files import read_json

    described = read_json(place / _CONFIG)
    if described.get("kind") == "vqvae":
        return _Found(vqvae=place)
    if described.get("kind") == "flexicubes":
        return _Found(flexicubes=place)
    if described.get("kind") == "llm":
        return _Found(captioner=place)
    condition = (described.get("config") or {}).get("condition")
    return _Found(generators={"text" if condition == "text" else "image": place})


def _root(outputs: list[Path], purpose: Purpose | None) -> _Found:
    """Of a pipeline's finished outputs the newest model that serves the purpose (none given: the newest generator), the
    VQVAE it was trained with, and the newest models that were trained with the same.
    """
    from sar3d.hub.files import read_json

    trained = [output for output in outputs if (output / _MODEL / _CONFIG).is_file()]
    about = {output: (read_json(output / _SUCCESS), read_json(output / _MODEL / _CONFIG)) for output in trained}
    newest = sorted(trained, key=lambda output: -float(about[output][0]["finished"]))

    def of(kind: str, wanted: str | None = None) -> list[Path]:
        return [o for o in newest if about[o][1].get("kind") == kind and wanted in (None, made_for(o))]

    def made_for(output: Path) -> str:
        return str((about[output][1].get("extra") or {}).get("vqvae"))

    def condition(output: Path) -> ConditionKind:
        kind: ConditionKind = about[output][1]["config"]["condition"]
        return kind

    if purpose in ("caption", "mesh"):
        leading = of("llm" if purpose == "caption" else "flexicubes")
    else:
        leading = [output for output in of("ar") if purpose in (None, condition(output))]
    if not leading:
        return _Found()
    wanted = made_for(leading[0])
    vqvae = next((output / _MODEL for output in of("vqvae") if str(about[output][0]["model"]) == wanted), None)
    generators = {condition(output): output / _MODEL for output in reversed(of("ar", wanted))}
    captioner, mesher = (next((output / _MODEL for output in of(kind, wanted)), None) for kind in ("llm", "flexicubes"))
    return _Found(vqvae, generators, captioner, mesher)
