"""`sar3d gc`: what no current output refers to."""

from collections.abc import Iterator

from pipelines.registry import STAGES
from pipelines.runtime.engine import current
from pipelines.runtime.inputs import Model, declared
from pipelines.runtime.lease import is_held
from pipelines.runtime.output import Output, outputs
from pipelines.runtime.pipeline import Pipeline
from pipelines.runtime.progress import log
from sar3d.errors import UserError


def collect(configs: list[Pipeline], delete: bool) -> int:
    """List the files under the configurations' common root that none of their current outputs needs; then delete them.

    Kept: each configuration's current output of every stage, finished or not, the shards that it refers to in other
    outputs, outputs whose model a configuration names, and whatever a running submission holds.
    """
    roots = {config.root for config in configs}
    if len(roots) != 1:
        raise UserError(
            f"the configurations have different roots ({', '.join(sorted(roots))}); clean one root at a time"
        )
    root = roots.pop()
    total = 0
    count = 0
    for name, stage in STAGES.items():
        kept = {o.fingerprint for config in configs if (o := current(stage, config)) is not None}
        if not kept and any(outputs(root, name)):
            log(f"{name}: left alone, no given configuration has run it here")
            continue
        kept |= {o.fingerprint for config in configs for o in outputs(root, name) if _is_named(config, o)}
        for output in outputs(root, name):
            names = list(_unneeded(output, kept, _referred(root, name, kept)))
            if not names:
                continue
            size = sum(output.store.size(n) for n in names)
            total, count = total + size, count + len(names)
            log(f"{name} {output.fingerprint}: {len(names)} files, {size / 1e6:,.1f} MB")
            if delete:
                # _SUCCESS goes first: what is half deleted must not look finished.
                output.store.delete([n for n in names if n == "_SUCCESS"])
                output.store.delete([n for n in names if n != "_SUCCESS"])
                if output.fingerprint not in kept:
                    output.store.prune()
    verb = "deleted" if delete else "would be deleted; add --delete to do it"
    log(f"{count} files, {total / 1e6:,.1f} MB {verb}")
    return 0


def _is_named(config: Pipeline, output: Output) -> bool:
    """Whether a configuration has a model of this output in one of its settings."""
    sections = [config.section(stage) for stage in STAGES.values()]
    places = [getattr(section, name) for section in sections for name, _ in declared(section, Model)]
    return any(place == output.url or place.startswith(f"{output.url}/") for place in places)


def _referred(root: str, stage: str, kept: set[str]) -> set[str]:
    """Shards in other outputs that the kept ones refer to, as `<fingerprint>/<file>`."""
    found = set()
    for fingerprint in kept:
        records = Output(root, stage, fingerprint).records().values()
        found |= {r.path.removeprefix("../") for r in records if r.path.startswith("../")}
    return found


def _unneeded(output: Output, kept: set[str], referred: set[str]) -> Iterator[str]:
    if is_held(output.state):
        return
    if output.fingerprint not in kept:
        yield from (n for n in output.store.names() if f"{output.fingerprint}/{n}" not in referred)
        return
    # Of a kept output, only data that lost the race for its record.
    named = {r.path for r in output.records().values()}
    if output.finished() is not None:
        shards = (n for n in output.store.names() if n.endswith(".parquet") and "/" not in n and n.startswith("part-"))
        yield from (n for n in shards if n not in named)
        yield from output.store.names("_state/attempts")
