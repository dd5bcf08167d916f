"""Parts of `gpu.py`: the tokenizer and the text generator of configs/small.yaml, trained until the time is over.

Settings are those of the configuration, apart from what the short time decides: resolution 64, the number of steps (from the
measured speed, so that the learning rate comes down to its end), a warm-up that fits it, and no LPIPS weights.
"""

import dataclasses
import math
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from gpu_data import RESOLUTION, Prepared, write_rows
from gpu_parts import Box, Setting, Values

from sar3d import hub
from sar3d.conditions.condition import Condition, PooledStatistics
from sar3d.data.datasets.prompted_objects import PromptedObjects, spread_objects
from sar3d.data.datasets.shown import ShownSamples
from sar3d.data.datasets.token_config import TokenDataConfig
from sar3d.data.datasets.token_dataset import TokenDataset
from sar3d.data.datasets.view_config import ViewDataConfig
from sar3d.data.datasets.view_dataset import ViewDataset
from sar3d.data.formats.conditions import decode_condition
from sar3d.data.formats.tokens import tokens_schema
from sar3d.data.held_out import HeldOut
from sar3d.data.loading.row_groups import ParquetFiles
from sar3d.metrics.config import PerceptualConfig
from sar3d.presets import filled
from sar3d.tasks.ar.config import ARTaskConfig, model_config
from sar3d.tasks.ar.evaluate import GenerationSets
from sar3d.tasks.ar.task import ARTask, EncoderSource, FrozenVQVAE
from sar3d.tasks.vqvae.config import VQVAETaskConfig
from sar3d.tasks.vqvae.evaluate import ReconstructionSets
from sar3d.tasks.vqvae.task import VQVAETask
from sar3d.training.feed import feed
from sar3d.training.fit import run, start
from sar3d.training.settings import TrainSettings
from sar3d.training.step import State, evaluating
from sar3d.training.task import Alone, Dataset, Task
from sar3d.values import read_config
from sar3d.vqvae.model import VQVAE

_CONFIG = Path(__file__).resolve().parents[1] / "configs" / "small.yaml"
_TINY: dict[str, dict[str, Any]] = {
    "train_vqvae": {
        "preset": "tiny",
        "model": {
            "quantizer": {"codebook_size": 64, "scales": [1, 2, 4], "latent_norm": "rms"},
            "volume": {"coarse": 8, "fine": 0},
        },
        "sampling": {"kind": "patches", "patch": 8},
    },
    "train_ar": {"preset": "tiny", "model": {"depth": 1, "width": 32, "heads": 2}},
}
"""What makes the models small enough for seconds on a CPU."""
_EVALUATION, _LEAST_EVALUATION = 0.2, 35.0
"""Share of the box that evaluation, pictures and saving are left, and the least of it in seconds."""
_TIMED_STEPS = {"full": 40, "tiny": 2}
_POINTS = 40
"""Of the curve that is kept."""

Kind = TypeVar("Kind")


def tokenizer(box: Box, setting: Setting) -> None:
    """Training, then held-out views and objects."""
    if setting.prepared is None:
        return box.record("training", {"not run": "no folder of prepared objects was given (--prepared)"})
    box.attempt("training", partial(_tokenizer, box, setting, Prepared.read(setting.prepared)))
    return None


def _tokenizer(box: Box, setting: Setting, prepared: Prepared) -> Values:
    config, settings = _settings(setting, "train_vqvae", VQVAETaskConfig)
    if not setting.tiny:
        config = replace(config, model=replace(config.model, resolution=RESOLUTION))
    task = VQVAETask(replace(config, perceptual=PerceptualConfig(vgg16="substitute")))
    data = _data(setting, _section("train_vqvae")["data"])
    fresh = sorted(setting.work.glob("fresh.parquet"))
    train = ViewDataset([prepared.views, *fresh], RESOLUTION, data, withheld=prepared.withheld)
    whole = replace(data, supervise=None, held_out=HeldOut())
    unseen = ViewDataset([prepared.views], RESOLUTION, whole, split="held_out", withheld=prepared.withheld)
    count = 1 if setting.tiny else 24
    sets = {"views": ShownSamples(train, "held_out", count), "objects": ShownSamples(unseen, "all", count)}
    box.record("training", {"objects": train.objects, "held_out_objects": unseen.objects})
    state = _trained(box, setting, task, train, settings, "training")
    held_out = ReconstructionSets(sets, pictures=1 if setting.tiny else 6)
    return _judged(box, setting, state, held_out, setting.work / "vqvae")


