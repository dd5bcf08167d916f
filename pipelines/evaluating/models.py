"""The models of a pipeline that are evaluated, checked against the conditions that are cached, not loaded."""

from typing import TYPE_CHECKING, Any

from pipelines.cache_conditions import encoders_in
from pipelines.generating.models import encoder_ids, generators_of
from pipelines.runtime.stage import Context
from sar3d.errors import UserError

if TYPE_CHECKING:
    from pipelines.evaluate import EvaluateConfig

STAGE = "evaluate"


def image_encoder_of(context: "Context[EvaluateConfig]") -> tuple[str, str] | None:
    """Name and weights of the image encoder that compares pictures; None where nothing is generated, or there is none.

    It is that of the generator for pictures, else the one that the cached conditions were made by.
    """
    config = context.config
    if not config.kinds:
        return None
    generators = generators_of(context, config.kinds, STAGE)
    if "image" in generators:
        return generators["image"].encoder, generators["image"].weights
    cached = encoders_in(context.rows["conditions"]).get("image")
    return None if cached is None else (cached.split(":")[0], config.image_weights)


def encoders_and_metrics(context: "Context[EvaluateConfig]") -> dict[str, Any]:
    """What rows depend on besides settings and models. Raises `UserError` where weights of an encoder are missing."""
    from sar3d.conditions import encoder_id
    from sar3d.metrics.registry import CAPTIONS, GENERATION, RECONSTRUCTION

    comparing = image_encoder_of(context)
    return {
        "encoders": encoder_ids(generators_of(context, context.config.kinds, STAGE), STAGE),
        "comparing": encoder_id(*comparing, "evaluate.image_weights") if comparing else "",
        "metrics": [list(RECONSTRUCTION), list(GENERATION), list(CAPTIONS)],
    }


def check_conditions(context: "Context[EvaluateConfig]") -> None:
    """Raise `UserError` unless training objects can be found by the conditions that the generators take."""
    generators = generators_of(context, context.config.kinds, STAGE)
    if not generators:
        return
    cached = encoders_in(context.rows["conditions"])
    for kind, wanted in encoder_ids(generators, STAGE).items():
        found = cached.get(kind)
        if found != wanted:
            raise UserError(
                f"cache_conditions holds {f'{kind} conditions of {found}' if found else f'no {kind} conditions'}, but the "
                f"generator takes those of {wanted}: cache the conditions with that encoder (cache_conditions.{kind}), or set "
                f"evaluate.{kind}=false"
            )
