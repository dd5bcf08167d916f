"""Which generators, with which encoders of prompts, a stage's inputs mean."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pipelines.runtime.models import Exported
from pipelines.runtime.stage import Context
from sar3d.conditions.kinds import ConditionKind
from sar3d.errors import UserError
from sar3d.generate.folders import PUBLISHED_ENCODERS


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
