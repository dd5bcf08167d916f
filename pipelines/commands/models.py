"""The models that a configuration's training stages made, or that it names, for a command that takes single prompts."""

from dataclasses import replace
from pathlib import Path

from pipelines.generating.models import generator_of
from pipelines.runtime.engine import is_finished, model_of
from pipelines.runtime.models import check_tokens_of
from pipelines.runtime.pipeline import Pipeline
from sar3d.conditions.kinds import ConditionKind
from sar3d.generate.folders import Folders


def configured_generator(config: Pipeline, kind: ConditionKind) -> Folders:
    """Local folders of the VQVAE and the generator for one kind of prompt. Raises `UserError` if one is missing."""
    stage = config.registry["generate"]
    vqvae, generator = model_of(config, stage, "vqvae"), generator_of(model_of(config, stage, f"{kind}_model"), kind)
    check_tokens_of(generator.model, vqvae, "generator", "generate.vqvae")
    found = Folders(vqvae.folder(), {kind: generator.model.folder()}, config.root)
    if config.section(stage).decoder != "flexicubes":
        return found
    mesher = model_of(config, stage, "flexicubes")
    check_tokens_of(mesher, vqvae, "mesh decoder", "generate.vqvae")
    return replace(found, flexicubes=mesher.folder())


def configured_captioner(config: Pipeline) -> tuple[Path, Path | None]:
    """Local folders of the captioner and, where there is one, the VQVAE. Raises `UserError` without a captioner."""
    tokens = config.registry["cache_tokens"]
    captioner = model_of(config, config.registry["caption"], "captioner")
    if not config.section(tokens).vqvae and is_finished(config.registry["train_vqvae"], config) is None:
        return captioner.folder(), None
    vqvae = model_of(config, tokens, "vqvae")
    check_tokens_of(captioner, vqvae, "captioner", "cache_tokens.vqvae")
    return captioner.folder(), vqvae.folder()
