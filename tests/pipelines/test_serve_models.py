"""What a replica computes: many requests at once, each as if it were alone; uploads of any kind."""

import asyncio
import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import generators
import pytest
from PIL import Image

from pipelines.serving.models import ModelService
from pipelines.serving.settings import ModelSettings
from pipelines.serving.work import Asked, Begun, Described, Event, Failed, Made, Question, Scale, Upload
from sar3d import Sar3D, hub
from sar3d.ar.decoding_config import Decoding, decoding
from sar3d.export.config import ExportSettings
from sar3d.procedural import build_glb, catalog

TOKENS_ALONE = Asked(text="a cup", formats=())


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelService]:
    bundle = generators.bundle()
    captioner = generators.captioner(tmp_path_factory.mktemp("captioner") / "llm", hub.digest(bundle / "vqvae"))
    system = Sar3D.from_pretrained(bundle, captioner=captioner, device="cpu")
    settings = ModelSettings(batch=8, preview=16, export=ExportSettings(**generators.EXPORT))
    service = ModelService(system, settings)
    yield service
    service.close()


async def events_of(service: ModelService, asked: Asked) -> list[Event]:
    return [event async for event in service.generate(asked)]


def made_of(service: ModelService, asked: Asked) -> Made:
    """The only sample of a request."""
    made = asyncio.run(events_of(service, asked))[-1]
    assert isinstance(made, Made), made
    return made


def equal_share(some: tuple[int, ...], others: tuple[int, ...]) -> float:
    """Of the tokens. Products of larger batches are rounded differently, so that a near tie may fall the other way."""
    return sum(a == b for a, b in zip(some, others, strict=True)) / len(some)


def failure(service: ModelService, **changes: Any) -> tuple[int, str]:
    """Status and kind of a request that cannot be met."""
    (failed,) = asyncio.run(events_of(service, replace(TOKENS_ALONE, **changes)))
    assert isinstance(failed, Failed)
    assert "\n" not in failed.message
    assert "/tmp" not in failed.message
    return failed.status, failed.kind


def test_requests_at_once_get_what_each_gets_alone(service: ModelService) -> None:
    loose = Decoding(top_k=20, top_p=1.0)
    kept = made_of(service, replace(TOKENS_ALONE, seed=9, decoding=loose)).tokens
    asked = [
        replace(TOKENS_ALONE, seed=1, decoding=loose, caption=True),
        replace(TOKENS_ALONE, text="a ship", seed=2, decoding=decoding("wild", top_p=1.0)),
        replace(TOKENS_ALONE, text="a ship", seed=3, n=2, decoding=replace(loose, guidance=0.0)),
        replace(TOKENS_ALONE, seed=4, decoding=decoding("greedy")),
        replace(TOKENS_ALONE, text="a chair", seed=5, decoding=loose, source=kept, keep_scales=3),
        replace(TOKENS_ALONE, text=None, seed=6, decoding=replace(loose, temperature=0.7)),
    ]

    async def together() -> list[list[Event]]:
        return await asyncio.gather(*[events_of(service, one) for one in asked])

    found, shares = asyncio.run(together()), list[float]()
    assert max(event.batch for events in found for event in events if isinstance(event, Begun)) > 1
    for one, events in zip(asked, found, strict=True):
        made = [event for event in events if isinstance(event, Made)]
        alone = [event for event in asyncio.run(events_of(service, one)) if isinstance(event, Made)]
        assert [m.seed for m in made] == [m.seed for m in alone] == [one.seed + i for i in range(one.n)]
        shares += [equal_share(m.tokens, a.tokens) for m, a in zip(made, alone, strict=True)]
        assert [m.caption for m in made] == [a.caption for a in alone]
    assert min(shares) > 0.98
    assert shares.count(1.0) >= len(shares) - 1, "a near tie may fall either way, but rarely"
    coarse = 3 * (1 + 4 + 9)
    varied = found[4][-1]
    assert isinstance(varied, Made)
    assert varied.tokens[:coarse] == kept[:coarse]
    assert varied.tokens != kept


