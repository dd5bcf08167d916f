"""Run one training stage: find the inputs, train, commit the model, report. Running it again resumes or continues."""

import json
import time
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from pipelines.runtime.engine import Options, point, prepare
from pipelines.runtime.fingerprint import fingerprint, identity
from pipelines.runtime.interrupt import Interrupted, interruptible
from pipelines.runtime.lease import Lease
from pipelines.runtime.models import FILES, local_copy
from pipelines.runtime.output import FORMAT, Output
from pipelines.runtime.pipeline import Pipeline
from pipelines.runtime.progress import StepProgress
from pipelines.runtime.stage import Context, Log, StageReport
from pipelines.runtime.store import join
from pipelines.runtime.tracking import StageRun, replay
from pipelines.runtime.training.launch import TrainJob, recorded_commits, train
from pipelines.runtime.training.stage import TrainingStage, TrainInputs
from sar3d import hub
from sar3d.errors import UserError

CHECKPOINTS = "checkpoints"
MODEL = "model"


def run_training(stage: TrainingStage[Any], config: Pipeline, options: Options, log: Log) -> StageReport:
    """Bring a training stage's output for this configuration up to date.

    Raises `UserError` for everything that a person can mend, `Interrupted` after SIGTERM or SIGINT; either way the next
    call goes on from the last committed checkpoint.
    """
    started = time.time()
    context = prepare(stage, config, log)
    upstream = {name: output.content() for name, output in context.upstream().items()}
    full = fingerprint(stage.name, stage.version, stage.identity(context), upstream)
    output = Output(config.root, stage.name, full)
    if stage.finished(output, context.config):
        point(stage, config, full, options)
        replay(config, output, stage.name)
        return _report(stage, output, "reused", _enough(output, context), started)
    if options.dry_run:
        return _report(stage, output, "planned", _foresee(output, context), started)
    point(stage, config, full, options)
    with Lease(output.state, f"{stage.name} {full}", options.wait, log) as lease, interruptible():
        if stage.finished(output, context.config):  # whoever held the lease before us
            return _report(stage, output, "reused", "another submission finished it", started)
        why = _train(stage, context, config, output, upstream, lease, started, log)
        return _report(stage, output, "done", why, started)


def _enough(output: Output, context: Context[Any]) -> str:
    steps, wanted = trained_steps(output), context.config.train.steps
    return (
        "finished before" if steps == wanted else f"trained for {steps:,} steps before, more than the {wanted:,} asked"
    )


def trained_steps(output: Output) -> int:
    """Steps of the finished model; of an unfinished output, of its newest committed checkpoint."""
    success = output.finished()
    return int(success["steps"]) if success is not None else _done(output)


def _done(output: Output) -> int:
    """Steps of the newest committed checkpoint."""
    from pipelines.runtime.training.checkpoint import committed

    return max(committed(output.store.at(CHECKPOINTS)), default=0)


def _foresee(output: Output, context: Context[Any]) -> str:
    wanted, done = context.config.train.steps, _done(output)
    if not done:
        return f"no output has this fingerprint; {wanted:,} steps are to be done"
    return f"would resume at step {done:,}; {max(wanted - done, 0):,} of {wanted:,} steps are to be done"


def _train(
    stage: TrainingStage[Any],
    context: Context[Any],
    config: Pipeline,
    output: Output,
    inputs: dict[str, str],
    lease: Lease,
    started: float,
    log: Log,
) -> str:
    """Train, commit the model, log; returns what was done in a few words."""
    settings = context.config.train
    material = stage.build(context, log)
    before = _done(output)
    job = _job(stage, context, config, output, material)
    output.state.delete(["stopped.json"] if output.state.exists("stopped.json") else [])
    # From here on the model may be replaced at any moment.
    output.store.delete(["_SUCCESS"] if output.store.exists("_SUCCESS") else [])
    if before:
        log(f"{stage.name}: resuming at step {before:,}")
    with StageRun(stage, config, context, output, int(sum(material.train.sizes))) as tracked:
        tracked.tags({"steps": str(settings.steps), "workers": str(context.config.workers)})
        bar = StepProgress(stage.name, settings.steps, log)
        try:
            outcome = train(job, tracked, lease, bar, log)
            digest = _commit(stage, context, output, inputs, outcome.step, material)
        except (UserError, Interrupted) as error:
            if not lease.lost.is_set():
                output.state.put("stopped.json", json.dumps({"reason": str(error), "time": time.time()}).encode())
            raise
        finally:
            bar.close()
        names = sorted(name for name in output.store.names(MODEL) if not PurePosixPath(name).name.startswith("."))
        tracked.model(f"{config.tracking.experiment}-{stage.name}", outcome.step, digest, names)
        output.succeed(started, steps=outcome.step, model=digest)
    made = outcome.step - before
    return f"{made:,} step{'' if made == 1 else 's'} done" + (f", {before:,} before" if before else "")


def _job(
    stage: TrainingStage[Any], context: Context[Any], config: Pipeline, output: Output, material: TrainInputs
) -> TrainJob:
    from pipelines.runtime.training.loop import TrainWork

    section, start = context.config, context.models.get("init_from")
    work = TrainWork(
        task=material.task,
        train=material.train,
        settings=section.train,
        folder=join(output.url, CHECKPOINTS),
        model_folder=join(output.url, MODEL),
        held_out=material.held_out,
        initial=None if start is None else start.url,
        at_least=min(recorded_commits(output), default=0),
    )
    return TrainJob(stage.name, work, section, output, config.root, stage.shared_paths(context), config.cluster)


def _commit(
    stage: TrainingStage[Any],
    context: Context[Any],
    output: Output,
    inputs: dict[str, str],
    step: int,
    material: TrainInputs,
) -> str:
    """Describe the exported model in manifest.json; returns its digest."""
    digest = hub.digest(local_copy(join(output.url, MODEL), FILES))
    manifest = {
        "format": FORMAT,
        "stage": stage.name,
        "fingerprint": output.fingerprint,
        "version": stage.version,
        "config": identity(context.config),
        "inputs": inputs,
        "models": {name: model.digest for name, model in context.models.items()},
        "steps": step,
        "model": {"path": MODEL, "digest": digest},
        "rows": 0,
        "objects": int(sum(material.train.sizes)),
        "failures": 0,
        "shards": [],
    }
    output.store.put("manifest.json", json.dumps(manifest, indent=1, ensure_ascii=False).encode())
    return digest


def _report(stage: TrainingStage[Any], output: Output, state: str, why: str, started: float) -> StageReport:
    objects = int((output.manifest() or {}).get("objects", 0))
    seconds, run_id = time.time() - started, output.run_id()
    report = StageReport(stage.name, output.fingerprint, state, why, output.url, 0, objects, 0, seconds, run_id=run_id)
    return replace(report, steps=trained_steps(output))
