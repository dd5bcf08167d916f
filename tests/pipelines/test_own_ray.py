"""A Ray of the run's own: who reaches it, where its files lie, what is said when it dies."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import grpc
import psutil
import pytest

from pipelines.runtime import own_ray
from sar3d.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[2]
LONG = "net/people/someuser/slurm_jobdir/1355700/node0016.tmp/some/more"
JOIN = "import ray; ray.init(address='127.0.0.1:{}'); print('joined', ray.nodes())"
METHODS = {
    "gcs_server": "NodeInfoGcsService/GetAllNodeInfo",
    "raylet": "ObjectManagerService/Pull",
    "driver": "CoreWorkerService/GetCoreWorkerStats",
}
"""A method of each kind of server of Ray that has tokens."""


def listening(program: psutil.Popen) -> list[tuple[str, str, int]]:
    """Name, address and port of every socket that a program and its children listen at."""
    found = []
    for process in [program, *program.children(recursive=True)]:
        name = "driver" if process == program else process.name()
        found += [
            (name, c.laddr.ip.removeprefix("::ffff:"), c.laddr.port)
            for c in process.net_connections("tcp")
            if c.status == psutil.CONN_LISTEN
        ]
    return found


def refuses(port: int, method: str) -> bool:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            channel.unary_unary(f"/ray.rpc.{method}")(b"", timeout=5)
        except grpc.RpcError as error:
            return bool(error.code() == grpc.StatusCode.UNAUTHENTICATED)
    return False


def until_work_begins(trace: Path, program: psutil.Popen) -> None:
    deadline = time.monotonic() + 300
    while not any(trace.iterdir()):
        assert program.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_only_the_run_itself_reaches_its_ray_and_its_death_is_one_sentence(tmp_path: Path) -> None:
    """One session: sockets, a foreign process, the token, a long TMPDIR, the folder, and the end."""
    scratch, home, trace = tmp_path / LONG, tmp_path / "home", tmp_path / "trace"
    for folder in (scratch, home, trace):
        folder.mkdir(parents=True)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    environment |= {"TMPDIR": str(scratch), "HOME": str(home), "RAY_AUTH_MODE": "disabled"}
    command = [sys.executable, "tests/pipelines/toy_job.py", str(tmp_path / "root"), "count=1000", "shard_objects=1"]
    command += ["seconds=0.5", f'trace="{trace}"']
    log = (tmp_path / "log").open("w+")
    program = psutil.Popen(command, cwd=REPOSITORY, env=environment, stdout=log, stderr=log)
    try:
        until_work_begins(trace, program)
        sockets = listening(program)
        assert {"driver", "gcs_server", "raylet"} <= {name for name, *_ in sockets}
        assert {address for _, address, _ in sockets} <= {"127.0.0.1", "::1"}
        for name, method in METHODS.items():
            assert any(refuses(port, method) for who, _, port in sockets if who == name), name
        (raylet,) = [p for p in program.children(recursive=True) if p.name() == "raylet"]
        folder = Path(raylet.cmdline()[1].split("=")[1]).parents[3]
        assert folder.name.startswith("sar3d-ray-")
        assert folder.stat().st_mode & 0o777 == 0o700

        (port,) = [port for name, _, port in sockets if name == "gcs_server"]
        # Ray keeps the loopback address only where it is told that it cannot form clusters.
        foreign = {**environment, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "TMPDIR": "/tmp"}
        joined = subprocess.run(
            [sys.executable, "-c", JOIN.format(port)], env=foreign, capture_output=True, text=True, timeout=100
        )
        assert joined.returncode != 0
        assert "uthentication" in joined.stderr
        assert not (home / ".ray").exists()

        raylet.send_signal(signal.SIGKILL)
        code = program.wait(100)
        log.seek(0)
        said = log.read()
        assert code == 2, said
        # A server that was refused may write its warning after the sentence.
        (sentence,) = [line for line in said.splitlines() if line.startswith("error:")]
        assert sentence.startswith("error: the Ray of this run has gone; what was committed stays")
        assert "Traceback" not in said
        assert not folder.exists()
        assert not any(scratch.iterdir())
    finally:
        if program.is_running():
            program.kill()  # its Ray ends with it
        program.wait()
        log.close()


def test_the_folder_for_sockets_is_short_and_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / LONG))
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/no/such/folder")
    folder = Path(own_ray.make_folder())
    try:
        assert folder.parent == Path("/tmp")
        assert folder.stat().st_mode & 0o777 == 0o700
    finally:
        folder.rmdir()


def test_no_place_for_sockets_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_ray, "_places", lambda: [str(tmp_path / LONG), "/proc/1"])
    with pytest.raises(UserError, match=rf"{LONG} \(its path is too long\), /proc/1 \(.*\); set TMPDIR"):
        own_ray.make_folder()
