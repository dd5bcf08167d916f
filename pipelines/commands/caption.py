"""`sar3d caption`: describe 3D files, here and now; or the stage `caption`."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from pipelines.caption import CaptionStage
from pipelines.commands import stage_command, use_available_cpus, work_options
from pipelines.runtime.pipeline import Pipeline
from pipelines.runtime.progress import WorkProgress
from sar3d.errors import UserError
from sar3d.llm.prompt import CAPTION, check_question
from sar3d.working import working_on


def add_command(commands: Any) -> None:
    """Add `caption` to the subparsers of the command line: files, or the stage."""
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
        with WorkProgress():
            return caption_files(parsed)
    if parsed.config is None:
        raise UserError(
            "what is to be described? Give 3D files, or --config for the objects of a configuration's dataset"
        )
    return stage_command(parsed)


def caption_files(parsed: argparse.Namespace) -> int:
    """Describe files and write a line for each; returns the exit code: 1 if some of them cannot be described.

    Raises:
        UserError: there is no model, or no file at all.
    """
    import torch

    from pipelines.captioning.files import objects_in, rendering, tokens_of_files
    from pipelines.registry import load
    from pipelines.runtime.progress import log
    from sar3d import hub
    from sar3d.generate.captioner import Captioner
    from sar3d.vqvae.config import from_dict

    question, paths = check_question(parsed.question), objects_in(parsed.objects)
    if not paths:
        raise UserError(
            f"there is no 3D file in {', '.join(parsed.objects)}: give .glb, .gltf, .obj, .ply or .stl files"
        )
    config = None if parsed.config is None else load(parsed.config, parsed.overrides)
    folder, vqvae = _models(parsed, config)
    use_available_cpus()
    gpus = float(parsed.device == "cuda" or (parsed.device == "auto" and torch.cuda.is_available()))
    working_on(f"loading the captioner of {folder}")
    captioner = Captioner.from_pretrained(folder, "cuda" if gpus else "cpu")
    resolution = from_dict(hub.describe(vqvae)["config"]).resolution
    settings = rendering(config, parsed.backend)
    working_on(f"drawing and encoding {len(paths)} files")
    failed = 0
    for made in tokens_of_files(paths, vqvae, resolution, settings, gpus, torch.get_num_threads()):
        if made.tokens is None:
            failed += 1
            log(f"error: {made.path}: {made.error}")
            continue
        (text,) = captioner.caption(torch.tensor([made.tokens]), question)
        line = json.dumps({"file": str(made.path), "caption": text}, ensure_ascii=False)
        sys.stdout.write((line if parsed.json else f"{made.path}: {text}") + "\n")
    return 1 if failed else 0


def _models(parsed: argparse.Namespace, config: Pipeline | None) -> tuple[Path, Path]:
    """Folders of the captioner and of the VQVAE whose tokens it reads. Raises `UserError`."""
    from pipelines.commands.models import configured_captioner
    from sar3d.generate.folders import find_captioner

    if parsed.model is not None:
        captioner, vqvae = find_captioner(parsed.model, parsed.vqvae or None)
    elif config is not None:
        captioner, vqvae = configured_captioner(config)
    else:
        raise UserError("which model is to describe? Give --model with a folder, or --config with what it has trained")
    if vqvae is None:
        raise UserError(f"the VQVAE that {captioner} was trained with is not beside it: give its folder (--vqvae)")
    return captioner, vqvae
