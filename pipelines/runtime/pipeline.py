"""A pipeline: the stages there are, and a section of settings for each. It is what the engine is handed."""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar

from pipelines.runtime.cluster import ClusterConfig
from pipelines.runtime.inputs import Model, Rows, check_producer, declared, producer
from pipelines.runtime.stage import StageBase
from pipelines.runtime.tracking import TrackingConfig
from sar3d.errors import UserError


@dataclass(frozen=True)
class Pipeline:
    """What a run needs to know. `pipeline_of` makes the class with a section for each stage, by the stage's name."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    registry: ClassVar[Mapping[str, StageBase[Any]]] = MappingProxyType({})
    """The stages there are, by name, in the order in which data flows through them."""

    recipe: str = "published"
    """Settings on which this configuration builds: `published`, the published system's, or `short`, those of trainings
    of minutes on two CPU cores."""
    root: str = ""
    """Output URL (a folder, s3://, gs://); default `runs/<config name>`."""
    stages: tuple[str, ...] = ("download", "render")
    """What `sar3d run` runs, in this order."""
    report: bool = False
    """Write `<root>/report.html` at the end of `sar3d run`, the page to look at."""
    max_failure_rate: float = 0.2
    """Share of failed objects above which a stage stops, once 100 objects have been tried."""
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)

    def section(self, stage: StageBase[Any]) -> Any:
        """A stage's settings."""
        return getattr(self, stage.name)

    def depends_on(self, stage: StageBase[Any]) -> list[StageBase[Any]]:
        """The stages whose outputs a stage reads under its settings, in the order of the pipeline.

        Raises:
            UserError: a setting names a stage that does not write what is wanted, or the stage itself.
        """
        section, found = self.section(stage), set()
        for name, rows in declared(section, Rows):
            check_producer(stage.name, name, getattr(section, name), f"{rows.schema} rows", self.writers(rows.schema))
            found.add(getattr(section, name))
        for name, model in declared(section, Model):
            source = producer(section, name, model, self.registry)
            if source:
                kind = model.kind or stage.writes
                check_producer(stage.name, name, source, f"a model of kind {kind}", self.writers(kind))
                found.add(source)
        if stage.name in found:
            raise UserError(f"{stage.name} cannot read its own output: name another stage, a folder or a URL")
        return [other for name, other in self.registry.items() if name in found]

    def writers(self, what: str) -> list[str]:
        """Names of the stages that write rows of this schema, or models of this kind, under their settings."""
        return [name for name, stage in self.registry.items() if stage.writing(self.section(stage)) == what]


def pipeline_of(stages: Iterable[StageBase[Any]], name: str = "PipelineConfig") -> type[Pipeline]:
    """The class of configurations of these stages."""
    registry = {stage.name: stage for stage in stages}
    sections = [(s.name, s.section, field(default_factory=s.section)) for s in registry.values()]
    return dataclasses.make_dataclass(
        name, sections, bases=(Pipeline,), frozen=True, namespace={"registry": MappingProxyType(registry)}
    )
