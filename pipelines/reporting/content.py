"""What a report shows, as plain values. Nothing in it is safe to be put into HTML unescaped."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class PageLimits:
    """How much a page may hold. What is left out is counted on the page, with where it lies."""

    objects: int = 24
    """Generated objects that turn in a viewer."""
    object_bytes: int = 64 << 20
    """Bytes of all their models together."""
    shown: int = 12
    """Objects of the dataset that are shown with their captions."""
    failures: int = 200
    """Failures of each stage that are listed; all are counted by kind."""
    pictures: int = 8
    """Pictures of each output."""
    side: int = 2400
    """Pixels; larger pictures are made smaller."""


@dataclass(frozen=True)
class PageImage:
    """One embedded picture."""

    title: str
    source: str
    """A data URI."""
    width: int
    height: int
    """Pixels, as embedded."""


@dataclass(frozen=True)
class Table:
    """Rows of text under titles."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    left_out: int = 0
    """Rows that are not shown."""


@dataclass(frozen=True)
class Chart:
    """A metric against the steps."""

    name: str
    points: Sequence[tuple[int, float]]
    """(step, value), finite, ascending, at least two."""


@dataclass(frozen=True)
class RunSummary:
    """What MLflow has of one output."""

    name: str
    run_id: str
    url: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    charts: Sequence[Chart] = ()


@dataclass(frozen=True)
class Failed:
    """The failures of one output."""

    kinds: Sequence[tuple[str, int]]
    """How many there are of each kind, most first."""
    rows: Sequence[Mapping[str, object]]
    """Of failures.parquet."""
    left_out: int
    where: str


@dataclass(frozen=True)
class StageSummary:
    """One output of a stage, or a stage that has none."""

    name: str
    about: str
    state: str
    """`done`, `running`, `stopped`, `interrupted`, `not run`."""
    fingerprint: str = ""
    objects: int = 0
    rows: int = 0
    failures: int = 0
    steps: int | None = None
    """Optimizer steps; None for a stage that trains nothing."""
    seconds: float | None = None
    finished: float | None = None
    """Seconds since the epoch."""
    reason: str = ""
    """Why it stopped."""
    url: str = ""
    earlier: int = 0
    """Other outputs of the stage under the root."""
    pictures: Sequence[PageImage] = ()
    pictures_left_out: int = 0
    tables: Sequence[Table] = ()
    failed: Failed | None = None
    run: RunSummary | None = None


@dataclass(frozen=True)
class Shown:
    """An object of the dataset."""

    name: str
    category: str
    captions: Sequence[str]
    picture: PageImage | None
    said: str = ""
    """What the stage `caption` says of it; empty where it has not finished."""


@dataclass(frozen=True)
class Made:
    """A generated object."""

    name: str
    prompt: str
    meant: str
    """Name of the dataset's object that it should look like; empty where there is none."""
    caption: str
    """What the captioner says of it; empty where nobody asked."""
    model: str
    """Its object.glb, gzipped, in base64."""
    bytes: int
    """Of the file itself."""
    pictures: Sequence[PageImage]
    settings: str
    """settings.json."""
    where: str
    decoder: str = ""
    """What made the mesh; empty where all are made alike."""


@dataclass(frozen=True)
class Gallery:
    """The generated objects of an output, or of one of each decoder."""

    stage: str
    objects: Sequence[Made]
    left_out: int
    """Rows that are not shown."""
    where: str


@dataclass(frozen=True)
class Report:
    """A whole page."""

    root: str
    written: float
    """Seconds since the epoch."""
    stages: Sequence[StageSummary]
    shown: Sequence[Shown]
    objects: int
    """In the dataset, those that are not shown among them."""
    gallery: Gallery | None
    config: str
    """YAML of the newest output; empty where there is none."""
    tracking: str
    """How the runs can be looked at, or why there are none."""
    notes: Sequence[str] = ()
    """What could not be read, a sentence each."""
