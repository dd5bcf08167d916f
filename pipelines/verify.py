"""`sar3d verify`: make a random sample of the cached tokens and conditions again, and compare."""

import argparse
import dataclasses
import hashlib
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import fsspec
import numpy as np

from pipelines.cache_conditions import CacheConditionsStage
from pipelines.cache_tokens import CacheTokensStage
from pipelines.runtime.engine import current, prepare
from pipelines.runtime.output import Failure, Output
from pipelines.runtime.plan import Item
from pipelines.runtime.reading import rows_of
from pipelines.runtime.stage import Context, Log, Row, Stage
from sar3d.errors import UserError

T = TypeVar("T")
Key = tuple[Any, ...]


@dataclass(frozen=True)
class Tolerance:
    """From when on two results count as the same."""

    agree: float = 1.0
    """Share of equal codes; 1 on the kind of machine that made the cache, a little less on another."""
    cosine: float = 0.999
    """Cosine of the features of each condition."""


@dataclass(frozen=True)
class Check:
    """One kind of cache: how its rows are told apart, and how two of them are compared."""

    stage: Stage[Any]
    key: Callable[[Row], Key]
    similarity: Callable[[Row, Row], float]
    mean: bool
    """Whether the mean over the sample counts, or the least similar row."""
    bound: Callable[[Tolerance], float]
    what: str


def _equal_codes(made: Row, cached: Row) -> float:
    a, b = np.asarray(made["codes"]), np.asarray(cached["codes"])
    return float((a == b).mean()) if a.shape == b.shape else 0.0


def _cosine(made: Row, cached: Row) -> float:
    """The smaller one of the tokens' and the pooled vector's."""
    if made["encoder"] != cached["encoder"] or list(made["tokens_shape"]) != list(cached["tokens_shape"]):
        return 0.0
    found = []
    for name in ("tokens", "pooled"):
        a, b = (np.frombuffer(row[name], "<f2").astype(np.float64) for row in (made, cached))
        norm = float(np.linalg.norm(a) * np.linalg.norm(b))
        found.append(float(a @ b) / norm if norm else float(np.array_equal(a, b)))
    return min(found)


CHECKS = (
    Check(
        CacheTokensStage(),
        lambda row: (row["uid"], row["group"]),
        _equal_codes,
        True,
        lambda tolerance: tolerance.agree,
        "codes equal",
    ),
    Check(
        CacheConditionsStage(),
        lambda row: (row["uid"], row["kind"], row["group"], row["view_id"], row["caption_id"]),
        _cosine,
        False,
        lambda tolerance: tolerance.cosine,
        "cosine at least",
    ),
)


def verify(config: Any, sample: int, seed: int, tolerance: Tolerance, log: Log) -> int:
    """Check every finished cache of a configuration; returns the exit code: 0 if all agrees, else 1.

    The digests of all shards are compared with the manifest; then `sample` items, chosen by `seed`, are made again on
    this machine from the same views and captions.

    Raises:
        UserError: there is no finished cache, or its inputs or models are missing.
    """
    outputs = [(check, output) for check in CHECKS if (output := _finished(check.stage, config)) is not None]
    if not outputs:
        raise UserError(
            f"there is nothing to verify under {config.root}: run `sar3d cache_tokens` or `sar3d cache_conditions` "
            "with the same configuration first"
        )
    code = 0
    for check, output in outputs:
        problem = damaged(output) or _differs(check, output, config, random.Random(seed), sample, tolerance, log)
        if problem:
            code = 1
            log(f"error: {check.stage.name}: {problem}; delete {output.url} and run `sar3d {check.stage.name}` again")
    return code


def _finished(stage: Stage[Any], config: Any) -> Output | None:
    output = current(stage, config)
    return output if output is not None and output.finished() is not None else None


