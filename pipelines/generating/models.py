"""Which VQVAE and which generators a request means: those of a configuration, of a pipeline's root, or of folders."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.exported import TOKENIZER_STAGE, Exported, check_same, exported, extra_of, local_copy, newest, trained
from pipelines.runtime.engine import current
from pipelines.runtime.output import Output, outputs
from pipelines.runtime.store import Store, is_remote, join
from sar3d.errors import UserError
from sar3d.generate.folders import GENERATOR_FOLDERS, PUBLISHED_ENCODERS, VQVAE_FOLDER, Folders, find_folders
from sar3d.generate.prompts import Kind

GENERATOR_STAGES: dict[Kind, str] = {"text": "train_ar", "image": "train_ar_image"}


@dataclass(frozen=True)
class GeneratorRef:
    """A generator that has not been loaded."""

    model: Exported
    extra: dict[str, Any]
    """What its training noted in config.json: the VQVAE's digest, the encoder."""


def generator_of(model: Exported, kind: Kind, vqvae: Exported, section: str = "generate") -> GeneratorRef:
    """A generator with what its config.json says. Raises `UserError` if it is of another kind or for another VQVAE."""
    condition = model.config.get("condition")
    if condition != kind:
        without = f"set {section}.{kind}=false" if section == "evaluate" else f"leave {kind} out of {section}.kinds"
        raise UserError(
            f"the generator at {model.url} takes {condition} conditions, not {kind}: give one for {kind} "
            f"({section}.{kind}_model), or {without}"
        )
    check_same(model, vqvae, "generator", section)
    return GeneratorRef(model, extra_of(model.url))


def encoder_of(generator: GeneratorRef, kind: Kind, weights: str) -> tuple[str, str]:
    """Name and weights of the encoder that a generator was trained with; `weights`, if given, name another place."""
    name = generator.extra.get("encoder") or PUBLISHED_ENCODERS[kind]
    return name, weights or generator.extra.get("encoder_weights") or ""


def encoder_ids(encoders: dict[Kind, tuple[str, str]]) -> dict[str, str]:
    """Id of the encoder of each kind. Raises `UserError` where weights are missing."""
    from sar3d.conditions import encoder_id

    return {kind: encoder_id(name, weights, f"generate.{kind}_weights") for kind, (name, weights) in encoders.items()}


def configured(given: str, kind: str, output: Output | None) -> Exported:
    """The model at `given`, else that of a finished training stage."""
    if given:
        return exported(given, kind)
    assert output is not None
    return trained(output, kind)


def folders_of(model: str, vqvae: str, kind: Kind) -> Folders:
    """Local folders for one kind of prompt from what a person calls `model`.

    Args:
        model: a bundle, one generator's folder or training output, or a pipeline's root; a URL, too.
        vqvae: folder, URL or training output of the VQVAE, if it is elsewhere.
        kind: which generator is wanted of several.

    Raises:
        UserError: there is no such model.
    """
    tokenizer = local_copy(exported(vqvae, "vqvae").url) if vqvae else None
    if _is_root(model):
        generator = _newest_generator(model, kind)
        if tokenizer is None:
            tokenizer = local_copy(_tokenizer_of(generator, model))
        return _folders(tokenizer, local_copy(generator.url), kind, model)
    if is_remote(model):
        return _remote(model, tokenizer, kind)
    place = Path(model)
    # Of a training stage's output, the model in it.
    place = place / "model" if (place / "model" / "config.json").is_file() else place
    folders = find_folders(place, vqvae=tokenizer)
    if kind not in folders.generators:
        what = "texts" if kind == "text" else "pictures"
        raise UserError(f"{model} has no generator for {what} ({GENERATOR_FOLDERS[kind]}/): give a model that has one")
    return _folders(folders.vqvae, folders.generators[kind], kind, model)


def _folders(vqvae: Path, generator: Path, kind: Kind, where: str) -> Folders:
    return Folders(vqvae, {kind: generator}, where)


def _remote(model: str, tokenizer: Path | None, kind: Kind) -> Folders:
    bundled = Store(model).exists(f"{GENERATOR_FOLDERS[kind]}/config.json")
    generator = exported(join(model, GENERATOR_FOLDERS[kind]) if bundled else model, "ar")
    if tokenizer is None:
        if not Store(model).exists(f"{VQVAE_FOLDER}/config.json"):
            raise UserError(f"there is no VQVAE in {model}: give its folder too (--vqvae)")
        tokenizer = local_copy(join(model, VQVAE_FOLDER))
    return _folders(tokenizer, local_copy(generator.url), kind, model)


def _is_root(model: str) -> bool:
    """Whether a folder holds outputs of stages that train generators."""
    return any(any(outputs(model, stage)) for stage in GENERATOR_STAGES.values())


def _newest_generator(root: str, kind: Kind) -> Exported:
    """The newest finished generator of this kind under a root."""
    for output in newest(root, tuple(GENERATOR_STAGES.values())):
        model = trained(output, "ar")
        if model.config.get("condition") == kind:
            return model
    raise UserError(
        f"there is no finished generator for {kind} under {root}: run `sar3d {GENERATOR_STAGES[kind]}` first, or give "
        "another model"
    )


def _tokenizer_of(generator: Exported, root: str) -> str:
    """URL of the VQVAE under a root that a generator was trained with."""
    made_for = extra_of(generator.url).get("vqvae")
    for output in newest(root, (TOKENIZER_STAGE,)):
        if output.model_digest() == made_for:
            return trained(output, "vqvae").url
    raise UserError(
        f"the VQVAE that {generator.url} was trained with is not under {root}: give its folder too (--vqvae)"
    )


def folders_of_config(config: Any, kind: Kind) -> Folders:
    """Local folders of what this configuration's training stages made, or names. Raises `UserError` if it is missing."""
    from pipelines.registry import STAGES

    section = config.generate
    given = {TOKENIZER_STAGE: section.vqvae, GENERATOR_STAGES[kind]: getattr(section, f"{kind}_model")}
    found = {}
    for name, place in given.items():
        output = None if place else current(STAGES[name], config)
        if not place and (output is None or not STAGES[name].finished(output, getattr(config, name))):
            raise UserError(
                f"{name} has not finished for this configuration under {config.root}: run `sar3d {name}` with it first, or "
                "give --model"
            )
        found[name] = configured(place, "vqvae" if name == TOKENIZER_STAGE else "ar", output)
    tokenizer, generator = found[TOKENIZER_STAGE], found[GENERATOR_STAGES[kind]]
    generator_of(generator, kind, tokenizer)
    return _folders(local_copy(tokenizer.url), local_copy(generator.url), kind, config.root)
