"""`sar3d convert`: a published SAR3D checkpoint to a model's folder."""

import argparse
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sar3d.errors import UserError


def convert(
    path: str,
    out: str,
    say: Callable[[str], None],
    *,
    decoder_heads: int | None = None,
    encoder_heads: int | None = None,
    scales: tuple[int, ...] | None = None,
) -> int:
    """Convert the checkpoint at `path` into the folder `out` and say what was inferred; returns the exit code.

    Raises:
        UserError: the checkpoint cannot be read safely or converted, or `out` holds another model. Nothing is written.
    """
    from sar3d.hub import convert_published, save_pretrained

    _check_target(Path(out))
    model = convert_published(path, decoder_heads=decoder_heads, encoder_heads=encoder_heads, scales=scales)
    with Path(path).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    save_pretrained(model, out, extra={_ORIGIN: Path(path).name, "sha256": digest})
    parameters = sum(p.numel() for p in model.parameters())
    say(f"{path}: a published VQVAE of {parameters:,} parameters")
    say(_sizes(model))
    guessed = [
        f"{option} {heads}"
        for option, heads, given in (
            ("--decoder-heads", model.config.decoder.heads, decoder_heads),
            ("--encoder-heads", model.config.encoder.attention_heads, encoder_heads),
        )
        if given is None
    ]
    if guessed:
        say(f"taken for granted, since tensor shapes do not tell it: {' '.join(guessed)}")
    say(f"saved in {out}")
    return 0


_ORIGIN = "converted_from"


def _check_target(out: Path) -> None:
    """A folder may hold an earlier conversion, which is replaced, but no other model."""
    from sar3d.hub import describe

    if (out / "config.json").exists() and _ORIGIN not in describe(out).get("extra", {}):
        raise UserError(f"{out} holds a model that was not converted: choose another folder for --out")


def _sizes(model: Any) -> str:
    config = model.config
    encoder, quantizer, decoder = config.encoder, config.quantizer, config.decoder
    return (
        f"{encoder.views} views of {config.resolution}², encoder {encoder.channels} × {list(encoder.multipliers)}, "
        f"{quantizer.codes} codes of {quantizer.dim}, {config.tokens} tokens at scales {list(quantizer.scales)}, "
        f"decoder of {decoder.depth} blocks × {decoder.width}, triplane 3 × {decoder.plane_channels} × "
        f"{config.plane_side}²"
    )


def add_command(commands: Any) -> None:
    """Add `convert` to the subparsers of the command line."""
    about = "convert a published SAR3D checkpoint into a model's folder"
    sub = commands.add_parser("convert", help=about, description=f"{about[0].upper()}{about[1:]}.")
    sub.add_argument("published", metavar="PUBLISHED", help="a .pt, .pth or .safetensors file")
    sub.add_argument("--out", required=True, metavar="DIR", help="the folder to write")
    sub.add_argument("--decoder-heads", type=_positive, metavar="N", help="attention heads of the decoder")
    sub.add_argument("--encoder-heads", type=_positive, metavar="N", help="heads of the encoder's cross-view attention")
    sub.add_argument("--scales", type=_scales, metavar="N,N,…", help="sides of the token maps, if not the published")
    sub.set_defaults(call=_call)


def _call(parsed: argparse.Namespace) -> int:
    from pipelines.runtime.progress import say

    return convert(
        parsed.published,
        parsed.out,
        say,
        decoder_heads=parsed.decoder_heads,
        encoder_heads=parsed.encoder_heads,
        scales=parsed.scales,
    )


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