def damaged(output: Output) -> str | None:
    """Which shard of a finished output is not what the manifest says, or None."""
    for shard in (output.manifest() or {})["shards"]:
        digest = hashlib.sha256()
        try:
            with fsspec.open(output.store.address(shard["path"]), "rb") as file:
                while block := file.read(1 << 22):
                    digest.update(block)
        except FileNotFoundError:
            return f"its shard {shard['path']} is missing"
        if digest.hexdigest() != shard["sha256"]:
            return f"its shard {shard['path']} has changed since it was committed"
    return None


def _differs(
    check: Check, output: Output, config: Any, chance: random.Random, sample: int, tolerance: Tolerance, log: Log
) -> str | None:
    """How a sample that is made again differs from the cached rows, or None."""
    stage = check.stage
    context = prepare(stage, config, log)
    failed = {failure["uid"] for failure in output.failures()}
    listed = (item for item in stage.items(context, log) if item["uid"] not in failed)
    items = sample_of(listed, sample, chance)
    made = {check.key(row): row for row in _again(stage, context, items)}
    if not made:
        return "every object of it failed"
    cached = {check.key(row): row for row in rows_of(output, {row["uid"] for row in made.values()})}
    lacking = sorted(made.keys() - cached.keys(), key=str)
    if lacking:
        return f"{len(lacking)} of {len(made)} rows that it should hold are not there, {lacking[0]} for one"
    shares = {key: check.similarity(row, cached[key]) for key, row in made.items()}
    worst = min(shares, key=lambda key: shares[key])
    found = sum(shares.values()) / len(shares) if check.mean else shares[worst]
    log(f"{stage.name}: {len(items)} items sampled, {len(made)} rows made again, {check.what} {found:.6g}")
    if found < check.bound(tolerance):
        return f"the cache does not agree with its inputs: {check.what} {found:.6g}, least for {worst} ({shares[worst]:.6g})"
    return None


def _again(stage: Stage[Any], context: Context[Any], items: list[Item]) -> Iterable[Row]:
    import torch

    settings = context.config
    settings = dataclasses.replace(settings, gpus=stage.gpus(settings, torch.cuda.device_count()))
    context = dataclasses.replace(context, config=settings)
    context = dataclasses.replace(context, state=stage.open(context))
    for row in stage.process(context, items):
        if isinstance(row, Failure):
            raise UserError(f"{stage.name} cached {row.uid}, which cannot be made again: {row.reason}")
        yield row


def sample_of(items: Iterable[T], count: int, chance: random.Random) -> list[T]:
    """`count` of the items at random, or all if they are fewer, in their order; memory holds no more."""
    kept: list[tuple[int, T]] = []
    for i, item in enumerate(items):
        if len(kept) < count:
            kept.append((i, item))
        elif (place := chance.randrange(i + 1)) < count:
            kept[place] = (i, item)
    return [item for _, item in sorted(kept, key=lambda entry: entry[0])]


def add_command(commands: Any) -> None:
    """Add `verify` to the subparsers of the command line."""
    about = "make a random sample of the cached tokens and conditions again and compare; check the shards' digests"
    sub = commands.add_parser("verify", help=about, description=f"{about[0].upper()}{about[1:]}.")
    sub.add_argument("--config", required=True, metavar="FILE", help="a YAML file, see configs/")
    sub.add_argument("--sample", type=int, default=64, metavar="N", help="objects of each cache (default 64)")
    sub.add_argument("--seed", type=int, default=0, metavar="N", help="which ones (default 0)")
    sub.add_argument("--agree", type=float, default=1.0, metavar="SHARE", help="share of codes that must be equal")
    sub.add_argument("--cosine", type=float, default=0.999, metavar="X", help="least cosine of a condition's features")
    sub.add_argument("overrides", nargs="*", metavar="key=value", help="override a setting")
    sub.set_defaults(call=_call)


def _call(parsed: argparse.Namespace) -> int:
    from pipelines.registry import load
    from pipelines.runtime.progress import log

    if parsed.sample < 1:
        raise UserError(f"--sample {parsed.sample} is wrong: it is a number of objects from 1 on")
    config = load(parsed.config, parsed.overrides)
    return verify(config, parsed.sample, parsed.seed, Tolerance(parsed.agree, parsed.cosine), log)
