"""From a sentence or a picture to a 3D object: the models of a folder, loaded, and what they make."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sar3d import hub
from sar3d.ar.decoding_config import Decoding
from sar3d.ar.decoding_config import decoding as named_decoding
from sar3d.ar.sampling import Decoder, Generated, Precision
from sar3d.ar.transformer import ARTransformer
from sar3d.conditions import ConditionEncoder, load_encoder
from sar3d.conditions.condition import Condition
from sar3d.conditions.kinds import CONDITION_KINDS, ConditionKind
from sar3d.errors import ObjectError, UserError
from sar3d.generate.folders import PUBLISHED_ENCODERS, Folders, find_folders
from sar3d.generate.prompts import Prompt, check_seed, check_text
from sar3d.generate.sample import Sample, versions
from sar3d.llm.prompt import CAPTION
from sar3d.pictures import PUBLISHED, Preparation, load_picture, prepare_picture
from sar3d.vqvae.config import PLANES

if TYPE_CHECKING:
    from sar3d.generate.captioner import Captioner

_BATCH = {"cpu": 4, "cuda": 16}

AnyPicture = str | Path | Image.Image | NDArray[np.uint8]


@dataclass(frozen=True)
class Generator:
    """One loaded transformer, and the encoder of its prompts."""

    model: ARTransformer
    digest: str
    encoder: ConditionEncoder
    empty: Condition
    """B = 1: no prompt, for guidance."""


class Sar3D:
    """A VQVAE, its generators and its captioner: `Sar3D.from_pretrained(…).generate(text="a red apple")[0].save("apple")`.

    The VQVAE is loaded at once, a generator with its encoder when the first prompt of its kind comes; both are kept.
    """

    def __init__(self, folders: Folders, device: str | torch.device, weights: dict[ConditionKind, str]) -> None:
        self.folders = folders
        self.device = torch.device(device)
        self.vqvae_digest = hub.digest(folders.vqvae)
        self.vqvae = hub.from_pretrained(folders.vqvae, self.device, kind="vqvae").requires_grad_(False)
        self._weights = weights
        self._generators: dict[ConditionKind, Generator] = {}
        self._decoders: dict[tuple[str, Precision, bool], Decoder] = {}
        self._captioner: Captioner | None = None
        for kind in self.kinds:
            self._check(kind)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path | None = None,
        *,
        vqvae: str | Path | None = None,
        text: str | Path | None = None,
        image: str | Path | None = None,
        captioner: str | Path | None = None,
        device: str = "auto",
        text_weights: str = "",
        image_weights: str = "",
    ) -> "Sar3D":
        """Load the models of a place. Every place is a folder, a URL that fsspec reads (`s3://…`), or `owner/name` of the
        Hugging Face hub; what is not on this machine is fetched.

        Args:
            path: a bundle with `vqvae/`, `ar_text/` or `ar_image/` or both, and perhaps `llm/`; a pipeline's root, of which
                the newest models that belong together are taken; or one generator's folder, with `vqvae` beside.
            vqvae: the VQVAE, if it is elsewhere.
            text: the generator for texts, if it is elsewhere.
            image: the generator for pictures, if it is elsewhere.
            captioner: what describes objects, if it is elsewhere.
            device: `cpu`, `cuda`, `cuda:1` …; `auto`: a GPU if there is one.
            text_weights: folder, or repository of the Hugging Face hub, with the text encoder's weights; by default
                the place they were trained with.
            image_weights: the same for pictures.

        Raises:
            UserError: models are missing, cannot be fetched or do not belong together, or there is no such device.
        """
        folders = find_folders(path, vqvae=vqvae, text=text, image=image, captioner=captioner)
        return cls(folders, pick_device(device), {"text": text_weights, "image": image_weights})

    @property
    def kinds(self) -> tuple[ConditionKind, ...]:
        """Kinds of prompts that there is a generator for."""
        return tuple(kind for kind in CONDITION_KINDS if self.folders.generators.get(kind) is not None)

    def generate(
        self,
        *,
        text: str | None = None,
        image: AnyPicture | None = None,
        n: int = 1,
        seed: int = 0,
        decoding: Decoding | str = "released",
        preparation: Preparation = PUBLISHED,
        precision: Precision = "auto",
    ) -> list[Sample]:
        """`n` objects for one text or one picture, with the seeds `seed`, `seed` + 1, …

        Args:
            text: what the object is.
            image: a file, a Pillow image, or an array (H, W, 3) of bytes that shows one object.
            n: number of samples.
            seed: of the first; the same seed gives the same tokens.
            decoding: how tokens are drawn, or the name of one of `sar3d.ar.decoding_config.DECODINGS`.
            preparation: what is done to the picture.
            precision: `auto`, `fp32` or `bf16`.

        Raises:
            UserError: a prompt that cannot be used, in one sentence.
        """
        if n < 1:
            raise UserError(f"{n} samples cannot be generated: n is a number from 1 on")
        prompt = make_prompt(text, image, preparation)
        try:
            prompts = [replace(prompt, seed=check_seed(seed + i)) for i in range(n)]
        except ObjectError as error:
            raise UserError(error.reason) from error
        return list(self.sample(prompts, decoding, precision=precision))

    def sample(
        self,
        prompts: Sequence[Prompt],
        decoding: Decoding | str = "released",
        *,
        precision: Precision = "auto",
        batch: int | None = None,
        compile: bool = False,
    ) -> Iterator[Sample]:
        """One sample per prompt, in order; prompts are of one kind. A sample does not depend on the ones beside it.

        Args:
            prompts: checked ones, see `sar3d.generate.prompts` and `sar3d.pictures`.
            decoding: how tokens are drawn.
            precision: of the transformer.
            batch: prompts at once; by default 4 on a CPU, 16 on a GPU.
            compile: for many prompts on a GPU, see `sar3d.ar.decode.Decoder`.

        Raises:
            UserError: there is no generator for this kind of prompt, or it does not fit the VQVAE or the encoder.
        """
        settings = named_decoding(decoding) if isinstance(decoding, str) else decoding
        size = batch or _BATCH.get(self.device.type, 1)
        encoded: dict[str | int, Condition] = {}
        for start in range(0, len(prompts), size):
            chunk = prompts[start : start + size]
            generator = self.generator(chunk[0].kind)
            began = time.perf_counter()
            conditions = [self._condition(generator, prompt, encoded) for prompt in chunk]
            encoding = time.perf_counter() - began
            # What is compiled for one size is compiled anew for another.
            filling = size - len(chunk) if compile else 0
            seeds = [prompt.seed for prompt in chunk] + [chunk[-1].seed] * filling
            condition = Condition.cat([*conditions, *[conditions[-1]] * filling])
            decoder = self._decoder(chunk[0].kind, precision, compile)
            made = decoder.generate(condition, generator.empty, seeds, settings)
            total = time.perf_counter() - began
            seconds = {"encode": encoding / len(chunk), "tokens": (total - encoding) / len(chunk)}
            about = {
                "decoding": asdict(settings),
                "precision": str(decoder.dtype).removeprefix("torch."),
                **self._about(generator),
            }
            for i, prompt in enumerate(chunk):
                yield self._sample(made, i, {"prompt": prompt.describe(), "seed": prompt.seed, **about}, seconds)

    def caption(self, samples: "Sample | Sequence[Sample] | Tensor", question: str = CAPTION) -> list[str]:
        """What objects are, in words: one answer for each.

        Args:
            samples: what `generate` gave, or tokens (B, L) of this VQVAE.
            question: by default the published instruction, which asks for a caption.

        Raises:
            UserError: there is no captioner, or it reads the codes of another VQVAE.
        """
        if isinstance(samples, Sample):
            samples = [samples]
        tokens = samples if isinstance(samples, Tensor) else torch.stack([sample.tokens for sample in samples])
        return self.captioner().caption(tokens.to(self.device), question)

    def captioner(self) -> "Captioner":
        """What describes objects, loaded and checked; kept from then on. Raises `UserError` as `caption` does."""
        from sar3d.generate.captioner import Captioner

        if self._captioner is None:
            folder = self.folders.captioner
            if folder is None:
                raise UserError(f"there is no captioner in {self.folders.where}: give the folder of one (captioner)")
            made = Captioner.from_pretrained(folder, self.device)
            if made.vqvae and made.vqvae != self.vqvae_digest:
                raise UserError(
                    f"the captioner in {folder} was trained on the tokens of the VQVAE {made.vqvae[:16]}, but "
                    f"{self.folders.vqvae} holds {self.vqvae_digest[:16]}: give the VQVAE that it was trained with"
                )
            self._captioner = made
        return self._captioner

    def _about(self, generator: Generator) -> dict[str, Any]:
        return {
            "models": {"vqvae": self.vqvae_digest, "generator": generator.digest},
            "encoder": generator.encoder.id,
            "device": str(self.device),
            "versions": versions(),
        }

    @torch.no_grad()
    def _sample(self, made: Generated, i: int, settings: dict[str, Any], seconds: dict[str, float]) -> Sample:
        began = time.perf_counter()
        planes = self.vqvae.decode(made.f_hat[PLANES * i : PLANES * (i + 1)])
        seconds = {**seconds, "planes": time.perf_counter() - began}
        return Sample(
            tokens=made.tokens[i].cpu(),
            planes=planes,
            field=self.vqvae.field(planes),
            volume=self.vqvae.config.volume,
            settings={**settings, "seconds": seconds},
        )

    def _decoder(self, kind: ConditionKind, precision: Precision, compile: bool) -> Decoder:
        key = (kind, precision, compile)
        if key not in self._decoders:
            model = self.generator(kind).model
            self._decoders[key] = Decoder(model, self.vqvae.quantizer, precision=precision, compile=compile)
        return self._decoders[key]

    def generator(self, kind: ConditionKind) -> Generator:
        """The generator for one kind of prompt, loaded and checked; kept from then on. Raises `UserError`."""
        if kind not in self._generators:
            self._generators[kind] = self._load(kind)
        return self._generators[kind]

    def _condition(self, generator: Generator, prompt: Prompt, encoded: dict[str | int, Condition]) -> Condition:
        """B = 1. One prompt at a time: what an encoder makes of it must not depend on what else is asked."""
        content = prompt.content
        key = content if isinstance(content, str) else id(content)
        if key not in encoded:
            encoded.clear()  # only samples of one prompt, which follow each other, share their condition
            given = [content] if isinstance(content, str) else content.pixels[None]
            encoded[key] = generator.encoder.encode(given).float()
        return encoded[key]

    def _load(self, kind: ConditionKind) -> Generator:
        folder = self.folders.generators.get(kind)
        if folder is None:
            what = "texts" if kind == "text" else "pictures"
            raise UserError(f"there is no generator for {what} in {self.folders.where}: give a model that has one")
        encoder = self._encoder(kind, folder)
        model = hub.from_pretrained(folder, self.device, kind="ar").requires_grad_(False)
        return Generator(model, hub.digest(folder), encoder, encoder.empty().float())

    def _encoder(self, kind: ConditionKind, folder: Path) -> ConditionEncoder:
        """The encoder that the generator in `folder` was trained with."""
        described = hub.describe(folder)
        extra, config = described.get("extra") or {}, described["config"]
        name = extra.get("encoder") or PUBLISHED_ENCODERS[kind]
        weights = self._weights[kind] or extra.get("encoder_weights") or ""
        encoder = load_encoder(name, weights, self.device, f"{kind}_weights")
        trained = extra.get("encoder_id")
        if trained and encoder.id != trained:
            raise UserError(
                f"the generator in {folder} was trained with the encoder {trained}, but the weights here are {encoder.id}: "
                f"set {kind}_weights to the folder of the ones it was trained with"
            )
        widths = (encoder.shape[1], encoder.width)
        wanted = (config.get("context_dim"), config.get("pooled_dim"))
        if widths != wanted:
            raise UserError(
                f"the generator in {folder} takes conditions of {wanted[0]} and {wanted[1]} numbers, but {name} gives "
                f"{widths[0]} and {widths[1]}: set {kind}_weights to weights of the right size"
            )
        return encoder

    def _check(self, kind: ConditionKind) -> None:
        """Raise `UserError` unless a generator belongs to the VQVAE; nothing but its config.json is read."""
        folder = self.folders.generators[kind]
        described = hub.describe(folder)
        if described["kind"] != "ar":
            raise UserError(f"{folder} holds a model of kind {described['kind']}: give the folder of a generator (ar)")
        config, extra = described["config"], described.get("extra") or {}
        if config.get("condition") != kind:
            raise UserError(
                f"the generator in {folder} takes {config.get('condition')} conditions, not {kind}: give it as the other one"
            )
        made_for = extra.get("vqvae")
        if made_for and made_for != self.vqvae_digest:
            raise UserError(
                f"the generator in {folder} was trained on the tokens of the VQVAE {made_for[:16]}, but {self.folders.vqvae} "
                f"holds {self.vqvae_digest[:16]}: give the VQVAE that it was trained with"
            )
        quantizer = self.vqvae.config.quantizer
        ours = {
            "codebook_size": quantizer.codebook_size,
            "code_dim": quantizer.code_dim,
            "scales": list(quantizer.scales),
        }
        for name, value in ours.items():
            theirs = config.get(name)
            theirs = list(theirs) if isinstance(theirs, list | tuple) else theirs
            if theirs != value:
                raise UserError(
                    f"the generator in {folder} was made for a VQVAE with {name} {theirs}, but the one in "
                    f"{self.folders.vqvae} has {value}: give the VQVAE that it was trained with"
                )


def make_prompt(text: str | None, image: AnyPicture | None, preparation: Preparation = PUBLISHED) -> Prompt:
    """A text or a picture, checked and prepared. Raises `UserError` for both, none, or one that cannot be used."""
    if (text is None) == (image is None):
        raise UserError("give either a text or a picture to generate from")
    try:
        if text is not None:
            return Prompt(check_text(text))
        if isinstance(image, str | Path):
            return Prompt(load_picture(image, preparation), name=Path(image).name)
        assert image is not None
        return Prompt(prepare_picture(image, preparation))
    except ObjectError as error:
        named = isinstance(image, str | Path) and error.kind != "missing_file"
        raise UserError(f"{image}: {error.reason}" if named else error.reason) from error


def pick_device(name: str) -> torch.device:
    """A device by name; `auto`: a GPU if there is one. Raises `UserError` where there is no such device."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"there is no device {name!r} here: choose cpu, cuda or auto") from error
    return device
