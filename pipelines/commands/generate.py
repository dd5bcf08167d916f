"""`sar3d generate --text … | --image …`: a few objects for one prompt, here and now, without Ray."""

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from pipelines.commands import stage_command, work_options
from pipelines.generate import GenerateStage
from pipelines.generating.models import folders_of, folders_of_config
from pipelines.generating.prompts import name_of_prompt
from pipelines.runtime.progress import log
from sar3d.ar.decoding_config import DECODINGS, Decoding, decoding
from sar3d.conditions.kinds import ConditionKind
from sar3d.errors import ObjectError, UserError
from sar3d.export.config import FORMATS, ExportSettings, Format
from sar3d.generate.folders import Folders
from sar3d.generate.prompts import check_seed
from sar3d.pictures import Preparation, background_remover

_DEFAULT = ExportSettings()
EXPORT = ("grid", "faces", "texture", "level", "frames", "resolution")
DECODING = ("guidance", "top_k", "top_p", "temperature", "smooth")


def add_options(sub: argparse.ArgumentParser) -> None:
    """The options of one prompt."""
    asked = sub.add_argument_group("one prompt, on this machine").add_mutually_exclusive_group()
    asked.add_argument("--text", metavar="TEXT", help="what the object is, for example 'a red apple'")
    asked.add_argument(
        "--image", metavar="FILE", help="a picture of one object, best on a white or transparent background"
    )
    group = sub.add_argument_group("samples and models")
    group.add_argument(
        "--out", metavar="DIR", default="generated", help="where each sample gets a folder (default generated)"
    )
    group.add_argument(
        "--model",
        metavar="DIR",
        help="a folder with vqvae/, ar_text/, ar_image/; one generator (with --vqvae); or a pipeline's root such as "
        "runs/demo. Default: what --config trained",
    )
    group.add_argument("--vqvae", metavar="DIR", default="", help="the VQVAE, if --model does not hold it")
    group.add_argument("--text-weights", metavar="DIR", default="", help="the text encoder's weights, if elsewhere")
    group.add_argument("--image-weights", metavar="DIR", default="", help="the image encoder's weights, if elsewhere")
    group.add_argument(
        "--n", type=int, default=1, metavar="N", help="samples, with the seeds SEED, SEED + 1, … (default 1)"
    )
    group.add_argument(
        "--seed", type=int, default=0, metavar="SEED", help="the same seed gives the same object (default 0)"
    )
    group.add_argument("--device", default="auto", help="cpu, cuda or auto (default: a GPU if there is one)")
    group.add_argument("--caption", action="store_true", help="describe what was made, by the captioner of --captioner")
    group.add_argument(
        "--captioner",
        metavar="DIR",
        default="",
        help="a captioner, bundle or root with one (default: as the generator)",
    )
    _decoding_options(sub.add_argument_group("decoding"))
    _export_options(sub.add_argument_group("files"))
    pictures = sub.add_argument_group("pictures")
    pictures.add_argument("--remove-background", action="store_true", help="needs pip install 'sar3d[background]'")
    pictures.add_argument("--recenter", action="store_true", help="crop to the object and put it into the middle")


def check_no_prompt(parsed: argparse.Namespace) -> None:
    """Raise `UserError` for an option of one prompt where none is given: the stage has its settings in the configuration."""
    reference = argparse.ArgumentParser()
    add_options(reference)
    for name, default in vars(reference.parse_args([])).items():
        if getattr(parsed, name) != default:
            raise UserError(
                f"--{name.replace('_', '-')} goes with --text or --image: for the stage set generate.… in the configuration"
            )


def _decoding_options(group: Any) -> None:
    group.add_argument("--preset", default="released", help=f"one of {', '.join(DECODINGS)} (default released)")
    group.add_argument("--guidance", type=float, metavar="X", help="strength of the prompt; 0: none")
    group.add_argument("--top-k", type=int, metavar="N", help="most probable codes that are kept; 0: all")
    group.add_argument("--top-p", type=float, metavar="P", help="of these, as many as have this probability together")
    group.add_argument("--temperature", type=float, metavar="X", help="divides the logits")
    group.add_argument("--smooth", action="store_const", const=True, help="mix codes by a Gumbel-softmax")
    group.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto", help="of the transformer")


def _export_options(group: Any) -> None:
    group.add_argument(
        "--formats", metavar="F,F,…", help=f"of {', '.join(FORMATS)} (default {','.join(_DEFAULT.formats)})"
    )
    group.add_argument(
        "--grid", type=int, metavar="N", help=f"points of a side for the surface (default {_DEFAULT.grid})"
    )
    group.add_argument("--faces", type=int, metavar="N", help=f"triangles at most; 0: all (default {_DEFAULT.faces})")
    group.add_argument("--texture", type=int, metavar="N", help=f"side of the texture (default {_DEFAULT.texture})")
    group.add_argument("--level", type=float, metavar="X", help="density at the surface (default: by the silhouettes)")
    group.add_argument("--frames", type=int, metavar="N", help=f"pictures of the turntable (default {_DEFAULT.frames})")
    group.add_argument("--resolution", type=int, metavar="N", help=f"of these (default {_DEFAULT.resolution})")


