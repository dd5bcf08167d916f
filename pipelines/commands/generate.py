"""`sar3d generate --text … | --image …`: a few objects for one prompt, here and now, without Ray."""

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pipelines.commands import stage_command, use_available_cpus, work_options
from pipelines.commands.models import configured_captioner, configured_generator
from pipelines.generate import GenerateStage
from pipelines.generating.prompts import name_of_prompt
from pipelines.runtime.pipeline import Pipeline
from pipelines.runtime.progress import WorkProgress, log
from sar3d.ar.decoding_config import DECODINGS, Decoding, decoding
from sar3d.conditions.kinds import ConditionKind
from sar3d.errors import ObjectError, UserError
from sar3d.export.config import FORMATS, ExportSettings, Format
from sar3d.generate.folders import Folders, find_captioner, find_folders
from sar3d.generate.prompts import check_seed
from sar3d.pictures import Preparation, background_remover
from sar3d.vqvae.flexi_config import FIELD_DECODERS, FieldDecoder

if TYPE_CHECKING:
    from sar3d.ar.sampling import Kept
    from sar3d.generate.models import Sar3D
    from sar3d.generate.sample import Sample

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
    _variation_options(sub.add_argument_group("variations of an object"))
    group = sub.add_argument_group("samples and models")
    _model_options(group)
    _sample_options(group)
    _decoding_options(sub.add_argument_group("decoding"))
    _export_options(sub.add_argument_group("files"))
    pictures = sub.add_argument_group("pictures")
    pictures.add_argument("--remove-background", action="store_true", help="needs pip install 'sar3d[background]'")
    pictures.add_argument("--recenter", action="store_true", help="crop to the object and put it into the middle")


def _variation_options(group: Any) -> None:
    group.add_argument(
        "--from",
        metavar="FILE",
        help="a 3D file, or the folder of a generated sample: keep its coarsest scales, redraw the finer ones for the prompt",
    )
    group.add_argument("--keep-scales", type=int, metavar="K", help="of these; 0: none, all: the object itself")


def _model_options(group: Any) -> None:
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
    group.add_argument(
        "--decoder", choices=FIELD_DECODERS, help="what tokens become: a radiance field, or a mesh (default nerf)"
    )
    group.add_argument(
        "--flexicubes",
        metavar="DIR",
        default="",
        help="the mesh decoder, bundle or root with one (default: as --model)",
    )
    group.add_argument("--text-weights", metavar="DIR", default="", help="the text encoder's weights, if elsewhere")
    group.add_argument("--image-weights", metavar="DIR", default="", help="the image encoder's weights, if elsewhere")


def _sample_options(group: Any) -> None:
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
    if note := prompt.note():
        log(f"note: {note}")
    began = time.monotonic()
    use_available_cpus()
    system = Sar3D(folders, device, {"text": parsed.text_weights, "image": parsed.image_weights})
    if parsed.caption:
        system.captioner()
    kept = None if getattr(parsed, "from") is None else _kept(parsed, system)
    name = parsed.text if kind == "text" else Path(parsed.image).stem
    prompts = [replace(prompt, seed=parsed.seed + i) for i in range(parsed.n)]
    saved = 0
    decoder: FieldDecoder = parsed.decoder or "nerf"
    samples = system.sample(prompts, settings, kept=kept, precision=parsed.precision, decoder=decoder)
    for prompt, sample in zip(prompts, samples, strict=True):
        place = Path(parsed.out, f"{name_of_prompt(name)}-{prompt.seed}")
        if parsed.caption:
            (words,) = system.caption(sample)
            sample = replace(sample, settings={**sample.settings, "caption": words})
            log(f"{place}: {words}")
        saved += _save(sample, place, export)
    log(f"{saved} of {parsed.n} objects in {time.monotonic() - began:.1f} s, in {Path(parsed.out).resolve()}")
    return 0 if saved == parsed.n else 1


def _save(sample: "Sample", place: Path, export: ExportSettings) -> bool:
    """Write the files of a sample; whether its surface could be exported."""
    try:
        saved = sample.save(place, export)
    except ObjectError as error:
        log(f"error: seed {sample.settings['seed']}: {error.reason}; its tokens are in {place}")
        return False
    parts = ", ".join(f"{part} {seconds:.1f}" for part, seconds in saved["seconds"].items() if seconds >= 0.05)
    log(f"{place}: {', '.join(saved['files'])} (seconds: {parts})")
    return True


def _kept(parsed: argparse.Namespace, system: "Sar3D") -> "Kept":
    """Tokens of the object that is varied, for each sample.

    Raises:
        UserError: there is no such object, or it cannot be drawn and encoded.
    """
    import torch

    from pipelines.caching.token_encoder import loaded_encoder
    from pipelines.captioning.files import KINDS, encoded_files, rendering
    from sar3d.ar.sampling import Kept
    from sar3d.generate.sample import load_tokens

    source = Path(getattr(parsed, "from"))
    if source.suffix.lower() in KINDS:
        encoder = loaded_encoder(system.vqvae, system.vqvae_digest)
        gpus = float(system.device.type == "cuda")
        (made,) = encoded_files([source], encoder, system.vqvae.config.resolution, rendering(None, "auto"), gpus)
        if made.tokens is None:
            raise UserError(f"{source}: {made.error}")
        tokens = torch.tensor(made.tokens)
    else:
        tokens = load_tokens(source, system.vqvae_digest)
    return Kept(tokens.expand(parsed.n, -1), [parsed.keep_scales] * parsed.n)


def _decoding(parsed: argparse.Namespace) -> Decoding:
    given = {name: getattr(parsed, name) for name in DECODING if getattr(parsed, name) is not None}
    return decoding(parsed.preset, **given)


def _export(parsed: argparse.Namespace) -> ExportSettings:
    given = {name: getattr(parsed, name) for name in EXPORT if getattr(parsed, name) is not None}
    if parsed.formats is not None:
        given["formats"] = cast(tuple[Format, ...], tuple(f.strip() for f in parsed.formats.split(",") if f.strip()))
    return ExportSettings(**given)


def _check_numbers(parsed: argparse.Namespace) -> None:
    if (getattr(parsed, "from") is None) != (parsed.keep_scales is None):
        raise UserError("--from and --keep-scales go together: an object, and how many of its scales are kept")
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
    if parsed.flexicubes and parsed.decoder != "flexicubes":
        raise UserError("--flexicubes names a mesh decoder, but --decoder flexicubes does not ask for it: add it")
    from pipelines.registry import load

    config: Pipeline | None = None
    if parsed.model is None:
        words = [f"generate.decoder={parsed.decoder or 'nerf'}"]
        words += [f"generate.flexicubes={parsed.flexicubes}"] if parsed.flexicubes else []
        config = load(parsed.config, [*parsed.overrides, *words])
        folders = configured_generator(config, kind)
    else:
        places = {"vqvae": parsed.vqvae or None, "flexicubes": parsed.flexicubes or None}
        folders = find_folders(parsed.model, **places, kind=kind)
    return replace(folders, captioner=_captioner(parsed, config) if parsed.caption else None)


def _captioner(parsed: argparse.Namespace, config: Pipeline | None) -> Path:
    if parsed.captioner or config is None:
        return find_captioner(parsed.captioner or parsed.model)[0]
    return configured_captioner(config)[0]


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
        with WorkProgress():
            return generate_once(parsed)
    if parsed.config is None:
        raise UserError(
            "what is to be generated? Give --text or --image, or --config for the prompts of a configuration's stage"
        )
    check_no_prompt(parsed)
    return stage_command(parsed)