def test_progress_and_files_of_one_request(service: ModelService) -> None:
    formats: Any = ("glb", "png")
    events = asyncio.run(events_of(service, Asked("a cup", formats=formats, previews=True, caption=True)))
    begun, *scales, made = events
    assert isinstance(begun, Begun)
    assert isinstance(made, Made)
    shown = [event for event in scales if isinstance(event, Scale)]
    assert [event.scale for event in shown] == list(range(1, len(service.scales) + 1))
    assert [event.side for event in shown] == list(service.scales)
    pictures = [Image.open(io.BytesIO(event.previews[0])) for event in shown]
    assert {(p.format, p.size) for p in pictures} == {("WEBP", (16, 16))}
    assert shown[0].previews != shown[-1].previews
    assert set(made.files) == {"object.glb", "sheet.png", "tokens.safetensors"}
    assert made.files["object.glb"][:4] == b"glTF"
    assert isinstance(made.caption, str)
    assert str(Path.cwd().anchor + "tmp") not in str(made.settings)


def test_all_scales_kept_give_the_object_back(service: ModelService) -> None:
    made = made_of(service, replace(TOKENS_ALONE, decoding=Decoding(top_k=20)))
    back = made_of(service, replace(TOKENS_ALONE, text="a ship", source=made.tokens, keep_scales=len(service.scales)))
    assert back.tokens == made.tokens


def test_an_uploaded_object_is_described_and_varied(service: ModelService) -> None:
    upload = Upload(build_glb(catalog(1)[0].uid), ".glb")
    described = asyncio.run(service.caption(Question(upload)))
    assert isinstance(described, Described)
    made = made_of(service, replace(TOKENS_ALONE, source=upload, keep_scales=2))
    assert made.tokens[:15] == described.tokens[:15]
    for data, kind, wanted in (
        (b"glTF and so on", ".glb", 422),
        (upload.data, ".exe", 422),
        (b"", ".obj", 422),
        (b"solid\n", ".stl", 422),
    ):
        failed = asyncio.run(service.caption(Question(Upload(data, kind))))
        assert isinstance(failed, Failed), kind
        assert failed.status == wanted
        assert "/" not in failed.message.replace("/nor", ""), failed.message


def png(width: int, height: int) -> bytes:
    """A picture that says it is this large, and holds next to nothing."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_what_cannot_be_met_is_typed(service: ModelService) -> None:
    assert failure(service, text="word " * 10_000) == (422, "text_too_long")
    assert failure(service, text=" \n") == (422, "empty_text")
    assert failure(service, seed=2**63 - 1, n=2) == (422, "bad_seed")
    assert failure(service, picture=b"x") == (422, "refused")
    for data, wanted in ((png(20_000, 20_000), (413, "picture_too_large")), (b"no picture", (422, "bad_picture"))):
        assert failure(service, text=None, picture=data) == wanted
    assert failure(service, source=(0,) * service.length, keep_scales=99) == (422, "refused")
    assert failure(service, source=(0, 1), keep_scales=1) == (422, "refused")
    assert failure(service, source=(10**6,) * service.length, keep_scales=1) == (422, "refused")


def test_a_request_that_is_given_up_leaves_the_others_alone(service: ModelService) -> None:
    async def steps() -> list[Event]:
        leaving = service.generate(replace(TOKENS_ALONE, seed=1))
        assert isinstance(await anext(leaving), Begun)
        await leaving.aclose()  # type: ignore[attr-defined]
        return await events_of(service, replace(TOKENS_ALONE, seed=2))

    made = asyncio.run(steps())[-1]
    assert isinstance(made, Made)
    assert made.tokens == made_of(service, replace(TOKENS_ALONE, seed=2)).tokens


def test_models_without_a_captioner_say_so() -> None:
    service = ModelService(Sar3D.from_pretrained(generators.bundle(), device="cpu"))
    try:
        assert failure(service, caption=True) == (422, "no_captioner")
        assert failure(service, decoder="flexicubes") == (422, "no_mesh_decoder")
        assert asyncio.run(service.about())["captions"] is False
    finally:
        service.close()