def generate_once(parsed: argparse.Namespace) -> int:
    """Generate for one prompt and save; returns the exit code: 1 if some of the samples cannot be exported.

    Raises:
        UserError: what is asked for cannot be done; nothing has been computed by then.
    """
    kind: ConditionKind = "text" if parsed.text is not None else "image"
    settings, export = _decoding(parsed), _export(parsed)
    _check_numbers(parsed)
    if parsed.remove_background and kind == "image":
        background_remover()
    from sar3d.generate.models import Sar3D, make_prompt, pick_device

    device, folders = pick_device(parsed.device), _folders(parsed, kind)
    prompt = make_prompt(parsed.text, parsed.image, Preparation(parsed.remove_background, parsed.recenter))
    began = time.monotonic()
    system = Sar3D(folders, device, {"text": parsed.text_weights, "image": parsed.image_weights})
    if parsed.caption:
        system.captioner()
    name = parsed.text if kind == "text" else Path(parsed.image).stem
    prompts = [replace(prompt, seed=parsed.seed + i) for i in range(parsed.n)]
    failed = 0
    for prompt, sample in zip(prompts, system.sample(prompts, settings, precision=parsed.precision), strict=True):
        place = Path(parsed.out, f"{name_of_prompt(name)}-{prompt.seed}")
        if parsed.caption:
            (words,) = system.caption(sample)
            sample = replace(sample, settings={**sample.settings, "caption": words})
            log(f"{place}: {words}")
        try:
            saved = sample.save(place, export)
        except ObjectError as error:
            failed += 1
            log(f"error: seed {prompt.seed}: {error.reason}; its tokens are in {place}")
            continue
        took = saved["seconds"]
        parts = ", ".join(f"{part} {seconds:.1f}" for part, seconds in took.items() if seconds >= 0.05)
        log(f"{place}: {', '.join(saved['files'])} (seconds: {parts})")
    log(
        f"{parsed.n - failed} of {parsed.n} objects in {time.monotonic() - began:.1f} s, in {Path(parsed.out).resolve()}"
    )
    return 1 if failed else 0


def _decoding(parsed: argparse.Namespace) -> Decoding:
    given = {name: getattr(parsed, name) for name in DECODING if getattr(parsed, name) is not None}
    return decoding(parsed.preset, **given)


def _export(parsed: argparse.Namespace) -> ExportSettings:
    given = {name: getattr(parsed, name) for name in EXPORT if getattr(parsed, name) is not None}
    if parsed.formats is not None:
        given["formats"] = cast(tuple[Format, ...], tuple(f.strip() for f in parsed.formats.split(",") if f.strip()))
    return ExportSettings(**given)


def _check_numbers(parsed: argparse.Namespace) -> None:
    if parsed.n < 1:
        raise UserError(f"--n {parsed.n} is wrong: it is a number of samples from 1 on")
    try:
        check_seed(parsed.seed)
        check_seed(parsed.seed + parsed.n - 1)
    except ObjectError as error:
        raise UserError(error.reason) from error


def _folders(parsed: argparse.Namespace, kind: ConditionKind) -> Folders:
    if parsed.captioner and not parsed.caption:
        raise UserError("--captioner names who describes what was made, but --caption does not ask for it: add it")
    if parsed.model is None and parsed.config is None:
        raise UserError(
            "which model? Give --model with a folder of models or a pipeline's root, or --config with a configuration that "
            "has trained them"
        )
    from pipelines.registry import load

    config = None if parsed.model is not None else load(parsed.config, parsed.overrides)
    folders = folders_of(parsed.model, parsed.vqvae, kind) if config is None else folders_of_config(config, kind)
    return replace(folders, captioner=_captioner(parsed, config)) if parsed.caption else folders


def _captioner(parsed: argparse.Namespace, config: Any) -> Path:
    from pipelines.captioning.models import models_in, models_of_config

    if parsed.captioner or config is None:
        return models_in(parsed.captioner or parsed.model).captioner
    return models_of_config(config).captioner


def add_command(commands: Any) -> None:
    """Add `generate` to the subparsers of the command line: one prompt, or the stage."""
    sub = commands.add_parser(
        "generate",
        help=GenerateStage.about,
        description="Generate 3D objects. With --text or --image: for one prompt, on this machine. With --config alone: the "
        "stage, on a cluster, for a file of prompts or for objects of the dataset.",
    )
    add_options(sub)
    work_options(sub, required=False)
    sub.set_defaults(call=_call, stage=GenerateStage.name)


def _call(parsed: argparse.Namespace) -> int:
    if parsed.text is not None or parsed.image is not None:
        return generate_once(parsed)
    if parsed.config is None:
        raise UserError(
            "what is to be generated? Give --text or --image, or --config for the prompts of a configuration's stage"
        )
    check_no_prompt(parsed)
    return stage_command(parsed)
