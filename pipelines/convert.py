"""`sar3d convert`: a published SAR3D checkpoint to a model's folder."""

import argparse
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

from sar3d.ar.config import ARConfig
from sar3d.conditions.kinds import ConditionKind
from sar3d.errors import UserError
from sar3d.vqvae.config import VQVAEConfig


def convert(path: str, out: str, log: Callable[[str], None], **options: Any) -> int:
    """Convert the checkpoint at `path` into the folder `out` and say what was inferred; returns the exit code.

    Args:
        options: of `sar3d.hub.convert_published`; None for those that were not given.

    Raises:
        UserError: the checkpoint cannot be read safely or converted, or `out` holds another model. Nothing is written.
    """
    from sar3d.hub import convert_published, save_pretrained

    _check_target(Path(out))
    model = convert_published(path, **options)
    with Path(path).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    save_pretrained(model, out, extra={_ORIGIN: Path(path).name, "sha256": digest})
    kind, sizes, taken = _described(model)
    log(f"{path}: a published {kind} of {sum(p.numel() for p in model.parameters()):,} parameters")
    log(sizes)
    if guessed := [f"{flag} {value}" for flag, value in taken.items() if options.get(_option(flag)) is None]:
        log(f"taken for granted, since tensor shapes do not tell it: {' '.join(guessed)}")
    log(f"saved in {out}")
    return 0


def _option(flag: str) -> str:
    return flag.removeprefix("--").replace("-", "_")


_ORIGIN = "converted_from"


def _check_target(out: Path) -> None:
    """A folder may hold an earlier conversion, which is replaced, but no other model."""
    from sar3d.hub import describe

    if (out / "config.json").exists() and _ORIGIN not in describe(out).get("extra", {}):
        raise UserError(f"{out} holds a model that was not converted: choose another folder for --out")


def _described(model: Any) -> tuple[str, str, dict[str, Any]]:
    """What the model is, its sizes, and what tensor shapes do not tell, by option."""
    config: VQVAEConfig | ARConfig = model.config
    if isinstance(config, ARConfig):
        sizes = (
            f"{config.depth} blocks × {config.width}, {config.heads} heads, {config.codebook_size} codes of {config.code_dim}, "
            f"{config.tokens} tokens at scales {list(config.scales)}, conditions of {config.context_dim} channels"
        )
        return "transformer", sizes, {"--condition": config.condition}
    encoder, quantizer, decoder = config.encoder, config.quantizer, config.decoder
    sizes = (
        f"{encoder.views} views of {config.resolution}², encoder {encoder.channels} × {list(encoder.multipliers)}, "
        f"{quantizer.codebook_size} codes of {quantizer.code_dim}, {config.tokens} tokens at scales {list(quantizer.scales)}, "
        f"decoder of {decoder.depth} blocks × {decoder.width}, triplane 3 × {decoder.plane_channels} × "
        f"{config.plane_side}²"
    )
    kind = "VQVAE with FlexiCubes" if hasattr(model, "heads") else "VQVAE"
    return kind, sizes, {"--decoder-heads": decoder.heads, "--encoder-heads": encoder.attention_heads}


def add_command(commands: Any) -> None:
    """Add `convert` to the subparsers of the command line."""
    about = "convert a published SAR3D checkpoint into a model's folder"
    sub = commands.add_parser("convert", help=about, description=f"{about[0].upper()}{about[1:]}.")
    sub.add_argument("published", metavar="PUBLISHED", help="a .pt, .pth or .safetensors file")
    sub.add_argument("--out", required=True, metavar="DIR", help="the folder to write")
    sub.add_argument("--decoder-heads", type=_positive, metavar="N", help="attention heads of the decoder")
    sub.add_argument("--encoder-heads", type=_positive, metavar="N", help="heads of the encoder's cross-view attention")
    sub.add_argument("--condition", choices=get_args(ConditionKind), help="what a transformer is conditioned on")
    sub.add_argument("--scales", type=_scales, metavar="N,N,…", help="sides of the token maps, if not the published")
    sub.set_defaults(call=_call)


def _call(parsed: argparse.Namespace) -> int:
    from pipelines.runtime.progress import log

    names = ("decoder_heads", "encoder_heads", "condition", "scales")
    return convert(parsed.published, parsed.out, log, **{name: getattr(parsed, name) for name in names})


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number


def _scales(text: str) -> tuple[int, ...]:
    try:
        return tuple(_positive(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text} is no list of numbers such as 1,2,4,8") from error