def generator(box: Box, setting: Setting) -> None:
    """Training on the tokens of the tokenizer that was just trained, then prompts of held-out pairs."""
    vqvae = setting.work / "vqvae"
    if setting.prepared is None or not (vqvae / "config.json").is_file():
        return box.record("training", {"not run": "there is no trained tokenizer"})
    box.attempt("training", partial(_generator, box, setting, Prepared.read(setting.prepared), vqvae))
    return None


def _generator(box: Box, setting: Setting, prepared: Prepared, folder: Path) -> Values:
    config, settings = _settings(setting, "train_ar", ARTaskConfig)
    vqvae = hub.from_pretrained(folder, setting.device, kind="vqvae").requires_grad_(False)
    digest = hub.digest(folder)
    tokens = setting.work / "tokens.parquet"
    box.record("training", {"encoded_groups": encode(vqvae, digest, prepared, tokens)})
    data = TokenDataConfig(condition="text", encoder=prepared.encoder, val=0.0, test=0.0)
    files = [tokens], [prepared.conditions]
    train = TokenDataset(*files, data, vqvae=digest, withheld=prepared.withheld)
    empty = empty_condition(prepared)
    shape = model_config(config, "text", vqvae.config, empty.tokens.shape[-1], empty.pooled.shape[-1])
    statistics = PooledStatistics.of(s.pooled for s in train.samples() if s.pooled is not None)
    encoder = EncoderSource("minilm", "", prepared.encoder)
    task = ARTask(config, shape, FrozenVQVAE(partial(Path, folder), digest), encoder, empty, statistics)
    state = _trained(box, setting, task, train, settings, "training")
    count = 2 if setting.tiny else 12
    sets = {
        name: _prompted(prepared, TokenDataset(*files, data, split="all"), split, count)
        for name, split in (("known", "train"), ("objects", "held_out"))
    }
    held_out = GenerationSets(sets, config.decoding, pictures=1 if setting.tiny else 8)
    return _judged(box, setting, state, held_out, setting.work / "ar")


def _prompted(prepared: Prepared, tokens: TokenDataset, split: Any, count: int) -> PromptedObjects:
    data = ViewDataConfig(unit="object", normals=False, val=0.0, test=0.0, cache_decoded=False)
    views = ViewDataset([prepared.views], RESOLUTION, data, split=split, withheld=prepared.withheld)
    labels = {uid: texts[0] for uid, texts in prepared.captions.items()}
    return PromptedObjects(tokens, views, spread_objects(views, count), labels)


def encode(vqvae: VQVAE, digest: str, prepared: Prepared, file: Path) -> int:
    """Write the tokens of every view group; their number."""
    device, quantizer = next(vqvae.parameters()).device, vqvae.config.quantizer
    data = ViewDataConfig(normals=False, val=0.0, test=0.0, cache_decoded=False)
    samples = ViewDataset([prepared.views], RESOLUTION, data, split="all").samples(views="all", groups=None)

    def rows() -> Any:
        for sample in samples:
            with torch.inference_mode():
                codes = vqvae.tokens(sample.encoder_input[None].to(device))[0].cpu().numpy()
            yield {"uid": sample.uid, "sha256": sample.sha256, "group": sample.group, "codes": codes}

    return write_rows(file, rows(), tokens_schema(digest, quantizer.scales, quantizer.codebook_size))


def empty_condition(prepared: Prepared) -> Condition:
    """The features of the empty caption: the first row of the file."""
    files = ParquetFiles([prepared.conditions])
    row = decode_condition(files.read((0, 0), files.schema(0).names).slice(0, 1).to_pylist()[0])
    return Condition(torch.from_numpy(row.tokens[None].copy()), torch.from_numpy(row.pooled[None].copy()))


