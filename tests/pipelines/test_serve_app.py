"""The service's HTTP interface before models that only pretend: every error is typed, nothing is left behind."""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from asgi import Answer, form, post, send

from pipelines.cli import _parser
from pipelines.commands.serve import application_of
from pipelines.serving.app import build_app
from pipelines.serving.door import proxy_middlewares
from pipelines.serving.problems import ServiceError
from pipelines.serving.results import TYPES
from pipelines.serving.settings import ServiceSettings
from pipelines.serving.work import Asked, Begun, Described, Event, Failed, Made, Question, Scale
from sar3d.errors import UserError
from sar3d.generate.sample import EXPORTED
from sar3d.generate.sample import TOKENS as TOKENS_FILE

T = TypeVar("T")
EVENTS = {"accept": "text/event-stream"}
TOKENS = tuple(range(390))


class Pretended:
    """Models that answer at once, wait for ever, or break."""

    def __init__(self, wait: float = 0.0, error: Exception | None = None, failed: Failed | None = None) -> None:
        self.wait, self.error, self.failed = wait, error, failed
        self.asked: list[Asked | Question] = []
        self.running = 0

    async def generate(self, asked: Asked) -> AsyncIterator[Event]:
        self.asked.append(asked)
        self.running += 1
        try:
            if self.failed:
                yield self.failed
                return
            yield Begun(3)
            await asyncio.sleep(self.wait)
            if self.error:
                raise self.error
            for scale, side in enumerate((1, 2), 1):
                if asked.previews:
                    yield Scale(scale, 2, side, (b"picture",) * asked.n)
            for number in range(asked.n):
                files = {"object.glb": b"glTF", "tokens.safetensors": b"t", "settings.json": b"secret"}
                yield Made(
                    number, asked.seed + number, TOKENS, "a cup" if asked.caption else None, files, {"prompt": {}}
                )
        finally:
            self.running -= 1

    async def caption(self, question: Question) -> Described | Failed:
        self.asked.append(question)
        await asyncio.sleep(self.wait)
        return self.failed or Described("a cup", TOKENS)

    async def about(self) -> dict[str, Any]:
        if self.error:
            raise self.error
        return {"prompts": ["text"], "decoders": ["nerf"], "captions": True, "scales": [1, 2], "objects": [".glb"]}


@pytest.fixture
def settings(tmp_path: Path) -> ServiceSettings:
    return ServiceSettings(results=str(tmp_path / "results"), queue=2, upload_bytes=1000)


def run(work: Awaitable[T]) -> T:
    async def limited() -> T:
        return await asyncio.wait_for(work, 20)

    return asyncio.run(limited())


def test_samples_come_with_files_that_can_be_fetched_and_forgotten(settings: ServiceSettings) -> None:
    models = Pretended()
    app = build_app(models, settings)

    async def steps() -> None:
        made = await post(app, "/v1/generate", text="a cup", n="2", seed="7", preset="wild", top_k="3", caption="true")
        assert made.status == 200
        first, second = made.json()["samples"]
        assert (first["seed"], second["seed"], first["caption"]) == (7, 8, "a cup")
        assert set(first["files"]) == {"glb", "tokens"}
        assert first["id"] != second["id"]
        got = await send(app, "GET", first["files"]["glb"])
        assert (got.body, got.headers["content-type"]) == (b"glTF", "model/gltf-binary")
        assert got.headers["x-content-type-options"] == "nosniff"
        assert (await send(app, "DELETE", f"/v1/results/{first['id']}")).status == 204
        assert (await send(app, "GET", first["files"]["glb"])).kind == "no_such_result"
        varied = await post(app, "/v1/vary", result=second["id"], keep_scales="1", text="a jug")
        assert varied.status == 200
        assert (await post(app, "/v1/vary", result=first["id"], keep_scales="1")).status == 404

    run(steps())
    asked, varied = models.asked
    assert isinstance(asked, Asked)
    assert (asked.n, asked.seed, asked.decoding.guidance, asked.decoding.top_k, asked.formats) == (
        2,
        7,
        8.0,
        3,
        ("glb",),
    )
    assert isinstance(varied, Asked)
    assert (varied.source, varied.keep_scales, varied.text) == (TOKENS, 1, "a jug")


