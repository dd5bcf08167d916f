"""How a model is trained, whatever the model."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from sar3d.errors import UserError
from sar3d.training.schedule import ScheduleSettings

Precision = Literal["fp32", "bf16"]
ZeroStage = Literal[0, 1, 2, 3]

_FORBID: dict[str, str] = {"extra": "forbid"}
# Fields that change how fast or how closely watched a run is, never what comes out of it.
_WATCH: dict[str, bool] = {"identity": False}


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW. Learning rate and weight decay belong to the task's parameter groups."""

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID

    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the first and second moment, where a group does not name its own."""
    eps: float = 1e-8
    """Added to the root of the second moment."""
    clip: float | None = 1.0
    """Largest norm of the main model's whole gradient; none to leave it as it is."""


@dataclass(frozen=True)
class GuardSettings:
    """When a training counts as diverged. Nothing here changes what comes out of one that does not."""

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID

    multiple: float | None = 20.0
    """Stop where the median of the newest `recent` steps exceeds this many times the median of the `window` steps before
    them; none to go on whatever happens."""
    recent: int = 20
    """Steps between two looks, and steps that must agree: a single bad batch stops nothing."""
    window: int = 200
    """Steps that the newest ones are compared with. A run that begins or goes on is watched once it has so many."""

    def __post_init__(self) -> None:
        if self.multiple is not None and self.multiple <= 1:
            raise UserError(f"guard.multiple={self.multiple} would stop every training: give more than 1, or null")
        for name in ("recent", "window"):
            if getattr(self, name) < 1:
                raise UserError(f"guard.{name}={getattr(self, name)} compares nothing: it must be at least 1")


@dataclass(frozen=True)
class TrainSettings:
    """One training run."""

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID

    steps: int = field(default=1000, metadata=_WATCH)
    """Optimizer steps in all; raising it continues a finished run."""
    batch: int = 8
    """Samples of one step over all workers."""
    micro_batch: int | None = field(default=None, metadata=_WATCH)
    """Samples of one forward pass; by default all that a worker has of a batch. Less takes less memory."""
    seed: int = 0
    """Fixes the weights at the start, the order of the data and every random choice."""
    precision: Precision = "fp32"
    """`bf16` computes the forward pass in autocast; parameters, gradients, moments and losses stay fp32."""
    zero: ZeroStage = field(default=0, metadata=_WATCH)
    """DeepSpeed ZeRO: 1 spreads the optimizer's moments over the workers, 2 the gradients too."""
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    ema: float | None = 0.999
    """Decay of the moving average of the weights, lower during the first steps; none for no average."""
    export: Literal["ema", "raw"] = "ema"
    """Which weights become the final model and are evaluated; the checkpoints hold both."""
    lanes: int | None = None
    """Streams that the data are read in, a divisor of the batch; by default the greatest up to 64."""
    window: int | None = None
    """Row groups that a lane shuffles among; by default 2."""
    prefetch: int = field(default=2, metadata=_WATCH)
    """Steps whose samples are read and collated ahead."""
    data_threads: int = field(default=1, metadata=_WATCH)
    """Threads that collate on each worker."""
    guard: GuardSettings = field(default_factory=GuardSettings, metadata=_WATCH)
    """When a training counts as diverged and stops, its last good checkpoint kept."""
    log_every: int = field(default=10, metadata=_WATCH)
    """Steps between logged metrics."""
    checkpoint_every: int = field(default=500, metadata=_WATCH)
    """Steps between checkpoints; there is always one at the end."""
    keep_checkpoints: int = field(default=2, metadata=_WATCH)
    """Checkpoints that are kept; older ones go once a newer one is committed."""
    evaluate_every: int = field(default=0, metadata=_WATCH)
    """Steps between evaluations on held-out data; 0 for one at the end."""
    draw_every: int = field(default=0, metadata=_WATCH)
    """Steps between pictures; 0 for some at the end."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "log_every", "checkpoint_every", "keep_checkpoints", "prefetch", "data_threads"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} cannot be trained with: it must be at least 1")


def local_batch(settings: TrainSettings, world: int) -> tuple[int, int]:
    """Micro-batches per step and samples in each, of one of `world` workers.

    Raises:
        UserError: the batch does not divide evenly.
    """
    if settings.batch % world:
        raise UserError(
            f"a batch of {settings.batch} cannot be shared evenly by {world} workers: change batch or the number of "
            "workers so that one divides the other"
        )
    local = settings.batch // world
    micro = local if settings.micro_batch is None else min(settings.micro_batch, local)
    if local % micro:
        raise UserError(
            f"a micro_batch of {micro} does not divide the {local} samples that each of {world} workers has of a batch "
            f"of {settings.batch}: change micro_batch"
        )
    return local // micro, micro
