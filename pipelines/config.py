"""The whole configuration: one section per stage, read from YAML and `key=value`, checked, frozen."""

import dataclasses
import difflib
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import yaml
from pydantic import TypeAdapter, ValidationError

from pipelines.cache_conditions import CacheConditionsConfig
from pipelines.cache_tokens import CacheTokensConfig
from pipelines.caption import CaptionConfig
from pipelines.evaluate import STAGES_OF, EvaluateConfig
from pipelines.generate import GenerateConfig
from pipelines.import_chunks import ImportChunksConfig
from pipelines.render import RenderConfig
from pipelines.runtime.cluster import ClusterConfig, in_job
from pipelines.runtime.store import is_remote
from pipelines.runtime.tracking import TrackingConfig
from pipelines.sources.config import DownloadConfig
from pipelines.train_ar import TrainARConfig
from pipelines.train_llm import TrainLLMConfig
from pipelines.train_vqvae import TrainVQVAEConfig
from sar3d.errors import UserError
from sar3d.metrics.config import PerceptualConfig


@dataclass(frozen=True)
class PipelineConfig:
    """Everything that a run needs to know. Each section is documented where it is defined."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    root: str = ""
    """Output URL (a folder, s3://, gs://); default `runs/<config name>`."""
    stages: tuple[str, ...] = ("download", "render")
    """What `sar3d run` runs, in this order."""
    report: bool = False
    """Write `<root>/report.html` at the end of `sar3d run`, the page to look at."""
    max_failure_rate: float = 0.2
    """Share of failed objects above which a stage stops, once 100 objects have been tried."""
    download: DownloadConfig = field(default_factory=DownloadConfig)
    render: RenderConfig = field(default_factory=RenderConfig)
    import_chunks: ImportChunksConfig = field(default_factory=ImportChunksConfig)
    train_vqvae: TrainVQVAEConfig = field(default_factory=TrainVQVAEConfig)
    cache_tokens: CacheTokensConfig = field(default_factory=CacheTokensConfig)
    cache_conditions: CacheConditionsConfig = field(default_factory=CacheConditionsConfig)
    train_ar: TrainARConfig = field(default_factory=TrainARConfig)
    train_ar_image: TrainARConfig = field(default_factory=TrainARConfig)
    train_llm_projector: TrainLLMConfig = field(default_factory=TrainLLMConfig)
    train_llm: TrainLLMConfig = field(default_factory=TrainLLMConfig)
    caption: CaptionConfig = field(default_factory=CaptionConfig)
    generate: GenerateConfig = field(default_factory=GenerateConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)


def load(file: str | Path, overrides: list[str]) -> PipelineConfig:
    """Read a YAML file and apply `dotted.key=value` overrides. Raises `UserError` naming the key that is wrong."""
    path = Path(file)
    try:
        values = yaml.safe_load(path.read_text()) or {}
    except FileNotFoundError as error:
        raise UserError(f"there is no configuration file {path}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the configuration {path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise UserError(f"the configuration {path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise UserError(f"the configuration {path} must hold settings (key: value), not a {type(values).__name__}")
    for override in overrides:
        _override(values, override)
    try:
        config = TypeAdapter(PipelineConfig).validate_python(values)
    except ValidationError as error:
        raise UserError(_explain(error, path)) from error
    settled = _settle(config, path)
    return replace(settled, evaluate=_settle_evaluate(settled))


def _override(values: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UserError(f"{text!r} is not an override: write key=value, for example render.views=12")
    *parents, last = key.split(".")
    for name in parents:
        values = values.setdefault(name, {})
        if not isinstance(values, dict):
            raise UserError(f"{key} cannot be set: {name} is a value, not a section")
    try:
        values[last] = yaml.safe_load(value) if value else ""
    except yaml.YAMLError:
        values[last] = value


def _explain(error: ValidationError, path: Path) -> str:
    """The first thing that is wrong, in one sentence."""
    first = error.errors(include_url=False)[0]
    where = [p for p in first["loc"] if isinstance(p, int) or not p.startswith(("function-", "literal", "constrained"))]
    key = ".".join(str(p) for p in where)
    if first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        section, names = _section(where[:-1])
        near = difflib.get_close_matches(str(where[-1]), names, n=1)
        hint = (
            f"did you mean {'.'.join([*map(str, where[:-1]), near[0]])}?"
            if near
            else f"{section} has: {', '.join(names)}"
        )
        return f"{key} is not a setting ({path}); {hint}"
    message = first["msg"][0].lower() + first["msg"][1:]
    return f"{key}={first['input']!r} is wrong ({path}): {message}"


def _section(where: list[Any]) -> tuple[str, list[str]]:
    kind: Any = PipelineConfig
    for name in where:
        kind = next((f.type for f in dataclasses.fields(kind) if f.name == name), None)
        if not dataclasses.is_dataclass(kind):
            return ".".join(map(str, where)), []
    return ".".join(map(str, where)) or "the configuration", [f.name for f in dataclasses.fields(kind)]


def _settle(config: PipelineConfig, path: Path) -> PipelineConfig:
    """Fill in the root, make local paths absolute, check the stages' names."""
    from pipelines.registry import STAGES

    for name in config.stages:
        if name not in STAGES:
            raise UserError(f"stages lists {name!r}, which is not a stage; there are: {', '.join(STAGES)}")
    if not 0 <= config.max_failure_rate <= 1:
        raise UserError(f"max_failure_rate={config.max_failure_rate:g} is wrong: it is a share between 0 and 1")
    root = absolute(config.root or f"runs/{path.stem}", "root")
    download, chunks = config.download, config.import_chunks
    if download.directory.path and download.source == "directory":
        place = absolute(download.directory.path, "download.directory.path")
        download = replace(download, directory=replace(download.directory, path=place))
    # These two are read by the driver alone, which a submitted job brings with its working directory.
    if download.captions.path and not is_remote(download.captions.path):
        download = replace(download, captions=replace(download.captions, path=os.path.abspath(download.captions.path)))
    if download.objaverse.uids_file:
        uids_file = os.path.abspath(download.objaverse.uids_file)
        download = replace(download, objaverse=replace(download.objaverse, uids_file=uids_file))
    if chunks.path:
        chunks = replace(chunks, path=absolute(chunks.path, "import_chunks.path"))
    tokens = config.cache_tokens
    if tokens.model:
        tokens = replace(tokens, model=absolute(tokens.model, "cache_tokens.model"))
    conditions = config.cache_conditions
    conditions = replace(
        conditions,
        text_weights=_weights(conditions.text_weights, "cache_conditions.text_weights"),
        image_weights=_weights(conditions.image_weights, "cache_conditions.image_weights"),
    )
    generators = {
        name: replace(section, vqvae=absolute(section.vqvae, f"{name}.vqvae") if section.vqvae else tokens.model)
        for name, section in (("train_ar", config.train_ar), ("train_ar_image", config.train_ar_image))
    }
    captioners = {
        name: _settle_captioner(section, name, tokens.model)
        for name, section in (("train_llm_projector", config.train_llm_projector), ("train_llm", config.train_llm))
    }
    caption = config.caption
    described: dict[str, Any] = {
        n: absolute(getattr(caption, n), f"caption.{n}") for n in ("model", "vqvae") if getattr(caption, n)
    }
    generate = _settle_generate(config.generate, generators["train_ar"].vqvae)
    begun = {
        name: replace(section, init_from=absolute(section.init_from, f"{name}.init_from"))
        for name, section in {**vars(config), **generators, **captioners}.items()
        if getattr(section, "init_from", "")
    }
    return replace(
        config,
        **{**generators, **captioners, **begun},
        root=root,
        download=download,
        import_chunks=chunks,
        cache_tokens=tokens,
        cache_conditions=conditions,
        generate=generate,
        caption=replace(caption, **({"vqvae": tokens.model} | described)),
    )


def _settle_captioner(section: TrainLLMConfig, name: str, model: str) -> TrainLLMConfig:
    """Local places made absolute; without a VQVAE of its own the one that the codes are made with."""
    vqvae = absolute(section.vqvae, f"{name}.vqvae") if section.vqvae else model
    task = replace(section.task, lm=_weights(section.task.lm, f"{name}.task.lm"))
    return replace(section, vqvae=vqvae, task=task)


def _settle_generate(section: GenerateConfig, vqvae: str) -> GenerateConfig:
    """Local places made absolute; without a VQVAE of its own the one that the generators are trained with."""
    places = {n: getattr(section, n) for n in ("vqvae", "text_model", "image_model")}
    found: dict[str, Any] = {n: absolute(place, f"generate.{n}") for n, place in places.items() if place}
    if section.prompts:
        found["prompts"] = os.path.abspath(section.prompts)
    weights = {n: _weights(getattr(section, n), f"generate.{n}") for n in ("text_weights", "image_weights")}
    return replace(section, **{"vqvae": vqvae, **found, **weights})


def _settle_evaluate(config: PipelineConfig) -> EvaluateConfig:
    """What the stages train is evaluated, as `generate` and `caption` use it, by the distance that trained the VQVAE."""
    section, generate, trained = config.evaluate, config.generate, config.train_vqvae
    inherited: dict[str, Any] = {n: getattr(generate, n) for n in ("vqvae", "text_model", "image_model")}
    inherited |= {"captioner": config.caption.model}
    found = {n: absolute(getattr(section, n), f"evaluate.{n}") for n in inherited if getattr(section, n)}
    weights = ("text_weights", "image_weights")
    found |= {n: _weights(getattr(section, n), f"evaluate.{n}") or getattr(generate, n) for n in weights}
    wanted: dict[str, Any] = {
        n: stage in config.stages for n, stage in STAGES_OF.items() if getattr(section, n) is None
    }
    if section.perceptual == "auto":
        inherited |= {"perceptual": trained.perceptual}
    if section.lpips == PerceptualConfig():
        inherited |= {"lpips": trained.task.perceptual}
    return replace(section, **(inherited | found | wanted))


def _weights(place: str, key: str) -> str:
    """A folder as every process will understand it; what is no folder is a repository of the hub."""
    return absolute(place, key) if os.path.isdir(os.path.expanduser(place)) else place


def absolute(place: str, key: str) -> str:
    """A local path as every process of the run will understand it. Raises `UserError` inside a submitted job."""
    place = place.removeprefix("file://")
    if is_remote(place) or os.path.isabs(place):
        return place
    if in_job():
        raise UserError(
            f"{key}={place} is relative, and a submitted job runs in a copy of the working directory that is thrown away: "
            f"give an absolute path that every node sees, or a URL"
        )
    return os.path.abspath(os.path.expanduser(place))