def test_progress_comes_as_one_event_per_scale(settings: ServiceSettings) -> None:
    answer = run(post(build_app(Pretended(), settings), "/v1/generate", EVENTS, text="a cup", n="2"))
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = answer.events()
    assert [name for name, _ in events] == ["begun", "scale", "scale", "sample", "sample", "done"]
    assert [data["scale"] for name, data in events if name == "scale"] == [1, 2]
    assert events[1][1]["previews"] == ["data:image/webp;base64,cGljdHVyZQ=="] * 2


def test_a_failure_in_the_middle_of_events_is_an_event(settings: ServiceSettings) -> None:
    error = RuntimeError("/home/someone/secret")
    answer = run(post(build_app(Pretended(error=error), settings), "/v1/generate", EVENTS, text="a cup"))
    name, data = answer.events()[-1]
    assert (answer.status, name, data["kind"]) == (200, "error", "internal")
    assert b"secret" not in answer.body


BAD_FIELDS = [
    ({"n": "0"}, "n: "),
    ({"n": "5"}, "at most 4 samples"),
    ({"n": "many"}, "n: "),
    ({"seed": "-1"}, "seed: "),
    ({"seed": str(2**63)}, "seed: "),
    ({"preset": "best"}, "preset: "),
    ({"top_p": "2"}, "top_p: "),
    ({"top_k": "-3"}, "top_k: "),
    ({"guidance": "nan"}, "guidance"),
    ({"temperature": "0"}, "temperature: "),
    ({"formats": "glb,exe"}, "there is no 'exe'"),
    ({"image": ("a.png", b"x")}, "not both"),
]


@pytest.mark.parametrize(("formats", "wanted"), [("tokens", ()), ("ply, glb,ply", ("ply", "glb")), ("", ("glb",))])
def test_formats_are_a_list_of_words(settings: ServiceSettings, formats: str, wanted: tuple[str, ...]) -> None:
    models = Pretended()
    assert run(post(build_app(models, settings), "/v1/generate", text="a cup", formats=formats)).status == 200
    (asked,) = models.asked
    assert isinstance(asked, Asked)
    assert asked.formats == wanted


@pytest.mark.parametrize(("fields", "words"), BAD_FIELDS, ids=lambda v: str(v)[:30])
def test_fields_that_cannot_be_used_are_named(settings: ServiceSettings, fields: dict[str, Any], words: str) -> None:
    models = Pretended()
    answer = run(post(build_app(models, settings), "/v1/generate", text="a cup", **fields))
    assert (answer.status, answer.kind) == (422, "bad_request")
    assert words in answer.json()["error"]["message"]
    assert not models.asked


def test_requests_that_lead_nowhere_are_typed(settings: ServiceSettings) -> None:
    app = build_app(Pretended(), settings)

    async def steps() -> list[tuple[int, str]]:
        upload = ("a.glb", b"x")
        answers = [
            await post(app, "/v1/vary", keep_scales="2"),
            await post(app, "/v1/vary", keep_scales="2", object=upload, result="x" * 22),
            await post(app, "/v1/vary", result="../../etc/passwd", keep_scales="2"),
            await post(app, "/v1/vary", object=upload),
            await post(app, "/v1/caption"),
            await post(app, "/v1/caption", object=upload, question="  "),
            await send(app, "POST", "/v1/generate", {"content-type": "multipart/form-data"}, [b"nonsense"]),
            await send(app, "GET", "/v1/generate"),
            await send(app, "GET", "/nowhere"),
            await send(app, "GET", "/v1/results/" + "a" * 22 + "/object.glb"),
            await send(app, "GET", "/v1/results/../../etc/passwd"),
            await send(app, "GET", "/v1/results/%2e%2e/object.glb"),
            await send(app, "GET", "/static-offline-docs/../../../etc/passwd"),
        ]
        return [(answer.status, answer.kind) for answer in answers]

    assert run(steps()) == [
        *[(422, "bad_request")] * 2,
        (404, "no_such_result"),
        *[(422, "bad_request")] * 3,
        (400, "bad_request"),
        (405, "wrong_method"),
        (404, "no_such_page"),
        (404, "no_such_result"),
        *[(404, "no_such_page")] * 1,
        (404, "no_such_result"),
        (404, "no_such_page"),
    ]


