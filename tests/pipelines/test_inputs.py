"""Inputs declared on the fields of a section: what the engine derives from them, on a second pipeline of three stages."""

import dataclasses
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray

from pipelines.config import load, settle
from pipelines.registry import PipelineConfig
from pipelines.registry import load as load_ours
from pipelines.runtime.engine import prepare, run_stage
from pipelines.runtime.fingerprint import fingerprint
from pipelines.runtime.inputs import driver_file, folder, listed, model, rows, same_as, weights
from pipelines.runtime.output import Failure, Output
from pipelines.runtime.pipeline import pipeline_of
from pipelines.runtime.plan import Item
from pipelines.runtime.reading import read_rows
from pipelines.runtime.stage import Context, Log, Row, Stage, StageConfig
from pipelines.runtime.training.stage import TrainingStage, TrainInputs, TrainStageConfig
from sar3d.data.held_out import HeldOut
from sar3d.errors import UserError

NUMBER = pa.schema([pa.field("uid", pa.string()), pa.field("value", pa.int64())])


@dataclass(frozen=True)
class CountConfig(StageConfig):
    until: int = field(default=6, metadata={"identity": "listing"})
    base: int = 10


class CountStage(Stage[CountConfig]):
    name = "count"
    section = CountConfig
    writes = "numbers"
    version = 1
    about = "numbers"

    def items(self, context: Context[CountConfig], log: Log) -> Iterable[Item]:
        return ({"uid": f"{i:03d}", "value": i} for i in range(context.config.until))

    def schema(self, context: Context[CountConfig]) -> pa.Schema:
        return NUMBER

    def process(self, context: Context[CountConfig], items: list[Item]) -> Iterator[Row | Failure]:
        yield from items


@dataclass(frozen=True)
class TrainFactorConfig(TrainStageConfig):
    numbers: str = rows("numbers", default="count")
    apart: HeldOut = HeldOut(views=2)


class TrainFactorStage(TrainingStage[TrainFactorConfig]):
    name = "train_factor"
    section = TrainFactorConfig
    writes = "factor"
    version = 1
    about = "a model"

    def build(self, context: Context[TrainFactorConfig], log: Log) -> TrainInputs:
        raise NotImplementedError


@dataclass(frozen=True)
class ScaleConfig(StageConfig):
    numbers: str = rows("numbers", default="count")
    factor: str = model("factor", of="train_factor")
    spare: str = model("factor", of="train_factor", inherit="scale.factor", when=lambda scale: scale.two)
    two: bool = listed("train_factor")
    apart: HeldOut = same_as("train_factor.apart")
    base: int = same_as("count.base")
    notes: str = driver_file()
    place: str = folder()
    encoder: str = weights()


class ScaleStage(Stage[ScaleConfig]):
    name = "scale"
    section = ScaleConfig
    writes = "numbers"
    version = 1
    about = "numbers times a factor"

    def items(self, context: Context[ScaleConfig], log: Log) -> Iterable[Item]:
        return ({"uid": row["uid"], "value": row["value"]} for row in read_rows(context.rows["numbers"]))

    def schema(self, context: Context[ScaleConfig]) -> pa.Schema:
        return NUMBER

    def process(self, context: Context[ScaleConfig], items: list[Item]) -> Iterator[Row | Failure]:
        factor = context.models["factor"].config["factor"]
        yield from ({**item, "value": item["value"] * factor + context.config.base} for item in items)


Numbers = pipeline_of([CountStage(), TrainFactorStage(), ScaleStage()], "Numbers")


def configure(folder: Path, *overrides: str) -> Any:
    file = folder / "numbers.yaml"
    file.write_text("tracking: {enabled: false}\ncluster: {cpus: 2, address: local}\nstages: [count, scale]\n")
    return load(file, [f"root={folder / 'root'}", *overrides], Numbers)


