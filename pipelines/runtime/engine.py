"""Run one data stage: list, plan, distribute with Ray, commit, report. Running it again resumes."""

import dataclasses
import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.runtime import cluster, progress
from pipelines.runtime.fingerprint import fingerprint, identity
from pipelines.runtime.inputs import Model, Rows, declared, producer
from pipelines.runtime.interrupt import Interrupted, interruptible
from pipelines.runtime.lease import Lease
from pipelines.runtime.models import Exported, check_tokens_of, exported, trained
from pipelines.runtime.output import Output, ShardRecord, main_reason, outputs
from pipelines.runtime.pipeline import Pipeline
from pipelines.runtime.plan import Coverage, Listing, Shard, reusable, shards
from pipelines.runtime.pool import ShardJob, worker_pool
from pipelines.runtime.stage import Context, Log, Stage, StageBase, StageReport
from pipelines.runtime.store import Store, join
from pipelines.runtime.tracking import StageRun, replay
from sar3d.errors import UserError

CEILING_AFTER = 100
"""Objects that must have been tried before `max_failure_rate` can stop a stage."""

_FEW = 8
"""Numbers of a summary that are said in one line; a stage with more says its own."""


@dataclass(frozen=True)
class Options:
    """How a command was called; nothing of it enters a fingerprint."""

    dry_run: bool = False
    wait: bool = False


DEFAULTS = Options()


def run_stage(stage: Stage[Any], config: Pipeline, options: Options = DEFAULTS, log: Log = progress.log) -> StageReport:
    """Bring a data stage's output for this configuration up to date.

    Raises `UserError` for everything that a person can mend, with what was done until then committed; `Interrupted`
    after SIGTERM or SIGINT.
    """
    started = time.time()
    context = prepare(stage, config, log)
    base = fingerprint(stage.name, stage.version, stage.identity(context))
    upstream = {n: o.content() for n, o in context.upstream().items()}
    listing = None if upstream else _listing(stage, context, log)
    full = fingerprint(base, context.config.retry, upstream or (listing.digest if listing else ""))
    output = Output(config.root, stage.name, full)
    try:
        success = output.finished()
        if success is not None:
            point(stage, config, full, options)
            replay(config, output, stage.name)
            return _report(stage, output, "reused", "finished before", started)
        listing = listing or _listing(stage, context, log)
        if options.dry_run:
            return _foresee(stage, output, listing, base, context, started)
        point(stage, config, full, options)
        with Lease(output.state, f"{stage.name} {full}", options.wait, log) as lease, interruptible():
            success = output.finished()  # whoever held the lease before us may have finished
            if success is not None:
                return _report(stage, output, "reused", "another submission finished it", started)
            work = StageWork(stage, context, config, output, listing, base, upstream, lease, log)
            return work.run(started)
    finally:
        if listing is not None:
            listing.close()


def _listing(stage: Stage[Any], context: Context[Any], log: Log) -> Listing:
    listing = Listing(stage.items(context, log))
    if not len(listing):
        listing.close()
        raise UserError(f"{stage.name} has nothing to do: its listing holds no object")
    return listing


def prepare(stage: StageBase[Any], config: Pipeline, log: Log) -> Context[Any]:
    """Find the declared inputs, settle `auto` settings, check what can be checked."""
    section = config.section(stage)
    made = {upstream.name: finished(upstream, config, stage.name) for upstream in config.depends_on(stage)}
    context = Context(
        config=_resolved(stage, section, config, log),
        rows={name: made[getattr(section, name)] for name, _ in declared(section, Rows)},
        models=_models(stage, config, made),
        files=join(config.root, stage.name, "files"),
    )
    stage.check(context)
    return context


def _models(stage: StageBase[Any], config: Pipeline, made: dict[str, Output]) -> dict[str, Exported]:
    """The models that the section's fields mean. Raises `UserError` where one takes the tokens of another VQVAE."""
    found: dict[str, Exported] = {}
    section = config.section(stage)
    for name, model in declared(section, Model):
        kind, source = model.kind or stage.writes, producer(section, name, model, config.registry)
        try:
            if source:
                found[name] = trained(made[source], kind)
            elif getattr(section, name):
                found[name] = exported(getattr(section, name), kind)
        except UserError as error:
            raise UserError(f"{stage.name}.{name} cannot be used: {error}") from error
    for name, ref in found.items():
        if "vqvae" in found:
            check_tokens_of(ref, found["vqvae"], name.replace("_", " "), f"{stage.name}.vqvae")
    return found


