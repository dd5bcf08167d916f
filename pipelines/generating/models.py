"""Which VQVAE and which generators a request means: those of a stage, of a configuration, of a root, or of folders."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.runtime.engine import model_of
from pipelines.runtime.models import Exported, check_tokens_of, exported, local_copy, newest, trained
from pipelines.runtime.output import outputs
from pipelines.runtime.pipeline import Pipeline
from pipelines.runtime.stage import Context
from pipelines.runtime.store import Store, is_remote, join
from sar3d.conditions.kinds import ConditionKind
from sar3d.errors import UserError
from sar3d.generate.folders import GENERATOR_FOLDERS, PUBLISHED_ENCODERS, VQVAE_FOLDER, Folders, find_folders

GENERATOR_STAGES: dict[ConditionKind, str] = {"text": "train_ar", "image": "train_ar_image"}


@dataclass(frozen=True)
class GeneratorRef:
    """A generator that has not been loaded, and the encoder of its prompts."""

    model: Exported
    encoder: str
    """Name of the condition encoder that it was trained with."""
    weights: str
    """Folder or repository of the encoder's weights; empty: the usual ones."""


def generators_of(
    context: Context[Any], kinds: Iterable[ConditionKind], section: str = "generate"
) -> dict[ConditionKind, GeneratorRef]:
    """The generators of a stage, from its fields `text_model` and `image_model`.

    Args:
        section: the stage's name.

    Raises:
        UserError: one is of another kind.
    """
    models = {kind: context.models[f"{kind}_model"] for kind in kinds}
    return {k: generator_of(m, k, getattr(context.config, f"{k}_weights"), section) for k, m in models.items()}


def generator_of(model: Exported, kind: ConditionKind, weights: str = "", section: str = "generate") -> GeneratorRef:
    """A generator with its encoder; `weights`, if given, name another place than training had them.

    Raises:
        UserError: it is of another kind.
    """
    condition = model.config.get("condition")
    if condition != kind:
        without = f"set {section}.{kind}=false" if section == "evaluate" else f"leave {kind} out of {section}.kinds"
        raise UserError(
            f"the generator at {model.url} takes {condition} conditions, not {kind}: give one for {kind} "
            f"({section}.{kind}_model), or {without}"
        )
    encoder = model.extra.get("encoder") or PUBLISHED_ENCODERS[kind]
    return GeneratorRef(model, encoder, weights or model.extra.get("encoder_weights") or "")


def encoder_ids(generators: dict[ConditionKind, GeneratorRef], section: str = "generate") -> dict[str, str]:
    """Id of the encoder of each kind. Raises `UserError` where weights are missing."""
    from sar3d.conditions import encoder_id

    return {k: encoder_id(g.encoder, g.weights, f"{section}.{k}_weights") for k, g in generators.items()}


def folders_of(model: str, vqvae: str, kind: ConditionKind) -> Folders:
    """Local folders for one kind of prompt from what a person calls `model`.

    Args:
        model: a bundle, one generator's folder or training output, or a pipeline's root; a URL, too.
        vqvae: folder, URL or training output of the VQVAE, if it is elsewhere.
        kind: which generator is wanted of several.

    Raises:
        UserError: there is no such model.
    """
    tokenizer = exported(vqvae, "vqvae").folder() if vqvae else None
    if _is_root(model):
        generator = _newest_generator(model, kind)
        if tokenizer is None:
            tokenizer = local_copy(_tokenizer_of(generator, model))
        return _folders(tokenizer, generator.folder(), kind, model)
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


def _folders(vqvae: Path, generator: Path, kind: ConditionKind, where: str) -> Folders:
    return Folders(vqvae, {kind: generator}, where)


def _remote(model: str, tokenizer: Path | None, kind: ConditionKind) -> Folders:
    bundled = Store(model).exists(f"{GENERATOR_FOLDERS[kind]}/config.json")
    generator = exported(join(model, GENERATOR_FOLDERS[kind]) if bundled else model, "ar")
    if tokenizer is None:
        if not Store(model).exists(f"{VQVAE_FOLDER}/config.json"):
            raise UserError(f"there is no VQVAE in {model}: give its folder too (--vqvae)")
        tokenizer = local_copy(join(model, VQVAE_FOLDER))
    return _folders(tokenizer, generator.folder(), kind, model)


def _is_root(model: str) -> bool:
    """Whether a folder holds outputs of stages that train generators."""
    return any(any(outputs(model, stage)) for stage in GENERATOR_STAGES.values())


def _newest_generator(root: str, kind: ConditionKind) -> Exported:
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
    made_for = generator.extra.get("vqvae")
    for output in newest(root, ("train_vqvae",)):
        if output.model_digest() == made_for:
            return trained(output, "vqvae").url
    raise UserError(
        f"the VQVAE that {generator.url} was trained with is not under {root}: give its folder too (--vqvae)"
    )


def folders_of_config(config: Pipeline, kind: ConditionKind) -> Folders:
    """Local folders of what this configuration's training stages made, or names. Raises `UserError` if it is missing."""
    stage = config.registry["generate"]
    vqvae, model = model_of(config, stage, "vqvae"), model_of(config, stage, f"{kind}_model")
    generator = generator_of(model, kind)
    check_tokens_of(generator.model, vqvae, "generator", "generate.vqvae")
    return _folders(vqvae.folder(), model.folder(), kind, config.root)
