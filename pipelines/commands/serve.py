"""`sar3d serve`: trained models behind HTTP, with a page, on Ray Serve."""

import argparse
import contextlib
import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.runtime.cluster import ClusterConfig, connect
from pipelines.runtime.progress import log
from pipelines.serving.settings import LOOPBACK
from sar3d.errors import UserError

if TYPE_CHECKING:
    from pipelines.serving.cluster import Application

_QUIET = {"log_level": "WARNING", "enable_access_log": False}


def add_command(commands: Any) -> None:
    """Add `serve` to the subparsers of the command line."""
    about = "a web page and an HTTP interface to trained models: generate, vary, describe"
    sub = commands.add_parser("serve", help=about, description=f"{about[0].upper()}{about[1:]}, on Ray Serve.")
    sub.add_argument("--model", required=True, metavar="DIR", help="a bundle, a pipeline's root, a URL, or owner/name")
    sub.add_argument("--vqvae", metavar="DIR", default="", help="the VQVAE, if --model does not hold it")
    sub.add_argument(
        "--captioner", metavar="DIR", default="", help="what describes objects, if --model does not hold it"
    )
    sub.add_argument("--flexicubes", metavar="DIR", default="", help="a mesh decoder, if --model does not hold it")
    sub.add_argument("--text-weights", metavar="DIR", default="", help="the text encoder's weights, if elsewhere")
    sub.add_argument("--image-weights", metavar="DIR", default="", help="the image encoder's weights, if elsewhere")
    sub.add_argument("--device", default="auto", help="cpu, cuda or auto (default: a GPU if there is one)")
    _access_options(sub.add_argument_group("who may use it"))
    _limit_options(sub.add_argument_group("what a request may ask for"))
    _work_options(sub.add_argument_group("how it works"))
    sub.set_defaults(call=_call)


def _access_options(group: Any) -> None:
    group.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine alone)")
    group.add_argument("--port", type=int, default=8000, help="port to listen on (default 8000)")
    group.add_argument(
        "--host-name",
        action="append",
        default=[],
        metavar="NAME",
        help="name under which clients address it; may be given several times (default: those of this machine)",
    )
    group.add_argument(
        "--token-file", metavar="FILE", help="file with the token that clients must show (default: SAR3D_TOKEN)"
    )


def _limit_options(group: Any) -> None:
    group.add_argument("--queue", type=int, default=64, metavar="N", help="requests at once (default 64)")
    group.add_argument("--seconds", type=float, default=120, metavar="X", help="time limit of a request (default 120)")
    group.add_argument("--upload", type=int, default=64, metavar="MIB", help="size of an upload (default 64)")
    group.add_argument("--samples", type=int, default=4, metavar="N", help="samples of one request (default 4)")
    group.add_argument(
        "--keep", type=float, default=60, metavar="MIN", help="minutes that results are kept (default 60)"
    )
    group.add_argument("--results", metavar="DIR", default="", help="where (default: a new temporary folder)")


def _work_options(group: Any) -> None:
    group.add_argument("--batch", type=int, default=8, metavar="N", help="samples decoded at once (default 8)")
    group.add_argument(
        "--replicas", default="1", metavar="N[:M]", help="replicas of the models; N:M grows with the load (default 1)"
    )
    group.add_argument("--cpus", type=float, default=1, metavar="N", help="CPUs of a replica (default 1)")
    group.add_argument("--gpus", type=float, metavar="N", help="GPUs of a replica (default: 1 where there are any)")
    group.add_argument("--grid", type=int, default=128, metavar="N", help="points of a side for surfaces (default 128)")
    group.add_argument("--faces", type=int, default=20_000, metavar="N", help="triangles at most (default 20000)")
    group.add_argument("--texture", type=int, default=512, metavar="N", help="side of the texture (default 512)")
    group.add_argument("--level", type=float, metavar="X", help="density at the surface (default: by the silhouettes)")
    group.add_argument("--frames", type=int, default=24, metavar="N", help="pictures of a turntable (default 24)")
    group.add_argument("--resolution", type=int, default=192, metavar="N", help="of these (default 192)")
    group.add_argument(
        "--address", default="auto", help="the Ray cluster (default: RAY_ADDRESS, else a Ray of its own)"
    )


def _call(parsed: argparse.Namespace) -> int:
    wanted = application_of(parsed)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    run(wanted, parsed.host, parsed.port, parsed.address, stop)
    return 0


