"""The HTTP interface: routes, and what becomes of the models' events. Knows nothing of Ray."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import PurePosixPath
from typing import Annotated, Any, Protocol

from fastapi import Depends, FastAPI, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException

from pipelines.serving import page, schema
from pipelines.serving.door import BodyLimit, Door, Places
from pipelines.serving.metrics import CONTENT_TYPE, Metrics
from pipelines.serving.problems import ServiceError, problem_of
from pipelines.serving.results import TYPES, Results
from pipelines.serving.schema import Wish, wish_of
from pipelines.serving.settings import ServiceSettings
from pipelines.serving.work import Asked, Begun, Described, Event, Failed, Made, Question, Scale, Upload
from sar3d import __version__
from sar3d.errors import UserError
from sar3d.export.config import FORMATS
from sar3d.generate.sample import EXPORTED, TOKENS
from sar3d.llm.prompt import CAPTION, check_question

_SWEEP_SECONDS = 20.0
_READY_SECONDS = 5.0
_READY_RETRY = 5
_STREAM = "text/event-stream"
_STREAM_SHARE = 0.95
"""Of a request's time after which a stream ends with an event, before its connection is cut."""
_COMPUTING = ("/v1/generate", "/v1/vary", "/v1/caption")


class Models(Protocol):
    """What the interface needs of the models, here or elsewhere."""

    def generate(self, asked: Asked) -> AsyncIterator[Event]: ...

    async def caption(self, question: Question) -> Described | Failed: ...

    async def about(self) -> dict[str, Any]:
        """What can be asked for. Raises `ServiceError` 503 while the models are not there."""
        ...


class Service:
    """The state of one front process."""

    def __init__(self, models: Models, settings: ServiceSettings) -> None:
        self.models, self.settings, self.metrics = models, settings, Metrics()
        self.results = Results(settings.results, settings.keep_seconds, settings.results_bytes)
        self.places = Places(settings.queue)
        self.metrics.inside.set_function(lambda: self.places.taken)

    async def sweep(self) -> None:
        """Delete old results, for ever."""
        while True:
            await asyncio.sleep(min(_SWEEP_SECONDS, self.settings.keep_seconds / 2))
            await asyncio.to_thread(self.results.sweep)

    async def about(self) -> dict[str, Any]:
        """What can be asked for. Raises `ServiceError` 503 while the models do not answer."""
        try:
            return await asyncio.wait_for(self.models.about(), _READY_SECONDS)
        except TimeoutError:
            raise ServiceError(503, "not_ready", "the models do not answer yet", _READY_RETRY) from None

    def keep(self, made: Made) -> dict[str, Any]:
        """A sample as clients see it, its files kept."""
        name = self.results.put(made.files, made.tokens)
        formats = {TOKENS: "tokens", **{file: form for form, file in EXPORTED.items()}}
        files = {formats[file]: f"/v1/results/{name}/{file}" for file in made.files if file in TYPES}
        self.metrics.samples.inc()
        about = {"seed": made.seed, "caption": made.caption, "problem": made.problem, "settings": made.settings}
        return {"id": name, "files": files, **about}

    async def answer(self, asked: Asked, stream: bool) -> Response:
        """The whole answer to a request for samples, or events. Raises `ServiceError`."""
        began = time.monotonic()
        events = self.models.generate(asked)
        try:
            first = await anext(events)
            _raise_failure(first)
        except BaseException:
            await _close(events)
            raise
        if stream:
            headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
            return StreamingResponse(self._stream(first, events, began), media_type=_STREAM, headers=headers)
        samples = []
        try:
            event: Event | None = first
            while event is not None:
                _raise_failure(event)
                self._count(event, began)
                if isinstance(event, Made):
                    samples.append(await asyncio.to_thread(self.keep, event))
                event = await anext(events, None)
        finally:
            await _close(events)
        return JSONResponse({"samples": samples, "expires_seconds": self.settings.keep_seconds})

    async def _stream(self, event: Event | None, events: AsyncIterator[Event], began: float) -> AsyncIterator[str]:
        try:
            end = began + _STREAM_SHARE * self.settings.seconds
            while event is not None:
                self._count(event, began)
                if isinstance(event, Failed):
                    yield _event("error", {"kind": event.kind, "message": event.message, "status": event.status})
                    return
                if isinstance(event, Begun):
                    yield _event("begun", {"batch": event.batch})
                elif isinstance(event, Scale):
                    yield _event("scale", _scale(event))
                else:
                    yield _event("sample", await asyncio.to_thread(self.keep, event))
                event = await asyncio.wait_for(anext(events, None), max(0.0, end - time.monotonic()))
            yield _event("done", {"expires_seconds": self.settings.keep_seconds})
        except TimeoutError:
            message = f"there was no result within {self.settings.seconds:g} s: try again"
            yield _event("error", {"kind": "timeout", "message": message, "status": 504})
        except Exception as error:  # the status is sent already
            told = problem_of(error)
            yield _event("error", {"kind": told.kind, "message": told.message, "status": told.status})
        finally:
            await _close(events)

    def _count(self, event: Event, began: float) -> None:
        if isinstance(event, Begun):
            self.metrics.batch.observe(event.batch)
        elif isinstance(event, Scale) and event.scale == 1:
            self.metrics.first.observe(time.monotonic() - began)