def factor_model(folder: Path, factor: int, made_for: str = "") -> Path:
    """An exported model of kind `factor`."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    extra = {"vqvae": made_for} if made_for else {}
    values = {"kind": "factor", "config": {"factor": factor}, "extra": extra}
    (folder / "config.json").write_text(json.dumps(values))
    save_file({}, folder / "model.safetensors")
    return folder


def test_a_second_pipeline_is_loaded_and_run_by_the_same_engine(local_ray: Any, tmp_path: Path) -> None:
    ray.cloudpickle.register_pickle_by_value(__import__(__name__))
    three, five = (factor_model(tmp_path / str(n), n) for n in (3, 5))
    config = configure(tmp_path, f"scale.factor={three}")
    with pytest.raises(UserError, match="scale reads the output of count, which has not been run"):
        run_stage(ScaleStage(), config, log=lambda _: None)
    run_stage(CountStage(), config, log=lambda _: None)
    made = run_stage(ScaleStage(), config, log=lambda _: None)
    values = [row["value"] for row in read_rows(Output(config.root, "scale", made.fingerprint))]
    assert values == [3 * i + 10 for i in range(6)]
    assert run_stage(ScaleStage(), config, log=lambda _: None).state == "reused"
    # Another model, or another value of the copied setting, is another output.
    other = run_stage(ScaleStage(), configure(tmp_path, f"scale.factor={five}"), log=lambda _: None)
    assert [row["value"] for row in read_rows(Output(config.root, "scale", other.fingerprint))][1] == 15
    manifest = Output(config.root, "scale", other.fingerprint).manifest()
    assert manifest is not None
    assert list(manifest["models"]) == ["factor"]


def test_stages_that_are_read_follow_from_the_fields(tmp_path: Path) -> None:
    scale = Numbers.registry["scale"]

    def read(*overrides: str) -> list[str]:
        return [stage.name for stage in configure(tmp_path, *overrides).depends_on(scale)]

    assert read() == ["count", "train_factor"]
    assert read("scale.factor=/somewhere") == ["count"]
    assert read("scale.factor=train_factor") == ["count", "train_factor"]
    assert read("scale.factor=/somewhere", "scale.two=true", "scale.spare=train_factor") == ["count", "train_factor"]
    for word, sentence in (
        ("scale.numbers=train_factor", "name a stage that writes numbers rows"),
        ("scale.numbers=nothing", "name a stage that writes numbers rows"),
        ("scale.factor=count", "name a stage that writes a model of kind factor"),
        ("scale.numbers=scale", "cannot read its own output"),
    ):
        with pytest.raises(UserError, match=sentence):
            read(word)


def test_copied_settings_and_places_are_settled_when_the_configuration_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("here").mkdir()
    scale = configure(tmp_path, "train_factor.apart=7", "count.base=4", "scale.two=true", "scale.factor=m").scale
    assert (scale.apart, scale.base) == (HeldOut(views=7), 4)
    assert scale.spare == scale.factor == str(tmp_path / "m")
    assert not configure(tmp_path).scale.two
    assert configure(tmp_path, "stages=[count, train_factor]").scale.two
    assert configure(tmp_path, "scale.base=9", "count.base=4").scale.base == 9
    words = ("scale.notes=n", "scale.place=p", "scale.encoder=here")
    scale = configure(tmp_path, *words).scale
    assert [scale.notes, scale.place, scale.encoder] == [str(tmp_path / name) for name in ("n", "p", "here")]
    assert configure(tmp_path, "scale.encoder=org/name").scale.encoder == "org/name"
    shared = ScaleStage().shared_paths(Context(scale))
    assert shared == [str(tmp_path / "p"), str(tmp_path / "here")]
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(UserError, match=r"scale\.place=p is relative"):
        configure(tmp_path, "scale.place=p")
    assert configure(tmp_path, "scale.notes=n").scale.notes == str(tmp_path / "n")


def test_models_of_another_kind_or_for_other_tokens_are_refused(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class PairConfig(StageConfig):
        vqvae: str = model("vqvae", of="")
        text_model: str = model("factor", of="")

    class PairStage(ScaleStage):
        name = "pair"
        section = PairConfig  # type: ignore[assignment]

    pairs = pipeline_of([PairStage()])
    vqvae, model_ = tmp_path / "vqvae", factor_model(tmp_path / "model", 2, made_for="0" * 64)
    factor_model(vqvae, 1)
    (vqvae / "config.json").write_text(json.dumps({"kind": "vqvae", "config": {}}))

    def found(section: PairConfig) -> Context[Any]:
        return prepare(pairs.registry["pair"], pairs(root=str(tmp_path / "r"), pair=section), lambda _: None)  # type: ignore[call-arg]

    assert set(found(PairConfig(text_model=str(model_))).models) == {"text_model"}
    with pytest.raises(
        UserError, match=r"the text model at .* was trained on the tokens of the VQVAE 0000000000000000"
    ):
        found(PairConfig(vqvae=str(vqvae), text_model=str(model_)))
    with pytest.raises(UserError, match="is of kind factor: give the folder of an exported vqvae"):
        found(PairConfig(vqvae=str(model_)))


def test_what_the_tokenizer_never_saw_is_part_of_what_reads_it(tmp_path: Path) -> None:
    """The view that prompts a generator is chosen among those that training held out: another choice is another output."""

    def sections(*words: str) -> Any:
        file = tmp_path / "c.yaml"
        file.write_text("{}")
        return load_ours(file, [f"root={tmp_path}", *words])

    held_out = "train_vqvae.data.held_out={views: 3, view_ids: [7], groups: [1, 3]}"
    config, before = sections(held_out), sections()
    whole = HeldOut(views=3, view_ids=(7,), groups=(1, 3))
    for name in ("train_ar", "train_ar_image", "generate"):
        assert getattr(config, name).held_out == whole, name
    assert config.evaluate.vqvae_data.held_out == whole
    for name in ("train_ar", "train_ar_image", "generate", "evaluate"):
        stage = PipelineConfig.registry[name]
        prints = {fingerprint(identity_of(stage, getattr(c, name))) for c in (config, before)}
        assert len(prints) == 2, f"{name} does not count what was held out"


def identity_of(stage: Any, section: Any) -> Any:
    from pipelines.runtime.fingerprint import identity

    return identity(section)


def test_given_values_win_over_what_would_be_inherited(tmp_path: Path) -> None:
    config = settle(PipelineConfig(root=str(tmp_path)), "name")
    assert config.section(config.registry["evaluate"]).vqvae == ""
    given = dataclasses.replace(config, stages=("download",))
    assert settle(given, "name").root == str(tmp_path)
