"""Which captioner and which VQVAE a request means: those of a configuration, of a pipeline's root, or of folders."""

from dataclasses import dataclass
from pathlib import Path

from pipelines.runtime.engine import is_finished, model_of
from pipelines.runtime.models import Exported, exported, newest, trained
from pipelines.runtime.pipeline import Pipeline
from pipelines.runtime.store import Store, join
from sar3d.errors import UserError

CAPTIONER_STAGES = ("train_llm", "train_llm_projector")
BUNDLED = {"llm": "llm", "vqvae": "vqvae"}
"""Folders of a bundle."""


@dataclass(frozen=True)
class CaptionModels:
    """Local folders of models that belong together."""

    captioner: Path
    vqvae: Path | None
    """Needed for files, not for tokens."""


def models_in(model: str, vqvae: str = "") -> CaptionModels:
    """The models of what a person calls `model`.

    Args:
        model: a bundle with `llm/` and `vqvae/`, a captioner's folder or training output, or a pipeline's root.
        vqvae: folder, URL or training output of the VQVAE, if it is elsewhere.

    Raises:
        UserError: there is no such model, or the VQVAE is another one than the captioner was trained with.
    """
    found = next(newest(model, CAPTIONER_STAGES), None)
    if found is not None:
        captioner = trained(found, "llm")
    else:
        bundled = Store(model).exists(f"{BUNDLED['llm']}/config.json")
        captioner = exported(join(model, BUNDLED["llm"]) if bundled else model, "llm")
        if bundled and not vqvae and Store(model).exists(f"{BUNDLED['vqvae']}/config.json"):
            vqvae = join(model, BUNDLED["vqvae"])
    if vqvae:
        return _checked(captioner, exported(vqvae, "vqvae"))
    made = newest(model, ("train_vqvae",)) if found is not None else iter(())
    same = next((output for output in made if output.model_digest() == captioner.extra.get("vqvae")), None)
    return CaptionModels(captioner.folder(), None if same is None else trained(same, "vqvae").folder())


def models_of_config(config: Pipeline) -> CaptionModels:
    """What this configuration's training made, or names. Raises `UserError` if it is missing."""
    stage, tokens = config.registry["caption"], config.registry["cache_tokens"]
    if config.section(stage).captioner:
        return models_in(config.section(stage).captioner, config.section(tokens).vqvae)
    captioner = model_of(config, stage, "captioner")
    if config.section(tokens).vqvae or is_finished(config.registry["train_vqvae"], config):
        return _checked(captioner, model_of(config, tokens, "vqvae"))
    return CaptionModels(captioner.folder(), None)


def _checked(captioner: Exported, vqvae: Exported) -> CaptionModels:
    """The two models. Raises `UserError` where they do not belong together."""
    wanted = captioner.extra.get("vqvae")
    if wanted and vqvae.digest != wanted:
        raise UserError(
            f"the captioner in {captioner.url} was trained on the tokens of the VQVAE {wanted[:16]}, but {vqvae.url} is "
            f"{vqvae.digest[:16]}: give the VQVAE that it was trained with"
        )
    return CaptionModels(captioner.folder(), vqvae.folder())
