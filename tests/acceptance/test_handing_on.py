"""Models that leave the project: served by MLflow, and loaded where there is nothing but the wheel."""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest
from proofs import REPOSITORY
from service import small_models

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]

USE = """
import sys
from sar3d import Sar3D, __file__ as where
assert "site-packages" in where, where
made = Sar3D.from_pretrained(sys.argv[1], device="cpu").generate(text="a red apple")[0]
print(len(made.tokens))
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_models(tmp_path_factory.mktemp("models") / "bundle")


@pytest.mark.acceptance("`mlflow models serve --env-manager local` of a registered model answers a real HTTP request")
def test_mlflow_serves_a_registered_model(models: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}
    publish = [sys.executable, "-m", "pipelines.cli", "publish", str(models), "--mlflow", "sar3d-small"]
    environment["PYTHONPATH"] = str(REPOSITORY)
    done = subprocess.run(publish, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = str(Path(sys.executable).with_name("mlflow"))
    command = [program, "models", "serve", "--model-uri", "models:/sar3d-small/1", "--env-manager", "local"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--port", str(port)], cwd=tmp_path, env=environment, stdout=log, stderr=log
        )
    try:
        body = {
            "dataframe_records": [{"text": "a red apple", "seed": 3}],
            "params": {"grid": 24, "texture": 32, "level": 5.2},
        }
        answer = ask(f"http://127.0.0.1:{port}/invocations", body, process, tmp_path / "log")
    finally:
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        for child in children:
            if child.is_running():
                child.kill()
    (made,) = answer["predictions"]
    assert len(made["tokens"]) == 2040
    assert base64.b64decode(made["glb"])[:4] == b"glTF"
    assert isinstance(made["caption"], str)


def ask(
    url: str, body: dict[str, object], process: subprocess.Popen[bytes], log: Path
) -> dict[str, list[dict[str, object]]]:
    """The answer, as soon as the server is there."""
    data, headers = json.dumps(body).encode(), {"Content-Type": "application/json"}
    end = time.monotonic() + 600
    while True:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=300) as answer:
                found: dict[str, list[dict[str, object]]] = json.loads(answer.read())
                return found
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()) from error
        except OSError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(1)


@pytest.mark.net
@pytest.mark.acceptance("A fresh environment with the wheel alone loads models and generates")
def test_the_wheel_alone_generates(models: Path, tmp_path: Path) -> None:
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        str(tmp_path),
        str(REPOSITORY),
    ]
    subprocess.run(build, check=True)
    (wheel,) = tmp_path.glob("sar3d-*.whl")
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "env")], check=True)
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", str(wheel)], check=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [python, "-c", USE, str(models)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["2040"]
