"""Which captioner and which VQVAE a request means: those of a configuration, of a pipeline's root, or of folders."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.exported import CAPTIONER_STAGE, TOKENIZER_STAGE, exported, newest, trained
from pipelines.runtime.engine import current
from pipelines.runtime.store import Store, join
from pipelines.train_llm import PROJECTOR, local_folder
from sar3d.errors import UserError

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
    found = next(newest(model, (CAPTIONER_STAGE, PROJECTOR)), None)
    if found is not None:
        captioner = trained(found, "llm").url
    else:
        bundled = Store(model).exists(f"{BUNDLED['llm']}/config.json")
        captioner = exported(join(model, BUNDLED["llm"]) if bundled else model, "llm").url
        if bundled and not vqvae and Store(model).exists(f"{BUNDLED['vqvae']}/config.json"):
            vqvae = join(model, BUNDLED["vqvae"])
    folder = local_folder(captioner)
    wanted = made_for(folder)
    if not vqvae:
        outputs_ = newest(model, (TOKENIZER_STAGE,)) if found is not None else iter(())
        same = next((output for output in outputs_ if output.model_digest() == wanted), None)
        return CaptionModels(folder, None if same is None else local_folder(trained(same, "vqvae").url))
    return checked(folder, vqvae)


def models_of_config(config: Any) -> CaptionModels:
    """What this configuration's training made, or names. Raises `UserError` if it is missing."""
    from pipelines.registry import STAGES

    section, tokenizer = config.caption, config.caption.vqvae
    if section.model:
        return models_in(section.model, tokenizer)
    output = current(STAGES[CAPTIONER_STAGE], config)
    if output is None or output.finished() is None:
        raise UserError(
            f"{CAPTIONER_STAGE} has not finished for this configuration under {config.root}: run "
            f"`sar3d {CAPTIONER_STAGE}` with it first, or give --model"
        )
    if not tokenizer:
        made = current(STAGES[TOKENIZER_STAGE], config)
        tokenizer = "" if made is None else made.url
    folder = local_folder(trained(output, "llm").url)
    return checked(folder, tokenizer) if tokenizer else CaptionModels(folder, None)


def made_for(folder: Path) -> str:
    """Digest of the VQVAE whose codes a captioner reads; empty where it does not say."""
    from sar3d import hub

    return str(hub.describe(folder)["extra"].get("vqvae", ""))


def checked(captioner: Path, vqvae: str) -> CaptionModels:
    """The two models. Raises `UserError` where they do not belong together."""
    model, wanted = exported(vqvae, "vqvae"), made_for(captioner)
    if wanted and model.digest != wanted:
        raise UserError(
            f"the captioner in {captioner} was trained on the codes of the VQVAE {wanted[:16]}, but {vqvae} is "
            f"{model.digest[:16]}: give the VQVAE that it was trained with"
        )
    return CaptionModels(captioner, local_folder(model.url))