def test_what_the_models_refuse_keeps_its_status(settings: ServiceSettings) -> None:
    app = build_app(Pretended(failed=Failed(413, "picture_too_large", "too many pixels")), settings)

    async def steps() -> None:
        for headers in ({}, EVENTS):
            answer = await post(app, "/v1/generate", headers, image=("a.png", b"x"))
            assert (answer.status, answer.kind) == (413, "picture_too_large")
        assert (await post(app, "/v1/caption", object=("a.glb", b"x"))).status == 413

    run(steps())


class TestBodies:
    def test_announced_too_large_is_refused_unread(self, settings: ServiceSettings) -> None:
        async def never() -> AsyncIterator[bytes]:
            raise AssertionError("it was read")
            yield b""

        headers = {"content-type": "multipart/form-data; boundary=x", "content-length": str(1 << 30)}
        answer = run(send(build_app(Pretended(), settings), "POST", "/v1/caption", headers, never()))
        assert (answer.status, answer.kind, answer.headers["connection"]) == (413, "too_large", "close")

    @pytest.mark.parametrize("proxy", [False, True])
    def test_sent_without_a_length_it_is_cut_off(
        self, settings: ServiceSettings, proxy: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sent = 0

        async def endless() -> AsyncIterator[bytes]:
            nonlocal sent
            yield b'--x\r\nContent-Disposition: form-data; name="object"; filename="a.glb"\r\n\r\n'
            while True:
                sent += 1 << 16
                yield bytes(1 << 16)

        app: Any = build_app(Pretended(), settings)
        if proxy:
            monkeypatch.setenv("SAR3D_UPLOAD_BYTES", "1000")
            (wrapped,) = proxy_middlewares()
            app = wrapped.cls(build_app(Pretended(), replace(settings, upload_bytes=1 << 40)), **wrapped.kwargs)
        headers = {"content-type": "multipart/form-data; boundary=x", "transfer-encoding": "chunked"}
        answer = run(send(app, "POST", "/v1/caption", headers, endless()))
        assert (answer.status, answer.kind) == (413, "too_large")
        assert sent <= 3 << 16

    def test_that_never_ends_is_given_up(self, settings: ServiceSettings) -> None:
        async def stalling() -> AsyncIterator[bytes]:
            yield b"--x\r\n"
            await asyncio.sleep(60)
            yield b""

        app = build_app(Pretended(), replace(settings, seconds=0.2))
        headers = {"content-type": "multipart/form-data; boundary=x"}
        answer = run(send(app, "POST", "/v1/caption", headers, stalling()))
        assert (answer.status, answer.kind) == (408, "slow_upload")
        assert app.state.service.places.taken == 0


class TestPlaces:
    def test_beyond_the_queue_a_client_may_come_again(self, settings: ServiceSettings) -> None:
        models = Pretended(wait=0.3)
        app = build_app(models, settings)

        async def steps() -> list[Answer]:
            return await asyncio.gather(*[post(app, "/v1/generate", text="a cup") for _ in range(5)])

        answers = run(steps())
        assert sorted(answer.status for answer in answers) == [200, 200, 503, 503, 503]
        refused = next(answer for answer in answers if answer.status == 503)
        assert refused.kind == "busy"
        assert int(refused.headers["retry-after"]) > 0
        assert len(models.asked) == 2
        counted = app.state.service.metrics.text().decode()
        assert 'sar3d_requests_total{endpoint="/v1/generate",status="503"} 3.0' in counted
        assert run(post(app, "/v1/generate", text="a cup")).status == 200

    @pytest.mark.parametrize("headers", [{}, EVENTS], ids=["whole", "events"])
    def test_a_client_that_goes_frees_its_place(self, settings: ServiceSettings, headers: dict[str, str]) -> None:
        models = Pretended(wait=60)
        app = build_app(models, settings)

        async def steps() -> None:
            given, body = form(text="a cup")
            left = asyncio.Event()
            task = asyncio.create_task(send(app, "POST", "/v1/generate", {**given, **headers}, body, left))
            while not models.running:
                await asyncio.sleep(0.01)
            assert app.state.service.places.taken == 1
            left.set()
            await task
            assert (models.running, app.state.service.places.taken) == (0, 0)

        run(steps())

    def test_a_stream_that_takes_too_long_ends_with_an_event(self, settings: ServiceSettings) -> None:
        models = Pretended(wait=60)
        answer = run(post(build_app(models, replace(settings, seconds=1.0)), "/v1/generate", EVENTS, text="a cup"))
        assert [name for name, _ in answer.events()] == ["begun", "error"]
        assert answer.events()[-1][1]["kind"] == "timeout"
        assert models.running == 0

    def test_an_answer_that_takes_too_long_is_given_up(self, settings: ServiceSettings) -> None:
        models = Pretended(wait=60)
        app = build_app(models, replace(settings, seconds=0.2))

        async def steps() -> None:
            answer = await post(app, "/v1/generate", text="a cup")
            assert (answer.status, answer.kind) == (504, "timeout")
            assert (models.running, app.state.service.places.taken) == (0, 0)

        run(steps())


class TestAccess:
    def test_strange_names_and_other_sites_are_refused(self, settings: ServiceSettings) -> None:
        app = build_app(Pretended(), settings)

        async def steps() -> None:
            for host in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example", ""):
                assert (await send(app, "GET", "/", {"host": host})).kind == "wrong_host"
            for host in ("localhost", "127.0.0.1:8000", "[::1]:8000"):
                assert (await send(app, "GET", "/healthz", {"host": host})).status == 200
            other = {"origin": "http://evil.example"}
            assert (await post(app, "/v1/generate", other, text="a cup")).kind == "wrong_origin"
            own = {"origin": "http://127.0.0.1:8000"}
            assert (await post(app, "/v1/generate", own, text="a cup")).status == 200

        run(steps())

    def test_a_token_is_asked_for_all_but_the_page(self, settings: ServiceSettings) -> None:
        app = build_app(Pretended(), replace(settings, token="a-very-secret-token", hosts=("*",)))

        async def steps() -> None:
            for path in ("/", "/viewer.js", "/healthz", "/readyz", "/docs", "/openapi.json"):
                assert (await send(app, "GET", path, {"host": "models.example"})).status == 200
            for header in ({}, {"authorization": "Bearer wrong"}, {"authorization": "a-very-secret-tokeN"}):
                for path in ("/metrics", "/v1/models", "/v1/results/" + "a" * 22 + "/object.glb"):
                    assert (await send(app, "GET", path, header)).kind == "wrong_token"
                assert (await post(app, "/v1/generate", header, text="a cup")).status == 401
            right = {"authorization": "Bearer a-very-secret-token"}
            assert (await post(app, "/v1/generate", right, text="a cup")).status == 200

        run(steps())

    def test_elsewhere_there_is_no_service_without_a_token(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("SAR3D_TOKEN", raising=False)

        def wanted(*words: str) -> ServiceSettings:
            return application_of(_parser().parse_args(["serve", "--model", "runs/demo", *words])).service

        assert "*" not in wanted().hosts
        for words in (["--host", "0.0.0.0"], ["--host-name", "models.example"]):
            with pytest.raises(UserError, match="needs a token"):
                wanted(*words)
        (tmp_path / "token").write_text("0123456789abcdef0123\n")
        assert wanted("--host", "0.0.0.0", "--token-file", str(tmp_path / "token")).token == "0123456789abcdef0123"
        (tmp_path / "token").write_text("short")
        with pytest.raises(UserError, match="at least 16"):
            wanted("--token-file", str(tmp_path / "token"))
        with pytest.raises(UserError, match="--replicas 4:2"):
            wanted("--replicas", "4:2")


class TestResults:
    def test_files_of_every_format_are_kept(self) -> None:
        assert set(TYPES) == {TOKENS_FILE, *EXPORTED.values()}

    def test_they_go_after_their_time(self, settings: ServiceSettings) -> None:
        app = build_app(Pretended(), replace(settings, keep_seconds=0.3))

        async def steps() -> None:
            made = (await post(app, "/v1/generate", text="a cup")).json()["samples"][0]
            path = made["files"]["glb"]
            assert (await send(app, "GET", path)).status == 200
            await asyncio.sleep(0.4)
            assert (await send(app, "GET", path)).kind == "no_such_result"
            app.state.service.results.sweep()
            assert not list(app.state.service.results.folder.iterdir())

        run(steps())

    def test_the_oldest_go_when_there_is_too_much(self, settings: ServiceSettings) -> None:
        results = build_app(Pretended(), replace(settings, results_bytes=5000)).state.service.results
        names = []
        for _ in range(4):
            names.append(results.put({"object.glb": bytes(2000)}, (1,)))
            time.sleep(0.02)
        results.sweep()
        assert sorted(p.name for p in results.folder.iterdir()) == sorted(names[2:])

    def test_a_folder_with_other_things_is_refused(self, settings: ServiceSettings, tmp_path: Path) -> None:
        (tmp_path / "thesis.tex").touch()
        with pytest.raises(UserError, match=r"thesis\.tex"):
            build_app(Pretended(), replace(settings, results=str(tmp_path)))


def test_health_readiness_and_numbers(settings: ServiceSettings) -> None:
    async def steps() -> None:
        lost = build_app(Pretended(error=ServiceError(503, "worker_lost", "gone", 5)), settings)
        assert (await send(lost, "GET", "/healthz")).status == 200
        answer = await send(lost, "GET", "/readyz")
        assert (answer.status, answer.headers["retry-after"]) == (503, "5")
        app = build_app(Pretended(), replace(settings, results=settings.results + "-2"))
        assert (await send(app, "GET", "/readyz")).status == 200
        await post(app, "/v1/generate", EVENTS, text="a cup")
        await post(app, "/v1/generate", n="0")
        numbers = (await send(app, "GET", "/metrics")).body.decode()
        assert 'sar3d_requests_total{endpoint="/v1/generate",status="200"} 1.0' in numbers
        assert 'sar3d_requests_total{endpoint="/v1/generate",status="422"} 1.0' in numbers
        assert "sar3d_batch_samples_sum 3.0" in numbers
        assert "sar3d_first_preview_seconds_count 1.0" in numbers

    run(steps())


def test_the_documentation_has_examples_and_fetches_nothing(settings: ServiceSettings) -> None:
    async def steps() -> tuple[Answer, Answer, Answer]:
        app = build_app(Pretended(), settings)
        return await send(app, "GET", "/openapi.json"), await send(app, "GET", "/docs"), await send(app, "GET", "/")

    described, docs, page = run(steps())
    paths = described.json()["paths"]
    assert {"/v1/generate", "/v1/vary", "/v1/caption", "/healthz", "/readyz", "/metrics"} <= set(paths)
    for name in ("generate", "vary", "caption"):
        assert "curl -F" in paths[f"/v1/{name}"]["post"]["description"]
        assert "503" in paths[f"/v1/{name}"]["post"]["responses"]
    assert "event: scale" in json.dumps(paths["/v1/generate"])
    for html in (docs.body.decode(), page.body.decode()):
        assert not re.findall(r"(?:src|href)=[\"'](?:https?:)?//", html)
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "sha256-" in policy
    assert "unsafe-inline'" not in policy.split("script-src")[1]
