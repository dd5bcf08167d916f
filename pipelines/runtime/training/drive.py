"""Run one training stage: find the inputs, train, commit the model, report. Running it again resumes or continues."""

import json
import time
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from pipelines.exported import local_copy
from pipelines.runtime.engine import Options, point, prepare
from pipelines.runtime.fingerprint import fingerprint, identity
from pipelines.runtime.interrupt import Interrupted, interruptible
from pipelines.runtime.lease import Lease
from pipelines.runtime.output import FORMAT, Output
from pipelines.runtime.progress import StepProgress
from pipelines.runtime.stage import Context, Say, StageReport
from pipelines.runtime.store import Store, is_remote, join
from pipelines.runtime.tracking import StageRun, replay
from pipelines.runtime.training.launch import Job, recorded_commits, train
from pipelines.runtime.training.stage import Material, TrainingStage
from sar3d.errors import UserError

CHECKPOINTS = "checkpoints"
MODEL = "model"


def run_training(stage: TrainingStage[Any], config: Any, options: Options, say: Say) -> StageReport:
    """Bring a training stage's output for this configuration up to date.

    Raises `UserError` for everything that a person can mend, `Interrupted` after SIGTERM or SIGINT; either way the next
    call goes on from the last committed checkpoint.
    """
    started = time.time()
    context = prepare(stage, config, say)
    upstream = {name: output.content() for name, output in context.inputs.items()}
    origin = _origin(stage, context)
    full = fingerprint(stage.name, stage.version, stage.identity(context), origin, upstream)
    output = Output(config.root, stage.name, full)
    if stage.finished(output, context.config):
        point(stage, config, full, options)
        replay(config, output, stage.name)
        return _report(stage, output, "reused", _enough(output, context), started)
    if options.dry_run:
        return _report(stage, output, "planned", _foresee(output, context), started)
    point(stage, config, full, options)
    with Lease(output.state, f"{stage.name} {full}", options.wait, say) as lease, interruptible():
        if stage.finished(output, context.config):  # whoever held the lease before us
            return _report(stage, output, "reused", "another submission finished it", started)
        why = _train(stage, context, output, {**upstream, "init_from": origin}, lease, started, say)
        return _report(stage, output, "done", why, started)


def _origin(stage: TrainingStage[Any], context: Context[Any]) -> str:
    """Digest of the model that training starts from; empty for a random one."""
    where = context.config.init_from
    return stage.digest(local_copy(_model_url(stage, where))) if where else ""


def _model_url(stage: TrainingStage[Any], where: str) -> str:
    """A model's folder; of a training stage's output, the model in it. Raises `UserError` if there is none."""
    for url in (where, join(where, MODEL)):
        if Store(url).exists("config.json"):
            return url
    raise UserError(f"there is no model at {where}: set {stage.name}.init_from to the folder of a finished one")


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
    output: Output,
    inputs: dict[str, str],
    lease: Lease,
    started: float,
    say: Say,
) -> str:
    """Train, commit the model, log; returns what was done in a few words."""
    config, settings = context.everything, context.config.train
    material = stage.build(context, say)
    before = _done(output)
    job = _job(stage, context, output, material)
    output.state.delete(["stopped.json"] if output.state.exists("stopped.json") else [])
    # From here on the model may be replaced at any moment.
    output.store.delete(["_SUCCESS"] if output.store.exists("_SUCCESS") else [])
    if before:
        say(f"{stage.name}: resuming at step {before:,}")
    with StageRun(stage, config, context, output, int(sum(material.train.sizes))) as tracked:
        tracked.tags({"steps": str(settings.steps), "workers": str(context.config.workers)})
        bar = StepProgress(stage.name, settings.steps, say)
        try:
            outcome = train(job, tracked, lease, bar, say)
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


def _job(stage: TrainingStage[Any], context: Context[Any], output: Output, material: Material) -> Job:
    from pipelines.runtime.training.loop import Work

    section, config = context.config, context.everything
    work = Work(
        task=material.task,
        train=material.train,
        settings=section.train,
        folder=join(output.url, CHECKPOINTS),
        model_folder=join(output.url, MODEL),
        held_out=material.held_out,
        initial=_model_url(stage, section.init_from) if section.init_from else None,
        at_least=min(recorded_commits(output), default=0),
    )
    places = list(stage.places(context))
    if work.initial is not None and not is_remote(work.initial):
        places.append(work.initial)
    return Job(stage.name, work, section, output, config.root, places, config.cluster)


def _commit(
    stage: TrainingStage[Any],
    context: Context[Any],
    output: Output,
    inputs: dict[str, str],
    step: int,
    material: Material,
) -> str:
    """Describe the exported model in manifest.json; returns its digest."""
    digest = stage.digest(local_copy(join(output.url, MODEL)))
    manifest = {
        "format": FORMAT,
        "stage": stage.name,
        "fingerprint": output.fingerprint,
        "version": stage.version,
        "config": identity(context.config),
        "inputs": inputs,
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