def model_of(config: Pipeline, stage: StageBase[Any], name: str) -> Exported:
    """The model that one field of a stage's section means. Raises `UserError` if it is missing or not finished."""
    section = config.section(stage)
    model = next(model for field, model in declared(section, Model) if field == name)
    kind, source = model.kind or stage.writes, producer(section, name, model, config.registry)
    if source:
        return trained(finished(config.registry[source], config, stage.name), kind)
    return exported(getattr(section, name), kind)


def _resolved(stage: StageBase[Any], section: Any, config: Pipeline, log: Log) -> Any:
    """Settle `auto` settings once per configuration and root, so that another machine resumes the same work."""
    store = Store(config.root).at(stage.name)
    name = f"_resolved/{fingerprint(identity(section))}.json"
    known = store.read(name)
    if known is not None:
        return dataclasses.replace(section, **json.loads(known))
    settled = stage.resolve(section, log)
    changed = {
        f.name: getattr(settled, f.name)
        for f in dataclasses.fields(section)
        if getattr(settled, f.name) != getattr(section, f.name)
    }
    if changed and not store.create(name, json.dumps(changed).encode()):
        return _resolved(stage, section, config, log)
    return settled


def pointer(stage: StageBase[Any], config: Pipeline) -> str:
    """The file that says which output of a stage is the current one of a configuration."""
    parts = [
        identity(config.section(stage), listing=True),
        *[pointer(upstream, config) for upstream in config.depends_on(stage)],
    ]
    return f"_current/{fingerprint(*parts)}.json"


def current(stage: StageBase[Any], config: Pipeline) -> Output | None:
    """The output that this configuration last worked on, finished or not."""
    data = Store(config.root).at(stage.name).read(pointer(stage, config))
    return Output(config.root, stage.name, json.loads(data)["fingerprint"]) if data is not None else None


def point(stage: StageBase[Any], config: Pipeline, full: str, options: Options) -> None:
    store, name = Store(config.root).at(stage.name), pointer(stage, config)
    body = json.dumps({"fingerprint": full}).encode()
    if not options.dry_run and store.read(name) != body:
        store.put(name, body)


def is_finished(stage: StageBase[Any], config: Pipeline) -> Output | None:
    """The stage's output if it is all that this configuration asks for, else None."""
    output = current(stage, config)
    return output if output is not None and stage.finished(output, config.section(stage)) else None


def finished(stage: StageBase[Any], config: Pipeline, reader: str) -> Output:
    """The finished output of a stage. Raises `UserError` if there is none, naming the stage that wants it."""
    output = is_finished(stage, config)
    if output is None:
        state = "has not been run" if current(stage, config) is None else "has not finished"
        raise UserError(
            f"{reader} reads the output of {stage.name}, which {state} for this configuration under "
            f"{config.root}: run `sar3d {stage.name}` with the same configuration first"
        )
    return output


def _foresee(
    stage: Stage[Any], output: Output, listing: Listing, base: str, context: Context[Any], started: float
) -> StageReport:
    coverage = Coverage(listing)
    reused = 0
    if output.state.exists("plan.json"):
        done = [r for r in output.records().values() if coverage.take(r)]
        why = f"would resume: {len(done)} shards are committed"
    else:
        for origin, again in _earlier(output, base, context.config.retry):
            reused += sum(1 for _ in reusable(coverage, origin, again))
        why = "would refer to earlier shards" if reused else "no output has this fingerprint"
    todo = int((~coverage.mask).sum())
    size = context.config.shard_objects
    why += f"; {todo:,} of {len(listing):,} objects in {-(-todo // size):,} shards are to be done"
    seconds = time.time() - started
    return StageReport(
        stage.name, output.fingerprint, "planned", why, output.url, 0, len(listing), 0, seconds, 0, reused
    )


