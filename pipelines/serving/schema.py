"""Requests and answers as clients see them, with examples for the documentation."""

from typing import Annotated, Any, Literal, cast

from fastapi import File, Form, UploadFile
from pydantic import BaseModel, Field

from pipelines.serving.problems import ServiceError
from sar3d.ar.decoding_config import DECODINGS, Decoding, decoding
from sar3d.errors import UserError
from sar3d.export.config import FORMATS, Format
from sar3d.vqvae.flexi_config import FieldDecoder

Preset = Literal["released", "preview", "evaluation", "timing", "wild", "greedy"]
assert set(Preset.__args__) == set(DECODINGS)  # type: ignore[attr-defined]


class ErrorBody(BaseModel):
    """Why there is no answer."""

    kind: str = Field(description="for programs", examples=["empty_text"])
    message: str = Field(description="for people", examples=["the text is empty: say what the object is"])


class ErrorAnswer(BaseModel):
    """Every answer but 2xx."""

    error: ErrorBody


class SampleAnswer(BaseModel):
    """One object."""

    id: str = Field(
        description="name of the result, for /v1/vary and for its files", examples=["Zk3v0cJx3mJmJ0bQf3yq2A"]
    )
    seed: int = Field(examples=[7])
    caption: str | None = Field(description="if it was asked for", examples=["a red apple"])
    files: dict[str, str] = Field(
        description="paths of files by format; tokens are always there",
        examples=[{"glb": "/v1/results/Zk3v0cJx3mJmJ0bQf3yq2A/object.glb"}],
    )
    problem: str | None = Field(description="why files that were asked for are missing", examples=[None])
    settings: dict[str, Any] = Field(description="prompt, decoding, digests of the models, versions", examples=[{}])


class GenerateAnswer(BaseModel):
    """The objects of a request."""

    samples: list[SampleAnswer]
    expires_seconds: float = Field(description="how long the files are kept", examples=[3600])


class CaptionAnswer(BaseModel):
    """An object in words."""

    caption: str = Field(examples=["a wooden chair with four legs"])
    id: str = Field(description="for /v1/vary", examples=["Zk3v0cJx3mJmJ0bQf3yq2A"])


class ModelsAnswer(BaseModel):
    """What can be asked for."""

    prompts: list[str] = Field(examples=[["text", "image"]])
    decoders: list[str] = Field(examples=[["nerf"]])
    captions: bool
    scales: list[int] = Field(description="tokens along a side of a plane, by scale", examples=[[1, 2, 3, 4, 6, 8]])
    objects: list[str] = Field(description="files that can be described and varied", examples=[[".glb", ".obj"]])
    formats: list[str]
    samples: int = Field(description="at most, of one request")
    upload_bytes: int


class Wish(BaseModel):
    """How samples are drawn, and what is made of them."""

    n: int
    seed: int
    decoding: Decoding
    formats: tuple[Format, ...]
    caption: bool
    decoder: FieldDecoder


def wish_of(
    n: Annotated[int, Form(ge=1, description="samples, with the seeds seed, seed + 1, …")] = 1,
    seed: Annotated[int, Form(ge=0, lt=2**63, description="the same seed gives the same object")] = 0,
    preset: Annotated[Preset, Form(description="how tokens are drawn")] = "released",
    guidance: Annotated[float | None, Form(ge=0, le=100, description="strength of the prompt; 0: none")] = None,
    top_k: Annotated[int | None, Form(ge=0, description="most probable tokens that are kept; 0: all")] = None,
    top_p: Annotated[float | None, Form(gt=0, le=1, description="of these, as many as have this probability")] = None,
    temperature: Annotated[float | None, Form(gt=0, le=100, description="divides the logits")] = None,
    formats: Annotated[
        str,
        Form(description=f"of {', '.join(FORMATS)}, with commas between; tokens: nothing else", examples=["glb,mp4"]),
    ] = "glb",
    caption: Annotated[bool, Form(description="describe what was made")] = False,
    decoder: Annotated[
        FieldDecoder, Form(description="nerf: a radiance field; flexicubes: a mesh, if there is such a model")
    ] = "nerf",
) -> Wish:
    """The fields that requests for samples share. Raises `ServiceError` 422."""
    changes = {"guidance": guidance, "top_k": top_k, "top_p": top_p, "temperature": temperature}
    wanted = tuple(dict.fromkeys(name.strip() for name in formats.split(",") if name.strip()))
    wanted = tuple(name for name in wanted if name != "tokens")  # they are always there
    unknown = [name for name in wanted if name not in FORMATS]
    if unknown:
        raise ServiceError(
            422, "bad_request", f"formats: there is no {unknown[0][:40]!r}; choose from {', '.join(FORMATS)}"
        )
    try:
        drawn = decoding(preset, **{name: value for name, value in changes.items() if value is not None})
    except UserError as error:
        raise ServiceError(422, "bad_request", str(error)) from error
    return Wish(
        n=n, seed=seed, decoding=drawn, formats=cast(tuple[Format, ...], wanted), caption=caption, decoder=decoder
    )


Text = Annotated[str | None, Form(description="what the object is", examples=["a red apple"])]
ImageFile = Annotated[UploadFile | None, File(description="a picture of one object: PNG, JPEG, WebP, …")]
KeepScales = Annotated[int, Form(ge=0, description="coarsest scales that are kept; 0: none, all: the object itself")]
ObjectFile = Annotated[UploadFile, File(description="a 3D file: .glb, .gltf, .obj, .ply or .stl, complete in itself")]
EarlierResult = Annotated[str | None, Form(description="name of an earlier result, in place of object")]
AskedWords = Annotated[str | None, Form(description="a question; by default what the object is")]

PROBLEMS: dict[int | str, dict[str, Any]] = {
    code: {"model": ErrorAnswer, "description": about}
    for code, about in {
        401: "the token is missing or wrong",
        413: "the file is too large",
        422: "the request, its text or its file cannot be used",
        503: "all places are taken, or a worker was lost: see Retry-After",
        504: "it took too long",
    }.items()
}
EXAMPLE_EVENTS = """event: scale
data: {"scale": 1, "scales": 6, "side": 1, "previews": ["data:image/webp;base64,UklGR…"]}

event: sample
data: {"id": "Zk3v0cJx3mJmJ0bQf3yq2A", "seed": 7, "caption": null, "files": {"glb": "/v1/results/…/object.glb"}, …}

event: done
data: {"expires_seconds": 3600.0}
"""
STREAMED: dict[int | str, dict[str, Any]] = {
    **PROBLEMS,
    200: {
        "description": "The objects; with `Accept: text/event-stream` as events: `scale` after every scale, `sample` for "
        "every object, then `done`, or `error` at any time",
        "content": {"text/event-stream": {"schema": {"type": "string"}, "example": EXAMPLE_EVENTS}},
    },
}
