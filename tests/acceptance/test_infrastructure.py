"""Cluster files under the real programs: Slurm, sshd with Ray's launcher, PostgreSQL, KubeRay's own schemas."""

import contextlib
import getpass
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import jsonschema
import mlflow
import psutil
import pytest
import yaml
from object_store import ObjectStore
from proofs import REPOSITORY, Record, only_output
from ray_cluster import free_ports
from services import MlflowServer, Postgres, await_true, needed

INFRA = REPOSITORY / "infra"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
SMALL = (
    *("download.procedural.count=4", "render.views=3", "render.resolution=32", "render.shard_objects=2"),
    *("download.shard_objects=2", "stages=[download, render]", "report=false"),
)


def strict(schema: Any) -> Any:
    """A schema of Kubernetes that refuses fields it does not know, as the API server does with strict validation."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and "additionalProperties" not in schema:
        made["additionalProperties"] = bool(schema.get("x-kubernetes-preserve-unknown-fields"))
    if schema.get("x-kubernetes-int-or-string"):
        made.pop("type", None)
        made["type"] = ["integer", "string"]
    return made


@pytest.mark.acceptance(
    "Every KubeRay manifest has only fields that the operator's own schemas know, RayService included"
)
def test_kuberay_manifests_against_the_operators_schemas(shared: Path, record_property: Record) -> None:
    folder = shared / "kuberay"
    if not folder.is_dir():
        pytest.skip("the operator's schemas (../shared/kuberay) are not here")
    checks = {}
    for file in folder.glob("*.yaml"):
        definition = yaml.load(file.read_text(), yaml.CSafeLoader)["spec"]
        for version in definition["versions"]:
            if version["name"] == "v1":
                schema = strict(version["schema"]["openAPIV3Schema"])
                # The API server knows what is in the metadata, and the definition does not say it.
                schema["properties"]["metadata"] = {"type": "object"}
                checks[definition["names"]["kind"]] = jsonschema.Draft202012Validator(schema)
    assert {"RayCluster", "RayJob", "RayService"} <= set(checks)
    found = []
    for file in sorted((INFRA / "kuberay").glob("*.yaml")):
        for document in yaml.safe_load_all(file.read_text()):
            if document["apiVersion"] == "ray.io/v1":
                problems = [f"{list(e.path)}: {e.message}" for e in checks[document["kind"]].iter_errors(document)]
                assert problems == [], file.name
                found.append(document)
                wrong = {**document, "spec": {**document["spec"], "noSuchField": 1}}
                assert list(checks[document["kind"]].iter_errors(wrong)), "the check can fail"
    assert len(found) >= 3
    record_property("manifests", [document["kind"] for document in found])


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A controller and one node on this machine, with munge; the environment in which its commands find it."""
    for program, package in (("slurmctld", "slurmctld"), ("slurmd", "slurmd"), ("munged", "munge")):
        needed(program, package)
    if os.geteuid() != 0:
        pytest.skip("slurmd runs jobs as their user, which root alone may do")
    folder = tmp_path / "slurm"
    for name in ("state", "spool", "munge"):
        (folder / name).mkdir(parents=True)
    for place in (folder, *folder.iterdir(), *folder.parents):
        with contextlib.suppress(OSError):
            place.chmod(place.stat().st_mode | 0o711)  # munge refuses a socket that others cannot reach
    (folder / "munge").chmod(0o755)
    key = folder / "munge" / "key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    controller, node = free_ports(2)
    socket = folder / "munge" / "socket"
    cpus = os.cpu_count() or 1
    configuration = folder / "slurm.conf"
    configuration.write_text(
        f"""ClusterName=test
SlurmctldHost={os.uname().nodename}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser={getpass.getuser()}
AuthType=auth/munge
AuthInfo=socket={socket}
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=2
MailProg=/bin/true
NodeName={os.uname().nodename} NodeAddr=127.0.0.1 CPUs={max(cpus, 2)} RealMemory=8000 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
    )
    environment = {**os.environ, "SLURM_CONF": str(configuration)}
    daemons = [
        ["munged", "--foreground", "--force", f"--key-file={key}", f"--socket={socket}", "--num-threads=1"],
        ["slurmctld", "-D", "-f", str(configuration)],
        ["slurmd", "-D", "-f", str(configuration)],
    ]
    daemons[0] += [f"--{name}-file={folder}/munge/{name}" for name in ("pid", "seed", "log")]
    started = []
    try:
        for words in daemons:
            with open(folder / f"{words[0]}.out", "wb") as out:
                started.append(subprocess.Popen(words, env=environment, stdout=out, stderr=out))
            time.sleep(2)
        await_true(lambda: b"idle" in call(["sinfo", "--noheader", "--format=%t"], environment), 120, folder)
        yield environment
    finally:
        for process in reversed(started):
            for child in psutil.Process(process.pid).children(recursive=True) if process.poll() is None else ():
                child.kill()
            process.kill()
            process.wait()


def call(words: list[str], environment: dict[str, str]) -> bytes:
    done = subprocess.run(words, env=environment, cwd=REPOSITORY, capture_output=True, check=False)
    return done.stdout + done.stderr


@pytest.mark.acceptance(
    "The Slurm script under a real slurmctld and slurmd: the job is done, and nothing is left of it"
)
def test_the_slurm_script_under_real_slurm(slurm: dict[str, str], tmp_path: Path, record_property: Record) -> None:
    environment = {**slurm, "SAR3D_VENV": str(Path(sys.executable).parents[1])}
    log, root = tmp_path / "job.log", tmp_path / "root"
    words = [
        "sbatch",
        "--parsable",
        "--ntasks=2",
        "--cpus-per-task=1",
        "--gpus-per-task=0",
        "--mem-per-cpu=100M",
        "--time=20",
    ]
    words += [f"--output={log}", "--export=ALL", "infra/slurm/ray.sbatch", "--config", "configs/demo.yaml"]
    words += [f"root={root}", "tracking.enabled=false", *SMALL]
    number = call(words, environment).decode().strip()
    assert number.isdigit(), number
    states = ["squeue", "--noheader", f"--jobs={number}", "--format=%T"]
    await_true(lambda: not call(states, environment).strip(b"\n ") or b"Invalid" in call(states, environment), 900, log)
    shown = call(["scontrol", "show", "job", number], environment).decode()
    assert "JobState=COMPLETED" in shown, shown + log.read_text()
    assert only_output(root, "render").finished(), log.read_text()
    assert not list(Path("/tmp").glob(f"ray-{number}-*")), "Ray's folders are gone"
    record_property("job", [line.strip() for line in shown.splitlines() if "NumNodes" in line])


@pytest.fixture
def ssh(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """A port on which a real sshd lets this user in, and the key to it."""
    program = needed("sshd", "openssh-server")
    needed("rsync", "rsync")
    for name in ("host", "user"):
        made = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)]
        subprocess.run(made, check=True)
    keys = tmp_path / "authorized_keys"
    shutil.copyfile(tmp_path / "user.pub", keys)
    keys.chmod(0o600)
    Path("/run/sshd").mkdir(exist_ok=True)
    (port,) = free_ports(1)
    options = {"Port": port, "ListenAddress": "127.0.0.1", "HostKey": tmp_path / "host", "UsePAM": "no"}
    options |= {"AuthorizedKeysFile": keys, "StrictModes": "no", "PidFile": tmp_path / "sshd.pid"}
    options |= {"PermitRootLogin": "yes", "Subsystem": "sftp internal-sftp", "MaxStartups": "100"}
    (tmp_path / "sshd_config").write_text("".join(f"{name} {value}\n" for name, value in options.items()))
    with open(tmp_path / "sshd.log", "wb") as log:
        process = subprocess.Popen([program, "-D", "-e", "-f", str(tmp_path / "sshd_config")], stdout=log, stderr=log)
    try:
        yield port, tmp_path / "user"
    finally:
        process.terminate()
        process.wait()


def launched_here(place: Path, key: Path, token: Path, ports: list[int]) -> dict[str, Any]:
    """The launcher's file with the local provider: its mounts, its set-up, its commands. The machine is this one and has
    the packages."""
    config: dict[str, Any] = yaml.safe_load((INFRA / "ray" / "cluster.yaml").read_text())
    venv = Path(sys.executable).parents[1]
    more = f"--port={ports[0]} --temp-dir={place}/ray --num-cpus=2 --dashboard-port={ports[1]}"
    renamed = {"~/venv/bin/ray stop": "true", "~/venv": str(venv), "~/.sar3d-ray-token": str(place / "token")}
    renamed |= {"--port=6379": more, "MLFLOW_TRACKING_URI=http://REPLACE_MLFLOW_HOST:5000": ""}

    def here(command: str) -> str:
        for old, new in renamed.items():
            command = command.replace(old, new)
        return command

    config |= {
        "provider": {"type": "local", "head_ip": "127.0.0.1", "worker_ips": []},
        "auth": {"ssh_user": getpass.getuser(), "ssh_private_key": str(key)},
        "file_mounts": {str(place / "sar3d"): str(REPOSITORY), str(place / "token"): str(token)},
        # Of the set-up, what a machine that has the packages still does.
        "setup_commands": [here("test -x ~/venv/bin/python")],
        "head_start_ray_commands": [here(command) for command in config["head_start_ray_commands"]],
        "worker_start_ray_commands": [here(command) for command in config["worker_start_ray_commands"]],
        "max_workers": 0,
    }
    del config["available_node_types"], config["head_node_type"]
    return config


def ssh_on(port: int, folder: Path) -> str:
    """A folder for the PATH whose ssh goes to that port: the launcher has no setting for it."""
    wrapper = folder / "bin" / "ssh"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -p {port} "$@"\n')
    wrapper.chmod(0o755)
    return str(wrapper.parent)


@pytest.mark.acceptance(
    "The launcher's configuration through `ray up` with the local provider over a real sshd: files, set-up, head, a job"
)
def test_ray_up_over_a_real_sshd(ssh: tuple[int, Path], tmp_path: Path, record_property: Record) -> None:
    port, key = ssh
    place = Path(tempfile.mkdtemp(prefix="up-", dir="/tmp"))  # short: Ray's sockets lie below it
    home, token, root = (tmp_path / name for name in ("home", "token", "root"))
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    token.write_text("0123456789abcdef" * 4)
    token.chmod(0o600)
    ports = free_ports(2)
    file = tmp_path / "cluster.yaml"
    file.write_text(yaml.safe_dump(launched_here(place, key, token, ports)))
    path = f"{ssh_on(port, tmp_path)}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "HOME": str(home), "RAY_TMPDIR": str(tmp_path / "r")}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    try:
        up = call(["ray", "up", "--yes", "--no-config-cache", str(file)], environment).decode()
        assert (place / "sar3d" / "pyproject.toml").is_file(), up
        assert not (place / "sar3d" / ".git").exists()
        job = ["ray", "job", "submit", f"--address=http://127.0.0.1:{ports[1]}", "--working-dir", str(place / "sar3d")]
        job += ["--", "python", "-m", "pipelines.run", "--config", "configs/demo.yaml", f"root={root}", *SMALL]
        stranger = {**environment, "RAY_AUTH_TOKEN_PATH": os.devnull}
        assert subprocess.run(job, env=stranger, capture_output=True, check=False).returncode != 0, "without the token"
        said = call([*job, "tracking.enabled=false"], environment).decode()
        assert only_output(root, "render").finished(), up + said
        record_property("nodes", 1)
    finally:
        for process in psutil.process_iter(["cmdline"]):
            if any(str(place / "ray") in word for word in process.info["cmdline"] or ()):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        shutil.rmtree(place, ignore_errors=True)


@pytest.mark.acceptance(
    "MLflow on a real PostgreSQL with artifacts in S3: runs, charts' steps, files and models are there"
)
def test_mlflow_on_a_real_postgresql_and_s3(
    s3_root: str, object_store: ObjectStore, tmp_path: Path, record_property: Record
) -> None:
    bucket = s3_root.split("/")[2]
    with Postgres(tmp_path / "postgres") as database:
        environment = {"MLFLOW_S3_ENDPOINT_URL": object_store.url}
        with MlflowServer(tmp_path / "server", database.uri, f"s3://{bucket}/here", environment) as server:
            root = tmp_path / "root"
            words = [sys.executable, "-m", "pipelines.run", "--config", "configs/demo.yaml", f"root={root}", *SMALL]
            done = subprocess.run(
                [*words, "cluster.address=local"],
                cwd=REPOSITORY,
                env={**os.environ, "MLFLOW_TRACKING_URI": server.uri},
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stdout + done.stderr
            assert not (root / "mlflow.db").exists()
            client = mlflow.MlflowClient(server.uri)
            for stage in ("download", "render"):
                run = client.get_run(only_output(root, stage).run_id() or "")
                assert run.info.status == "FINISHED"
                assert run.data.metrics["objects"] == 4
                files = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
                assert {"config.yaml", "failures.csv"} <= files
            kept = boto3.client("s3").list_objects_v2(Bucket=bucket)["Contents"]
            assert all(entry["Key"].startswith("here/") for entry in kept)
            tables = database.query("SELECT count(*) FROM runs")
            assert int(tables) >= 3, "the parent and two stages"
            record_property("files in S3", len(kept))
            record_property("command", shlex.join(words[1:4]))
