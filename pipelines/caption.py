"""`sar3d caption`: 3D files described in words; and the stage `caption`: every object of the dataset, on a cluster."""

import argparse
import itertools
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import pyarrow as pa

from pipelines.caching.devices import Device, worker_gpus
from pipelines.caching.view_objects import read_objects, view_items
from pipelines.exported import Exported, exported, trained
from pipelines.runtime.output import Failure, Output
from pipelines.runtime.plan import Item
from pipelines.runtime.reading import read_rows
from pipelines.runtime.stage import Context, Row, Say, Stage, StageConfig
from pipelines.runtime.store import is_remote
from sar3d.errors import UserError
from sar3d.llm.config import CaptionDecoding
from sar3d.llm.prompt import CAPTION, check_question

if TYPE_CHECKING:
    from sar3d.llm.captioner import Captioner

SHOWN = 64
"""Captions in the artifact that people look at."""


@dataclass(frozen=True)
class CaptionConfig(StageConfig):
    """Which objects are described, by which model, and how."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    model: str = field(default="", metadata={"identity": "listing"})
    """Folder or URL of a captioner; default: what `train_llm` made of this configuration. Models count by their digests."""
    vqvae: str = field(default="", metadata={"identity": "listing"})
    """Folder or URL of the VQVAE that encodes files; default: what `train_vqvae` made."""
    question: str = CAPTION
    """What is asked of every object; by default the published instruction, which asks for a caption."""
    groups: Literal["first", "all"] = "first"
    """View groups of every object that are described."""
    decoding: CaptionDecoding = field(default_factory=CaptionDecoding)
    device: Device = field(default="auto", metadata={"identity": False})
    """`auto`: one GPU per worker where the cluster has any, else the CPU; `gpus` may ask for a fraction of one."""
    shard_objects: int = field(default=256, metadata={"identity": False})
    """Objects in one shard."""

    def __post_init__(self) -> None:
        check_question(self.question)


class CaptionStage(Stage[CaptionConfig]):
    name = "caption"
    version = 1
    stateful = True
    about = "describe 3D files, or every object of the dataset, with a trained captioner"

    def reads(self, section: CaptionConfig) -> tuple[str, ...]:
        return ("cache_tokens",) if section.model else ("cache_tokens", "train_llm")

    def check(self, context: Context[CaptionConfig]) -> None:
        from pipelines.captioning.models import made_for
        from pipelines.train_llm import local_folder
        from sar3d.data.rowgroups import ParquetFiles
        from sar3d.data.tokens import tokens_info

        files = ParquetFiles(context.inputs["cache_tokens"].files())
        wanted = made_for(local_folder(captioner_of(context).url, ("config.json", "model.safetensors")))
        found = tokens_info(files.schema(0), files.files[0]).vqvae
        if wanted and found != wanted:
            raise UserError(
                f"the captioner at {captioner_of(context).url} was trained on the codes of the VQVAE {wanted[:16]}, but "
                f"cache_tokens holds those of {found[:16]}: train a captioner on them, or name another one (caption.model)"
            )

    def identity(self, context: Context[CaptionConfig]) -> Any:
        return {"settings": super().identity(context), "captioner": captioner_of(context).digest}

    def items(self, context: Context[CaptionConfig], say: Say) -> Iterable[Item]:
        # Rows of tokens lie together by object, as those of views do.
        return ({**i, "captioner": captioner_of(context).digest} for i in view_items(context.inputs["cache_tokens"]))

    def schema(self, context: Context[CaptionConfig]) -> pa.Schema:
        text, number = pa.string(), pa.int16()
        return pa.schema([("uid", text), ("sha256", text), ("group", number), ("question", text), ("caption", text)])

    def places(self, context: Context[CaptionConfig]) -> list[str]:
        model = context.config.model
        return [model] if model and not is_remote(model) else []

    def gpus(self, config: CaptionConfig, available: float) -> float:
        return worker_gpus(config.device, config.gpus, available)

    def open(self, context: Context[CaptionConfig]) -> "Captioner":
        from pipelines.caching.devices import begin_worker
        from pipelines.train_llm import local_folder
        from sar3d.llm.captioner import Captioner

        device = begin_worker(context.config.gpus, context.config.cpus)
        return Captioner.from_pretrained(local_folder(captioner_of(context).url), device)

    def process(self, context: Context[CaptionConfig], items: list[Item]) -> Iterator[Row | Failure]:
        import torch

        config, captioner = context.config, context.state
        for _, table in read_objects(items, ("uid", "sha256", "group", "codes")):
            rows = table.to_pylist()[: 1 if config.groups == "first" else None]
            tokens = torch.tensor([row.pop("codes") for row in rows])
            said = captioner.caption(tokens, config.question, config.decoding)
            for row, text in zip(rows, said, strict=True):
                yield {**row, "question": config.question, "caption": text}

    def artifacts(self, context: Context[CaptionConfig], output: Output, say: Say) -> dict[str, bytes]:
        """The first captions, as `captions.json`."""
        rows = itertools.islice(read_rows(output, ["uid", "group", "caption"]), SHOWN)
        values = {"question": context.config.question, "captions": list(rows)}
        return {"captions.json": json.dumps(values, indent=1, ensure_ascii=False).encode()}

    def summary(self, context: Context[CaptionConfig], output: Output) -> dict[str, float]:
        said = [row["caption"] for row in read_rows(output, ["caption"])]
        return {"different_captions": float(len(set(said))), "empty_captions": float(said.count(""))}


def captioner_of(context: Context[CaptionConfig]) -> Exported:
    """The captioner that the settings mean. Raises `UserError` if there is none."""
    if context.config.model:
        return exported(context.config.model, "llm")
    return trained(context.inputs["train_llm"], "llm")


def add_command(commands: Any) -> None:
    """Add `caption` to the subparsers of the command line: files, or the stage."""
    from pipelines.cli import work_options

    sub = commands.add_parser(
        "caption",
        help=CaptionStage.about,
        description="Describe 3D files here and now: draw, encode, describe. Without --object: the stage, which describes "
        "every object of a configuration's dataset on a cluster.",
    )
    sub.add_argument(
        "--object",
        dest="objects",
        action="append",
        default=[],
        metavar="PATH",
        help="a 3D file, or a folder of them; a first word that is no key=value counts as one, too",
    )
    sub.add_argument(
        "--model",
        metavar="DIR",
        help="a captioner (with --vqvae), a folder with llm/ and vqvae/, or a "
        "pipeline's root such as runs/demo. Default: what --config trained",
    )
    sub.add_argument("--vqvae", metavar="DIR", default="", help="the VQVAE, if --model does not hold it")
    sub.add_argument("--question", default=CAPTION, help="what is asked (default: the published instruction)")
    sub.add_argument("--backend", default="auto", help="how objects are drawn: auto, moderngl, pyrender or raycast")
    sub.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: a GPU if there is one")
    sub.add_argument("--json", action="store_true", help="one JSON object per line")
    work_options(sub, required=False)
    sub.set_defaults(call=_call, stage=CaptionStage.name)


def _call(parsed: argparse.Namespace) -> int:
    files = [word for word in parsed.overrides if "=" not in word]
    parsed.overrides = [word for word in parsed.overrides if "=" in word]
    parsed.objects += files
    if parsed.objects:
        return caption_files(parsed)
    if parsed.config is None:
        raise UserError(
            "what is to be described? Give 3D files, or --config for the objects of a configuration's dataset"
        )
    from pipelines.cli import stage_command

    return stage_command(parsed)


def caption_files(parsed: argparse.Namespace) -> int:
    """Describe files and write a line for each; returns the exit code: 1 if some of them cannot be described.

    Raises:
        UserError: there is no model, or no file at all.
    """
    import torch

    from pipelines.captioning.files import objects_in, tokens_of_files
    from pipelines.captioning.models import models_in, models_of_config
    from pipelines.runtime.progress import say
    from sar3d import hub
    from sar3d.llm.captioner import Captioner
    from sar3d.vqvae.config import from_dict

    question, paths = check_question(parsed.question), objects_in(parsed.objects)
    if not paths:
        raise UserError(
            f"there is no 3D file in {', '.join(parsed.objects)}: give .glb, .gltf, .obj, .ply or .stl files"
        )
    if parsed.model is None and parsed.config is None:
        raise UserError("which model is to describe? Give --model with a folder, or --config with what it has trained")
    config = None if parsed.config is None else _load(parsed)
    models = models_in(parsed.model, parsed.vqvae) if parsed.model is not None else models_of_config(config)
    if models.vqvae is None:
        raise UserError(
            f"the VQVAE that {models.captioner} was trained with is not beside it: give its folder (--vqvae)"
        )
    gpus = float(parsed.device == "cuda" or (parsed.device == "auto" and torch.cuda.is_available()))
    captioner = Captioner.from_pretrained(models.captioner, "cuda" if gpus else "cpu")
    resolution = from_dict(hub.describe(models.vqvae)["config"]).resolution
    failed = 0
    rendering = _rendering(config, parsed.backend)
    for made in tokens_of_files(paths, models.vqvae, resolution, rendering, gpus, torch.get_num_threads()):
        if made.tokens is None:
            failed += 1
            say(f"error: {made.path}: {made.error}")
            continue
        (text,) = captioner.caption(torch.tensor([made.tokens]), question)
        line = json.dumps({"file": str(made.path), "caption": text}, ensure_ascii=False)
        sys.stdout.write((line if parsed.json else f"{made.path}: {text}") + "\n")
    return 1 if failed else 0


def _load(parsed: argparse.Namespace) -> Any:
    from pipelines.config import load

    return load(parsed.config, parsed.overrides)


def _rendering(config: Any, backend: str) -> Any:
    """How objects are drawn: as the configuration says, else by default."""
    from pipelines.render import RenderConfig
    from sar3d.render import pick_backend

    section: RenderConfig = RenderConfig() if config is None else config.render
    chosen = backend if backend != "auto" else section.backend
    return replace(section, backend=pick_backend(chosen))


if __name__ == "__main__":
    from pipelines.cli import stage_main

    stage_main("caption")
