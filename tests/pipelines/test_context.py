"""A stage sees its own section and its declared inputs, and nothing else: with these alone it runs."""

import itertools
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import generators
import pyarrow as pa
import pytest
import rendered

from pipelines.registry import STAGES
from pipelines.runtime.engine import current
from pipelines.runtime.inputs import Model, Rows, declared
from pipelines.runtime.models import exported
from pipelines.runtime.output import Failure
from pipelines.runtime.stage import Context, Stage
from pipelines.runtime.training.stage import TrainingStage
from sar3d import hub
from sar3d.training.fit import fit

BRIEF = "{steps: 1, batch: 2, lanes: 1, ema: null}"
"""One step of training."""


@pytest.fixture(scope="module")
def config(local_ray: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Settings of every stage: small, with finished rows under a root and models in folders."""
    bundle, vqvae = generators.bundle(), rendered.model()
    captioner = generators.captioner(tmp_path_factory.mktemp("llm"), hub.digest(vqvae))
    trainings = ("train_vqvae", "train_flexicubes", "train_ar", "train_ar_image", "train_llm_projector", "train_llm")
    held_in = "val: 0.0, test: 0.0"
    random = "random: {width: 32, layers: 1, heads: 2, vocabulary: 400}"
    config = rendered.configure(
        rendered.root(),
        *(f"{stage}.train={BRIEF}" for stage in trainings),
        f"train_vqvae.data={{unit: group, supervise: 2, {held_in}}}",
        *(f"{stage}.data={{{held_in}}}" for stage in trainings[2:]),
        "train_vqvae.task.model={quantizer: {codebook_size: 128}, decoder: {depth: 1}}",
        "train_flexicubes.task.grid=12",
        "train_flexicubes.supervise=2",
        *(f"{stage}.task.model={{depth: 1, width: 32, heads: 2}}" for stage in trainings[2:4]),
        *(f"{stage}.task={{model: {{num_scales: 2, projector: [16]}}, {random}}}" for stage in trainings[4:]),
        f"generate.vqvae={vqvae}",
        f"generate.text_model={bundle}/ar_text",
        f"generate.image_model={bundle}/ar_image",
        "generate.objects=1",
        "generate.export={formats: [png], grid: 24, frames: 2, resolution: 16, level: 5.2}",
        f"caption.captioner={captioner}",
        "caption.decoding={max_new_tokens: 4}",
        "evaluate={reconstruction: true, text: false, image: false, captions: true, objects: 1, compared: 1}",
    )
    for name in ("cache_tokens", "cache_conditions"):
        rendered.run(STAGES[name], config)
    return config


def context_of(name: str, config: Any) -> Context[Any]:
    """The stage's own section and what its fields declare; as it arrives on a worker."""
    stage = STAGES[name]
    section = stage.resolve(config.section(stage), lambda _: None)
    rows = {field: current(STAGES[getattr(section, field)], config) for field, _ in declared(section, Rows)}
    assert None not in rows.values()
    named = {field: getattr(section, field) for field, _ in declared(section, Model)}
    models = {field: exported(place) for field, place in named.items() if place}
    files = str(Path(config.root, name, "files"))
    context: Context[Any] = pickle.loads(pickle.dumps(Context(section, rows, models, files)))  # type: ignore[arg-type]
    return context


FOREIGN = {"import_chunks", "compare", "set_distances"}
"""Stages that read what others made, or what was measured of it: their own tests run them on such."""


@pytest.mark.parametrize("name", [name for name in STAGES if name not in FOREIGN])
def test_a_stage_runs_on_its_own_section_and_its_declared_inputs(name: str, config: Any) -> None:
    stage, context = STAGES[name], context_of(name, config)
    stage.check(context)
    assert stage.identity(context)
    if isinstance(stage, TrainingStage):
        made = stage.build(context, lambda _: None)
        assert sum(p.numel() for p in fit(made.task, made.train, context.config.train).parameters())
        return
    assert isinstance(stage, Stage)
    items = list(itertools.islice(stage.items(context, lambda _: None), 1))
    context = replace(context, state=stage.open(context))
    rows = list(stage.process(context, items))
    assert rows
    assert not [row for row in rows if isinstance(row, Failure)]
    assert pa.Table.from_pylist(rows, stage.schema(context)).num_rows == len(rows)