def _earlier(output: Output, base: str, retry: int) -> list[tuple[Output, bool]]:
    """Outputs of the same stage and configuration over other listings, largest first, and whether to retry theirs."""
    found = []
    for other in outputs(output.root, output.stage):
        data = other.state.read("identity.json") if other.fingerprint != output.fingerprint else None
        about = json.loads(data) if data else {}
        if about.get("base") == base and about["retry"] <= retry:
            found.append(
                (-about["retry"], -len(other.record_names()), other.fingerprint, other, about["retry"] < retry)
            )
    return [(other, again) for *_, other, again in sorted(found, key=lambda f: f[:3])]


def _report(stage: Stage[Any], output: Output, state: str, why: str, started: float, **more: int) -> StageReport:
    manifest = output.manifest() or {}
    counts = (manifest.get("rows", 0), manifest.get("objects", 0), manifest.get("failures", 0))
    seconds = time.time() - started
    return StageReport(
        stage.name, output.fingerprint, state, why, output.url, *counts, seconds, **more, run_id=output.run_id()
    )


class StageWork:
    """The part of a run that holds the lease."""

    def __init__(
        self,
        stage: Stage[Any],
        context: Context[Any],
        config: Pipeline,
        output: Output,
        listing: Listing,
        base: str,
        upstream: dict[str, str],
        lease: Lease,
        log: Log,
    ) -> None:
        self.stage, self.context, self.config, self.output = stage, context, config, output
        self.listing, self.base, self.upstream, self.lease, self.log = listing, base, upstream, lease, log
        self.coverage = Coverage(listing)
        self.records: dict[str, ShardRecord] = {}
        self.counts = np.zeros(3, np.int64)
        """Objects, failed ones, rows, of all records."""

    def run(self, started: float) -> StageReport:
        plan = self._plan()
        known = len(self.records)
        with StageRun(self.stage, self.config, self.context, self.output, len(self.listing)) as tracked:
            self.tracked = tracked
            self.bar = progress.Progress(self.stage.name, len(self.listing), self.log)
            self.bar.update(*map(int, self.counts))
            try:
                self._distribute(plan)
                manifest = self.output.finish(self._ordered(), self._description())
                self._check_any_left(manifest)
            except (UserError, Interrupted) as error:
                self._stopped(error)
                raise
            finally:
                self.bar.close()
            objects, failed, rows = self.counts.tolist()
            tracked.progress(objects, failed, rows, self.bar.rate, final=True)
            self._keep_artifacts(tracked)
            self.output.succeed(started)
        shards_run = len(self.records) - known
        how = {"shards_run": shards_run, "shards_reused": known}
        why = f"{shards_run} shards done, {known} reused" if known else f"{shards_run} shards done"
        return _report(self.stage, self.output, "done", why, started, **how)

    def _plan(self) -> Iterable[Shard]:
        """Settle which earlier shards are referred to and what size new ones have; the first submission decides."""
        state = self.output.state
        state.delete(["stopped.json"] if state.exists("stopped.json") else [])
        self.output.recover()
        data = state.read("plan.json")
        if data is None:
            adopted = []
            for origin, again in _earlier(self.output, self.base, self.context.config.retry):
                for record in reusable(self.coverage, origin, again):
                    self.output.adopt(origin, record)
                    adopted.append(record.shard)
            plan = {"shard_objects": self.context.config.shard_objects, "adopted": adopted}
            state.put("identity.json", json.dumps({"base": self.base, "retry": self.context.config.retry}).encode())
            state.put("plan.json", json.dumps(plan).encode())
            self.records = self.output.records()
        else:
            plan = json.loads(data)
            self.records = self.output.records()
            adopted = plan["adopted"]
            for name in adopted:
                self.coverage.take(self.records[name])
        for record in self.records.values():
            self.counts += (record.items, len(record.failures), record.rows)
        if self.records:
            self.log(
                f"{self.stage.name}: {len(self.records)} shards are committed already, {len(adopted)} by earlier runs"
            )
        prefix = f"part-{self.output.fingerprint[:8]}"
        planned = shards(self.listing, self.coverage.mask, plan["shard_objects"], prefix)
        return (s for s in planned if s.name not in self.records)

    def _distribute(self, plan: Iterable[Shard]) -> None:
        """Hand shards to a pool of workers, a bounded number ahead of what it can do; take in what they commit."""
        pending = iter(plan)
        shard = next(pending, None)
        if shard is None:
            return
        ray = cluster.connect(self.config.cluster, self.log)
        with cluster.watched(ray, self.config.cluster):
            self._distribute_on(ray, shard, pending)

    def _distribute_on(self, ray: Any, shard: Shard | None, pending: Iterator[Shard]) -> None:
        settings = self.context.config
        settings = dataclasses.replace(settings, gpus=self.stage.gpus(settings, cluster.gpus(ray)))
        cluster.await_room(ray, settings.cpus, settings.gpus, self.config.cluster.patience, self.log)
        room = cluster.RoomMonitor(ray, self.stage.name, (settings.cpus, settings.gpus), self.config.cluster, self.log)
        marker = cluster.mark(self.config.root, self.stage.shared_paths(self.context))
        try:
            cluster.check_nodes(ray, marker)
            context = dataclasses.replace(self.context, config=settings)
            with worker_pool(ray, ShardJob(self.stage, context, self.output, marker)) as workers:
                while shard is not None or workers.unfinished():
                    while shard is not None and workers.room() > 0:
                        workers.give(shard)
                        shard = next(pending, None)
                    for record in workers.collect():
                        room.over()
                        self._take(record)
                    room.look()
                    if self.lease.lost.is_set():
                        raise UserError(f"another submission took over {self.stage.name} {self.output.fingerprint}")
        finally:
            cluster.unmark(marker)

    def _take(self, record: ShardRecord) -> None:
        self.records[record.shard] = record
        self.counts += (record.items, len(record.failures), record.rows)
        objects, failed, rows = self.counts.tolist()
        self.bar.update(objects, failed, rows)
        self.tracked.progress(objects, failed, rows, rate=self.bar.rate)
        ceiling = self.config.max_failure_rate
        if objects >= CEILING_AFTER and failed > ceiling * objects:
            raise UserError(
                f"{self.stage.name} stopped: {failed} of {objects} objects failed, more than max_failure_rate={ceiling:g}, "
                f"{main_reason(self.records.values())}; see {self.output.url}/failures.parquet, then raise "
                f"max_failure_rate, or mend the cause and run again with {self.stage.name}.retry={self.context.config.retry + 1}"
            )

    def _ordered(self) -> list[ShardRecord]:
        return [self.records[name] for name in sorted(self.records)]

    def _description(self) -> dict[str, Any]:
        return {
            "version": self.stage.version,
            "config": identity(self.context.config),
            "inputs": self.upstream or {"listing": self.listing.digest},
            "models": {name: model.digest for name, model in self.context.models.items()},
            "schema": self.stage.schema(self.context).to_string(show_field_metadata=False),
        }

    def _check_any_left(self, manifest: dict[str, Any]) -> None:
        if manifest["failures"] == manifest["objects"] and self.config.max_failure_rate < 1:
            raise UserError(
                f"{self.stage.name} stopped: every one of its {manifest['objects']} objects failed, "
                f"{main_reason(self.records.values())}; see {self.output.url}/failures.parquet, mend the cause and "
                f"run again with {self.stage.name}.retry={self.context.config.retry + 1}"
            )

    def _stopped(self, error: BaseException) -> None:
        """Leave the failures and the reason where a person looks for them."""
        if self.lease.lost.is_set():
            return  # the output is another submission's now
        try:
            self.output.finish(self._ordered(), {**self._description(), "complete": False})
            self.output.state.put("stopped.json", json.dumps({"reason": str(error), "time": time.time()}).encode())
        except (UserError, OSError) as second:
            self.log(f"{self.stage.name}: the failures could not be written either: {second}")

    def _keep_artifacts(self, tracked: StageRun) -> None:
        for name, data in self.stage.artifacts(self.context, self.output, self.log).items():
            tracked.artifact(name, data)
        summary = self.stage.summary(self.context, self.output)
        tracked.metrics(summary)
        if 0 < len(summary) <= _FEW:
            self.log(f"{self.stage.name}: " + ", ".join(f"{v:,g} {k.replace('_', ' ')}" for k, v in summary.items()))
        for metric, judged in self.stage.assessments(self.context, self.output).items():
            tracked.assessments(metric, judged)
        tracked.failures(self.output.failures())