def _section(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(_CONFIG.read_text())[name]
    return found


def _settings(setting: Setting, name: str, kind: type[Kind]) -> tuple[Kind, TrainSettings]:
    """How the configuration trains a model."""
    section = _section(name)
    task = {**section["task"], **(_TINY[name] if setting.tiny else {})}
    train = {**section["train"], **({"batch": 2, "micro_batch": None} if setting.tiny else {})}
    return read_config(kind, filled(task, kind)), replace(
        read_config(TrainSettings, train), log_every=20, evaluate_every=0
    )


def _data(setting: Setting, section: dict[str, Any]) -> ViewDataConfig:
    """All objects but those of held-out pairs are trained on."""
    config = replace(read_config(ViewDataConfig, section), val=0.0, test=0.0, threads=4)
    return replace(config, supervise=1) if setting.tiny else config


def _trained(box: Box, setting: Setting, task: Task, data: Dataset, settings: TrainSettings, name: str) -> State:
    """The state after as many steps as the box has time for, less what evaluation needs."""
    reserve = 0.0 if setting.tiny else max(_EVALUATION * box.seconds, _LEAST_EVALUATION)
    curve: list[tuple[int, dict[str, float]]] = []

    def log(step: int, metrics: dict[str, float]) -> None:
        curve.append((step, metrics))
        box.record(name, _progress(curve))

    state = start(task, settings, setting.device)
    with closing(feed(task, data, settings, 0, 0, 1, pin=state.device.type == "cuda")) as batches:
        timed = _TIMED_STEPS[setting.size]
        state.settings = replace(settings, steps=timed, log_every=timed)
        run(state, batches, log)  # what compiles and loads for the first time
        state.settings = replace(settings, steps=2 * timed, log_every=timed)
        run(state, batches, log)
        speed = curve[-1][1]["samples_per_second"] / settings.batch
        steps = 2 * timed + (2 if setting.tiny else max(0, int(speed * (box.left() - reserve))))
        state.settings = fitted(settings, steps)
        if isinstance(task, VQVAETask):  # as the configuration has it: dead codes are replaced until two thirds
            codebook = replace(task.config.codebook, dead_code_reset_until=2 * steps // 3)
            task.config = replace(task.config, codebook=codebook)
        run(state, batches, log, stop=lambda _: box.left() < reserve)
    box.record(name, {**_progress(curve), "steps": state.step, "planned_steps": steps})
    return state


def fitted(settings: TrainSettings, steps: int) -> TrainSettings:
    """The same course of the learning rate in fewer steps."""
    warmup = min(settings.schedule.warmup, max(1, steps // 10))
    schedule = dataclasses.replace(settings.schedule, warmup=warmup)
    return replace(settings, steps=steps, schedule=schedule, log_every=max(1, min(50, steps // _POINTS)))


def _progress(curve: list[tuple[int, dict[str, float]]]) -> Values:
    """The newest numbers, and the loss at some steps."""
    shown = curve[:: math.ceil(len(curve) / _POINTS)]
    names = ("loss", "psnr", "accuracy", "samples_per_second", "data_wait", "mfu", "grad_norm")
    newest = {name: curve[-1][1][name] for name in names if name in curve[-1][1]}
    return {
        "steps": curve[-1][0],
        **newest,
        "loss_at": [step for step, _ in shown],
        "losses": [round(float(metrics["loss"]), 4) for _, metrics in shown],
    }


def _judged(box: Box, setting: Setting, state: State, held_out: Any, folder: Path) -> Values:
    """Evaluation, pictures and the model's folder, with the averaged weights."""
    task = state.task
    with evaluating(state.model, state.ema, state.settings, state.device):
        task.export(state.model, folder)
        values = task.evaluate(state.model, held_out, Alone())
        box.record("held out", dict(values))
        pictures = task.draw(state.model, held_out)
    for name, data in pictures.items():
        (setting.out / name).write_bytes(data)
    return {"pictures": ", ".join(sorted(pictures))}
