"""The service on Ray Serve: one front process, which answers HTTP, and replicas of the models, which come and go with the
load.
"""

import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from pipelines.serving.problems import ServiceError, busy
from pipelines.serving.settings import LOOPBACK, ModelSettings, ServiceSettings
from pipelines.serving.work import Asked, Described, Event, Failed, Question
from sar3d.errors import UserError
from sar3d.export.config import ExportSettings

APP = "sar3d"
TOKEN_VARIABLE = "SAR3D_TOKEN"
_LOST_SECONDS = 5
"""When a client may come again whose worker was lost."""


@dataclass(frozen=True)
class Place:
    """Where the models are, and on what they run; see `Sar3D.from_pretrained`."""

    model: str
    vqvae: str = ""
    captioner: str = ""
    flexicubes: str = ""
    text_weights: str = ""
    image_weights: str = ""
    device: str = "auto"


@dataclass(frozen=True)
class Replicas:
    """How many replicas of the models there are, and what each takes."""

    least: int = 1
    most: int = 1
    cpus: float = 1.0
    gpus: float = 0.0
    load: float = 8.0
    """Requests at once, of one replica, above which another is started."""


@dataclass(frozen=True)
class Application:
    """All of a service."""

    place: Place
    replicas: Replicas = field(default_factory=Replicas)
    models: ModelSettings = field(default_factory=ModelSettings)
    service: ServiceSettings = field(default_factory=ServiceSettings)


class Models:
    """One replica: the models, loaded, on its CPUs or its GPU."""

    def __init__(self, place: Place, settings: ModelSettings, cpus: float) -> None:
        import torch

        from pipelines.caching.devices import threads
        from pipelines.serving.models import ModelService
        from sar3d.generate.models import Sar3D

        _open_no_port()
        torch.set_num_threads(threads(cpus))
        system = Sar3D.from_pretrained(
            place.model,
            vqvae=place.vqvae or None,
            captioner=place.captioner or None,
            flexicubes=place.flexicubes or None,
            text_weights=place.text_weights,
            image_weights=place.image_weights,
            device=place.device,
        )
        self._service = ModelService(system, settings)
        self._service.warm()

    async def generate(self, asked: Asked) -> AsyncIterator[Event]:
        """See `ModelService.generate`."""
        events = self._service.generate(asked)
        try:
            async for event in events:
                yield event
        finally:
            await events.aclose()  # type: ignore[attr-defined]

    async def caption(self, question: Question) -> Described | Failed:
        """See `ModelService.caption`."""
        return await self._service.caption(question)

    async def about(self) -> dict[str, Any]:
        """See `ModelService.about`."""
        return await self._service.about()


class RemoteModels:
    """The replicas, as the interface sees them. A lost or overloaded replica is a `ServiceError` 503."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle

    async def generate(self, asked: Asked) -> AsyncIterator[Event]:
        response = self._handle.options(stream=True).generate.remote(asked)
        try:
            with _losses():
                async for event in response:
                    yield event
        finally:
            response.cancel()

    async def caption(self, question: Question) -> Described | Failed:
        with _losses():
            described: Described | Failed = await self._handle.caption.remote(question)
            return described

    async def about(self) -> dict[str, Any]:
        with _losses():
            about: dict[str, Any] = await self._handle.about.remote()
            return about


def _open_no_port() -> None:
    """Keep Serve from opening a port for this replica; to be called in its constructor.

    Ray 2.60 starts in every replica a gRPC server on all interfaces that unpickles what anybody sends: whoever reaches it runs
    code here. It is for handles that speak gRPC, which is not the default and not what ours do; Ray's own calls, which ask for
    the cluster's token, carry everything.
    """
    from ray.serve._private import replica

    assert hasattr(replica, "add_port_to_grpc_server"), "this Ray opens the ports of replicas in another way"
    replica.add_port_to_grpc_server = lambda server, address: 0


@contextlib.contextmanager
def _losses() -> Any:
    """Say what Ray's errors mean for a client."""
    try:
        yield
    except BackPressureError as error:
        raise busy("the service has more to do than it can take on: try again in a moment") from error
    except (RayError, DeploymentUnavailableError) as error:
        raise ServiceError(
            503, "worker_lost", "the worker of this request was lost: try again", _LOST_SECONDS
        ) from error


@serve.ingress()
class Front:
    """The process that answers HTTP."""

    def __init__(self, models: DeploymentHandle, settings: ServiceSettings) -> None:
        _open_no_port()
        self._models, self._settings = models, settings

    def __serve_build_asgi_app__(self) -> Any:
        from pipelines.serving.app import build_app

        return build_app(RemoteModels(self._models), self._settings)


def application(wanted: Application) -> serve.Application:
    """What `serve.run` takes."""
    service, replicas = wanted.service, wanted.replicas
    models = serve.deployment(
        name="Models",
        max_ongoing_requests=service.queue + 16,
        ray_actor_options={"num_cpus": replicas.cpus, "num_gpus": replicas.gpus},
        autoscaling_config={
            "min_replicas": replicas.least,
            "max_replicas": replicas.most,
            "initial_replicas": replicas.least,
            "target_ongoing_requests": replicas.load,
        },
        health_check_period_s=2,
        health_check_timeout_s=30,
        graceful_shutdown_timeout_s=10,
    )(Models).bind(wanted.place, wanted.models, replicas.cpus)
    front = serve.deployment(
        name="Front",
        num_replicas=1,  # it knows how many requests there are, and has their results
        max_ongoing_requests=4 * service.queue + 64,  # beyond its places it turns requests away itself
        ray_actor_options={"num_cpus": 0},
        graceful_shutdown_timeout_s=10,
    )(Front)
    return front.bind(models, service)


def build(args: dict[str, Any]) -> serve.Application:
    """The application of a Serve configuration file (`import_path: pipelines.serving.cluster:build`).

    Args:
        args: fields of `Place`, `replicas`, `export`, `models` and `service` with theirs. The token comes from the
            environment variable SAR3D_TOKEN.

    Raises:
        UserError: there is no token, or no such setting.
    """
    given = dict(args)
    try:
        models = dict(given.pop("models", {}))
        export = ExportSettings(**given.pop("export", {}))
        service = {"hosts": ("*",), **given.pop("service", {}), "token": os.environ.get(TOKEN_VARIABLE, "")}
        wanted = Application(
            replicas=Replicas(**given.pop("replicas", {})),
            models=ModelSettings(**models, export=export),
            service=ServiceSettings(**{**service, "hosts": tuple(service["hosts"])}),
            place=Place(**given),
        )
    except TypeError as error:
        raise UserError(f"the service's settings are wrong: {error}") from error
    check_access(wanted.service)
    return application(wanted)


def check_access(service: ServiceSettings) -> None:
    """Raise `UserError` for a service that others reach and that asks for no token."""
    if not service.token and not set(service.hosts) <= set(LOOPBACK):
        raise UserError(
            f"a service that other machines reach needs a token: put a long random one into {TOKEN_VARIABLE} "
            "or give --token-file"
        )