def application_of(parsed: argparse.Namespace) -> "Application":
    """What the options ask for. Raises `UserError` for values that make no service."""
    from pipelines.serving.cluster import TOKEN_VARIABLE, Application, Place, Replicas, check_access
    from pipelines.serving.settings import ModelSettings, ServiceSettings
    from sar3d.export.config import ExportSettings

    names = ("grid", "faces", "texture", "frames", "resolution", "level")
    export = ExportSettings(**{name: getattr(parsed, name) for name in names})
    token = _token(parsed.token_file) if parsed.token_file else os.environ.get(TOKEN_VARIABLE, "")
    hosts = (*LOOPBACK, *parsed.host_name)
    if parsed.host not in LOOPBACK:
        hosts = (*hosts, parsed.host) if parsed.host_name else ("*",)
    service = ServiceSettings(
        hosts=hosts,
        token=token,
        queue=parsed.queue,
        seconds=parsed.seconds,
        upload_bytes=parsed.upload << 20,
        samples=parsed.samples,
        keep_seconds=60 * parsed.keep,
        results=parsed.results and str(Path(parsed.results).resolve()),
    )
    check_access(service)
    least, _, most = parsed.replicas.partition(":")
    if not (least.isdigit() and (most or least).isdigit() and 1 <= int(least) <= int(most or least)):
        raise UserError(
            f"--replicas {parsed.replicas} is wrong: give a number such as 2, or least and most such as 1:4"
        )
    place = Place(
        _absolute(parsed.model),
        _absolute(parsed.vqvae),
        _absolute(parsed.captioner),
        _absolute(parsed.flexicubes),
        parsed.text_weights,
        parsed.image_weights,
        parsed.device,
    )
    gpus = _gpus(parsed.device) if parsed.gpus is None else parsed.gpus
    replicas = Replicas(int(least), int(most or least), parsed.cpus, gpus, load=float(parsed.batch))
    return Application(place, replicas, ModelSettings(batch=parsed.batch, export=export), service)


def run(wanted: "Application", host: str, port: int, address: str, stop: threading.Event) -> None:
    """Serve until `stop` is set.

    Raises:
        UserError: the models cannot be loaded, the port is taken, or Ray does not start.
    """
    from pipelines.serving.door import UPLOAD_VARIABLE
    from sar3d.generate.folders import find_folders

    place = wanted.place
    find_folders(place.model, vqvae=place.vqvae or None, captioner=place.captioner or None)  # one sentence, before Ray
    os.environ["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"] = "pipelines.serving.door:proxy_middlewares"
    os.environ[UPLOAD_VARIABLE] = str(wanted.service.upload_bytes)
    for name in ("READY", "HEALTH"):  # a machine that is busy loading models starts processes slowly
        os.environ.setdefault(f"RAY_SERVE_PROXY_{name}_CHECK_TIMEOUT_S", "60")
    needed = wanted.replicas.least * wanted.replicas.cpus
    connect(ClusterConfig(address=address, cpus=max(os.cpu_count() or 1, int(needed) + 1)), log)
    from ray import serve
    from ray.exceptions import RayError

    from pipelines.serving.cluster import APP, application

    log(f"serve: loading the models of {place.model}")
    options = {"host": host, "port": port, "request_timeout_s": wanted.service.seconds + 15}
    try:
        with contextlib.suppress(TimeoutError):  # Ray waits 60 s for a proxy; on a busy machine it comes later
            serve.start(proxy_location="HeadOnly", http_options=options, logging_config=_QUIET)
        serve.run(application(wanted), name=APP, route_prefix="/", logging_config=_QUIET)
    except (RuntimeError, TimeoutError, RayError) as error:
        raise UserError(f"the service does not start: {_reason(error)}") from error
    base = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}/"
    _await_answer(base, stop)
    log(f"serve: open {base} in a browser; Ctrl-C ends it")
    stop.wait()
    log("serve: ending")
    serve.shutdown()


def _await_answer(base: str, stop: threading.Event) -> None:
    """Return when the front process answers."""
    import requests

    session = requests.Session()
    session.trust_env = False  # no proxy stands between this process and its own service
    while not stop.wait(0.2):
        with contextlib.suppress(requests.RequestException):
            if session.get(f"{base}healthz", timeout=10).ok:
                return


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if "UserError" in line]
    return (told or lines or [type(error).__name__])[-1][:400]


def _token(file: str) -> str:
    try:
        token = Path(file).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise UserError(f"the token file {file} cannot be read ({error.strerror})") from error
    if len(token) < 16:
        raise UserError(f"the token in {file} has {len(token)} characters: give a random one of at least 16")
    return token


def _absolute(place: str) -> str:
    """A local folder as every process sees it; URLs and names of repositories as they are."""
    path = Path(place).expanduser()
    return str(path.resolve()) if place and path.exists() else place


def _gpus(device: str) -> float:
    import torch

    return float(device.startswith("cuda") or (device == "auto" and torch.cuda.is_available()))
