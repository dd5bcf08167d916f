"""The models of a pipeline that are evaluated, found and checked against each other, not loaded."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pipelines.evaluating.objects import shares_of
from pipelines.exported import CAPTIONER_STAGE, TOKENIZER_STAGE, Exported, check_same
from pipelines.generating.models import (
    GENERATOR_STAGES,
    GeneratorRef,
    configured,
    encoder_of,
    generator_of,
)
from pipelines.runtime.stage import Context
from sar3d.errors import UserError
from sar3d.generate.prompts import Kind

if TYPE_CHECKING:
    from pipelines.evaluate import EvaluateConfig


@dataclass(frozen=True)
class Models:
    """What is evaluated, and what it is evaluated with."""

    vqvae: Exported | None
    """None where captions alone are judged."""
    generators: dict[Kind, GeneratorRef]
    encoders: dict[Kind, tuple[str, str]]
    """Name and weights of the encoders of prompts."""
    captioner: Exported | None
    looking: tuple[str, str] | None
    """Name and weights of the image encoder that compares pictures; None where nothing is generated."""


def models_of(context: "Context[EvaluateConfig]") -> Models:
    """What the settings mean. Raises `UserError` where a model is missing, or does not belong to the others."""
    config, inputs = context.config, context.inputs
    vqvae = None
    if config.reconstruction or config.text or config.image:
        vqvae = configured(config.vqvae, "vqvae", inputs.get(TOKENIZER_STAGE))
    generators: dict[Kind, GeneratorRef] = {}
    for kind in config.kinds:
        model = configured(getattr(config, f"{kind}_model"), "ar", inputs.get(GENERATOR_STAGES[kind]))
        assert vqvae is not None
        generators[kind] = generator_of(model, kind, vqvae, "evaluate")
    captioner = None
    if config.captions:
        captioner = configured(config.captioner, "llm", inputs.get(CAPTIONER_STAGE))
        if vqvae is not None:
            check_same(captioner, vqvae, "captioner", "evaluate")
    encoders = {kind: encoder_of(ref, kind, getattr(config, f"{kind}_weights")) for kind, ref in generators.items()}
    looking = encoders.get("image") or context.everything.cache_conditions.encoders().get("image")
    return Models(vqvae, generators, encoders, captioner, looking if generators else None)


def identity_of(context: "Context[EvaluateConfig]") -> dict[str, Any]:
    """What rows depend on besides the stage's own settings. Raises `UserError` where weights of an encoder are missing."""
    from sar3d.conditions import encoder_id
    from sar3d.metrics.registry import CAPTIONS, GENERATION, RECONSTRUCTION

    models, whole = models_of(context), context.everything
    seen = whole.train_vqvae.data
    return {
        "vqvae": models.vqvae.digest if models.vqvae else "",
        "generators": {kind: ref.model.digest for kind, ref in models.generators.items()},
        "captioner": models.captioner.digest if models.captioner else "",
        "encoders": encoder_ids(models),
        "looking": encoder_id(*models.looking, "evaluate.image_weights") if models.looking else "",
        "decoding": asdict(whole.generate.decoding()),
        "precision": whole.generate.precision,
        "preparation": asdict(whole.generate.preparation),
        "caption_decoding": asdict(whole.caption.decoding),
        "shares": {what: list(shares_of(whole, what)) for what in context.config.whats},
        "unseen_views": [
            seen.held_out,
            list(seen.held_out_views),
            list(seen.held_out_groups),
            list(whole.train_llm.data.held_out_groups),
        ],
        "metrics": [list(RECONSTRUCTION), list(GENERATION), list(CAPTIONS)],
    }


def encoder_ids(models: Models) -> dict[Kind, str]:
    """Id of the encoder of each kind of prompt."""
    from sar3d.conditions import encoder_id

    return {
        kind: encoder_id(name, weights, f"evaluate.{kind}_weights") for kind, (name, weights) in models.encoders.items()
    }


def check_conditions(context: "Context[EvaluateConfig]", models: Models) -> None:
    """Raise `UserError` unless training objects can be found by the conditions that the generators take."""
    from sar3d.data.rowgroups import ParquetFiles

    if not models.generators:
        return
    files = ParquetFiles(context.inputs["cache_conditions"].files())
    metadata = files.schema(0).metadata or {}
    for kind, wanted in encoder_ids(models).items():
        found = metadata.get(f"encoder_{kind}".encode(), b"").decode()
        if found != wanted:
            raise UserError(
                f"cache_conditions holds {f'{kind} conditions of {found}' if found else f'no {kind} conditions'}, but the "
                f"generator takes those of {wanted}: cache the conditions with that encoder (cache_conditions.{kind}), or set "
                f"evaluate.{kind}=false"
            )