def _scale(event: Scale) -> dict[str, Any]:
    previews = [f"data:image/webp;base64,{base64.b64encode(data).decode()}" for data in event.previews]
    return {"scale": event.scale, "scales": event.scales, "side": event.side, "previews": previews}


def _event(name: str, data: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"


def _raise_failure(event: Event) -> None:
    if isinstance(event, Failed):
        raise ServiceError(event.status, event.kind, event.message, 5 if event.status == 503 else None)


async def _close(events: AsyncIterator[Event]) -> None:
    """Give up what an iterator still does."""
    close: Callable[[], Awaitable[None]] | None = getattr(events, "aclose", None)
    if close is not None:
        await close()


def build_app(models: Models, settings: ServiceSettings) -> FastAPI:
    """The application; what surrounds it is part of it."""
    service = Service(models, settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(service.sweep())
        yield
        task.cancel()

    app = FastAPIOffline(
        title="SAR3D",
        version=__version__,
        description="3D objects from a sentence or a picture, variations of objects, and objects in words.",
        redoc_url=None,
        lifespan=lifespan,
        responses=schema.PROBLEMS,
    )
    app.state.service = service
    _handle_errors(app)
    _add_requests(app, service)
    _add_questions(app, service)
    _add_results(app, service)
    _add_pages(app, service)
    most = settings.upload_bytes + (64 << 10)
    # The last one added is the first one passed.
    app.add_middleware(BodyLimit, most=most)
    door = {"hosts": settings.hosts, "token": settings.token, "places": service.places, "seconds": settings.seconds}
    app.add_middleware(Door, **door)  # type: ignore[arg-type]
    app.add_middleware(_Observed, metrics=service.metrics)
    return app


def _add_requests(app: FastAPI, service: Service) -> None:
    settings = service.settings

    def checked(wish: Annotated[Wish, Depends(wish_of)]) -> Wish:
        if wish.n > settings.samples:
            raise ServiceError(422, "bad_request", f"n: at most {settings.samples} samples at once, not {wish.n}")
        return wish

    Wished = Annotated[Wish, Depends(checked)]

    @app.post("/v1/generate", response_model=schema.GenerateAnswer, responses=schema.STREAMED, tags=["objects"])
    async def generate(
        request: Request, wish: Wished, text: schema.Text = None, image: schema.ImageFile = None
    ) -> Response:
        """Objects from a text or a picture; from neither, objects at random.

        `curl -F text='a red apple' -F formats=glb,mp4 http://127.0.0.1:8000/v1/generate`
        """
        asked = _asked(request, wish, text, picture=await _bytes(image))
        return await service.answer(asked, asked.previews)

    @app.post("/v1/vary", response_model=schema.GenerateAnswer, responses=schema.STREAMED, tags=["objects"])
    async def vary(
        request: Request,
        wish: Wished,
        keep_scales: schema.KeepScales,
        object: Annotated[UploadFile | None, schema.ObjectFile.__metadata__[0]] = None,
        result: schema.EarlierResult = None,
        text: schema.Text = None,
        image: schema.ImageFile = None,
    ) -> Response:
        """Objects that share their coarsest scales with another one, while the finer ones follow a text or a picture.

        `curl -F object=@chair.glb -F keep_scales=3 -F text='a golden chair' http://127.0.0.1:8000/v1/vary`
        """
        if (object is None) == (result is None):
            raise ServiceError(422, "bad_request", "give either object, a 3D file, or result, the id of an earlier one")
        source = service.results.tokens(result) if result is not None else await _upload(object)
        asked = _asked(request, wish, text, await _bytes(image), source=source, keep_scales=keep_scales)
        return await service.answer(asked, asked.previews)


def _add_questions(app: FastAPI, service: Service) -> None:
    """What describes objects, and what can be asked for."""
    settings = service.settings

    @app.post("/v1/caption", response_model=schema.CaptionAnswer, tags=["objects"])
    async def caption(object: schema.ObjectFile, question: schema.AskedWords = None) -> Response:
        """A 3D file in words: it is drawn, encoded and described.

        `curl -F object=@chair.glb http://127.0.0.1:8000/v1/caption`
        """
        try:
            words = check_question(question) if question else CAPTION
        except UserError as error:
            raise ServiceError(422, "bad_request", str(error)) from error
        upload = await _upload(object)
        described = await service.models.caption(Question(upload, words))
        if isinstance(described, Failed):
            raise ServiceError(described.status, described.kind, described.message)
        name = await asyncio.to_thread(service.results.put, {}, described.tokens)
        return JSONResponse({"caption": described.caption, "id": name})

    @app.get("/v1/models", response_model=schema.ModelsAnswer, tags=["service"])
    async def models() -> dict[str, Any]:
        """What can be asked for."""
        limits = {"samples": settings.samples, "upload_bytes": settings.upload_bytes}
        return {**await service.about(), "formats": list(FORMATS), **limits}


def _asked(request: Request, wish: Wish, text: str | None, picture: bytes | None, **source: Any) -> Asked:
    if text is not None and picture is not None:
        raise ServiceError(422, "bad_request", "give either text or image, not both")
    previews = _STREAM in request.headers.get("accept", "")
    drawn: dict[str, Any] = {
        "decoder": wish.decoder,
        "n": wish.n,
        "seed": wish.seed,
        "decoding": wish.decoding,
        "formats": wish.formats,
        "caption": wish.caption,
    }
    return Asked(text, picture, **drawn, previews=previews, **source)


async def _bytes(file: UploadFile | None) -> bytes | None:
    return None if file is None else await file.read()


async def _upload(file: UploadFile | None) -> Upload:
    assert file is not None
    return Upload(await file.read(), PurePosixPath(file.filename or "").suffix.lower())


def _add_results(app: FastAPI, service: Service) -> None:
    @app.get("/v1/results/{name}/{file}", response_class=FileResponse, tags=["results"])
    async def result(name: str, file: str) -> Response:
        """A file of a result, as long as it is kept."""
        return FileResponse(service.results.file(name, file), media_type=TYPES[file], filename=file)

    @app.delete("/v1/results/{name}", status_code=204, tags=["results"])
    async def forget(name: str) -> None:
        """Delete a result before its time."""
        service.results.delete(name)


def _add_pages(app: FastAPI, service: Service) -> None:
    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return Response(page.html(), media_type="text/html", headers=page.headers())

    @app.get("/viewer.js", include_in_schema=False)
    async def viewer() -> Response:
        return Response(page.viewer(), media_type="text/javascript", headers={"cache-control": "max-age=86400"})

    @app.get("/healthz", tags=["service"])
    async def healthz() -> dict[str, str]:
        """The front process lives."""
        return {"status": "ok"}

    @app.get("/readyz", tags=["service"])
    async def readyz() -> dict[str, str]:
        """The models are loaded and answer; 503 until then."""
        await service.about()
        return {"status": "ready"}

    @app.get("/metrics", tags=["service"])
    async def metrics() -> Response:
        """Counters, for Prometheus."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)


def _handle_errors(app: FastAPI) -> None:
    def told(problem: ServiceError) -> Response:
        return JSONResponse(problem.body(), problem.status, headers=problem.headers())

    @app.exception_handler(ServiceError)
    async def problem(_: Request, error: Exception) -> Response:
        return told(problem_of(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"][1:]) or "the request"
        return told(ServiceError(422, "bad_request", f"{place}: {first['msg'][0].lower()}{first['msg'][1:]}"))

    @app.exception_handler(HTTPException)
    async def plain(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        kind = {404: "no_such_page", 405: "wrong_method"}.get(error.status_code, "bad_request")
        return told(ServiceError(error.status_code, kind, str(error.detail)))

    @app.exception_handler(Exception)
    async def unforeseen(_: Request, error: Exception) -> Response:
        return told(problem_of(error))


class _Observed:
    """Counts requests and measures their time; adds headers that keep browsers strict."""

    def __init__(self, app: Any, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.monotonic(), "none"

        async def noted(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
                message["headers"] = [*message["headers"], (b"x-content-type-options", b"nosniff")]
            await send(message)

        try:
            await self.app(scope, receive, noted)
        finally:
            asked = scope["path"] if scope["path"] in _COMPUTING else "other"  # of requests that were turned away
            endpoint = getattr(scope.get("route"), "path", asked)
            self.metrics.requests.labels(endpoint, status).inc()
            self.metrics.seconds.labels(endpoint).observe(time.monotonic() - began)
