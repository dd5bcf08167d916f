"""The cluster files: they parse, have what their schemas ask for, and call commands that exist."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.cli import _parser
from pipelines.registry import load
from sar3d import __version__
from sar3d.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[1]
INFRA = REPOSITORY / "infra"
FILES = sorted(p for p in INFRA.rglob("*") if p.is_file())
RAY = re.search(r"ray\[[a-z,]+\]==([\d.]+)", (REPOSITORY / "pyproject.toml").read_text())
assert RAY is not None
RAY_VERSION = RAY[1]

Yaml = dict[str, Any]


def documents(name: str) -> list[Yaml]:
    return list(yaml.safe_load_all((INFRA / name).read_text()))


def of_kind(name: str, kind: str) -> Yaml:
    (found,) = [d for d in documents(name) if d["kind"] == kind]
    return found


def containers(value: Any) -> Iterator[Yaml]:
    """Every container of every pod template below a value."""
    if isinstance(value, dict):
        yield from value.get("containers", [])
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from containers(part)


@pytest.mark.parametrize(
    "name",
    [
        "kuberay/raycluster.yaml",
        "kuberay/rayservice.yaml",
        "kuberay/rayjob-render.yaml",
        "kuberay/rayjob-train.yaml",
        "kuberay/mlflow.yaml",
    ],
)
def test_kubernetes_objects_are_complete(name: str) -> None:
    for document in documents(name):
        assert {"apiVersion", "kind", "metadata"} <= set(document)
        assert {"name", "generateName"} & set(document["metadata"])
    found = [c for d in documents(name) for c in containers(d)]
    assert found
    for container in found:
        assert {"name", "image"} <= set(container)
        for kind in ("requests", "limits"):
            assert {"cpu", "memory"} <= set(container["resources"][kind]), container["name"]


def test_the_ray_cluster_has_a_quiet_head_and_workers_of_both_kinds() -> None:
    spec = of_kind("kuberay/raycluster.yaml", "RayCluster")["spec"]
    assert spec["rayVersion"] == RAY_VERSION
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    groups = {g["groupName"]: g for g in spec["workerGroupSpecs"]}
    for group in groups.values():
        assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    gpus = {n: next(containers(g))["resources"]["limits"].get("nvidia.com/gpu") for n, g in groups.items()}
    assert gpus == {"cpu": None, "gpu": "1"}


def test_every_ray_container_gets_the_environment_that_is_defined() -> None:
    environment = of_kind("kuberay/raycluster.yaml", "ConfigMap")
    assert "MLFLOW_TRACKING_URI" in environment["data"]
    for container in containers(of_kind("kuberay/raycluster.yaml", "RayCluster")):
        names = [source["configMapRef"]["name"] for source in container["envFrom"] if "configMapRef" in source]
        assert names == [environment["metadata"]["name"]]


def test_the_job_runs_on_that_cluster_and_its_server_is_that_service() -> None:
    cluster = of_kind("kuberay/raycluster.yaml", "RayCluster")["metadata"]["name"]
    for name in ("rayjob-render.yaml", "rayjob-train.yaml"):
        job = of_kind(f"kuberay/{name}", "RayJob")["spec"]
        assert job["clusterSelector"] == {"ray.io/cluster": cluster}
    service = of_kind("kuberay/mlflow.yaml", "Service")
    uri = of_kind("kuberay/raycluster.yaml", "ConfigMap")["data"]["MLFLOW_TRACKING_URI"]
    assert uri == f"http://{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
    pod = of_kind("kuberay/mlflow.yaml", "Deployment")["spec"]["template"]
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()


def test_the_services_configuration_makes_an_application(monkeypatch: pytest.MonkeyPatch) -> None:
    """Serve's schema takes it, and what it imports takes its arguments, with the token of the secret and not without."""
    from ray.serve.schema import ServeDeploySchema

    from pipelines.serving.cluster import build
    from pipelines.serving.door import proxy_middlewares

    spec = of_kind("kuberay/rayservice.yaml", "RayService")["spec"]
    assert spec["rayClusterConfig"]["rayVersion"] == RAY_VERSION
    assert spec["rayClusterConfig"]["authOptions"] == {"mode": "token"}
    config = ServeDeploySchema.model_validate(yaml.safe_load(spec["serveConfigV2"]))
    (application,) = config.applications
    assert application.import_path == "pipelines.serving.cluster:build"
    monkeypatch.delenv("SAR3D_TOKEN", raising=False)
    with pytest.raises(UserError, match="needs a token"):
        build(application.args)
    monkeypatch.setenv("SAR3D_TOKEN", "0123456789abcdef0123456789abcdef")
    build(application.args)
    with pytest.raises(UserError, match="replica_count"):
        build({**application.args, "replica_count": 3})
    for container in containers(of_kind("kuberay/rayservice.yaml", "RayService")):
        values = {entry["name"]: entry["value"] for entry in container["env"]}
        assert values["SAR3D_UPLOAD_BYTES"] == str(application.args["service"]["upload_bytes"])
        assert values["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"].endswith(f":{proxy_middlewares.__name__}")


def test_ray_accepts_the_cluster_launchers_file() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = documents("ray/cluster.yaml")[0]
    validate_config(prepare_config(dict(config)))
    types = config["available_node_types"]
    assert types[config["head_node_type"]]["resources"] == {"CPU": 0}
    assert any(t["resources"].get("GPU") for t in types.values())
    assert "libegl1 libegl-mesa0 libgl1-mesa-dri libgl1" in " ".join(config["setup_commands"])


def test_every_cluster_asks_for_a_token() -> None:
    """KubeRay, the launcher, Slurm, and the nodes that docs/cluster.md starts by hand."""
    assert of_kind("kuberay/raycluster.yaml", "RayCluster")["spec"]["authOptions"] == {"mode": "token"}
    launcher = documents("ray/cluster.yaml")[0]
    starts = [c for k in ("head", "worker") for c in launcher[f"{k}_start_ray_commands"] if "ray start" in c]
    assert len(starts) == 2
    for command in starts:
        assert "RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=~/.sar3d-ray-token" in command
    assert "/home/ubuntu/.sar3d-ray-token" in launcher["file_mounts"]
    guide = (REPOSITORY / "docs/cluster.md").read_text()
    for text in ((INFRA / "slurm/ray.sbatch").read_text(), guide[guide.index("\nray start --head") - 200 :]):
        assert text.index("export RAY_AUTH_MODE=token RAY_AUTH_TOKEN") < text.index("\nray start --head")
    everything = [guide, *(f.read_text() for f in FILES)]
    assert not [line for text in everything for line in text.splitlines() if "AUTH_MODE=disabled" in line]


def test_the_mlflow_servers_take_options_that_exist() -> None:
    from mlflow.cli import server

    known = {name for parameter in server.params for name in parameter.opts}
    compose = documents("mlflow/compose.yaml")[0]["services"]
    assert {"postgres", "mlflow"} == set(compose)
    pod = next(containers(of_kind("kuberay/mlflow.yaml", "Deployment")))
    for words in (compose["mlflow"]["command"], pod["args"]):
        assert words[0] == "server"
        assert {w.split("=")[0] for w in words[1:]} <= known
        assert any(w.startswith("--allowed-hosts=") for w in words)


def test_the_mlflow_image_has_the_driver_that_the_address_names() -> None:
    """SQLAlchemy 2.1 means another driver than 2.0 by `postgresql://` alone."""
    image = (INFRA / "mlflow/Dockerfile").read_text()
    stores = [uri for file in FILES for uri in re.findall(r"postgresql(\S*?)://", file.read_text())]
    assert stores
    assert all(driver.startswith("+") and f"{driver[1:]}-binary" in image for driver in stores)


def test_variables_of_the_compose_file_stand_in_its_example() -> None:
    used = set(re.findall(r"\$\{(\w+)", (INFRA / "mlflow/compose.yaml").read_text()))
    named = set(re.findall(r"^(\w+)=", (INFRA / "mlflow/env.example").read_text(), re.MULTILINE))
    assert used == named


def test_the_slurm_script_is_valid_shell() -> None:
    subprocess.run(["bash", "-n", str(INFRA / "slurm/ray.sbatch")], check=True)


def commands() -> Iterator[tuple[str, list[str]]]:
    """(file, words of the command) of every sar3d command in the cluster files and their comments."""
    for name in ("rayjob-render.yaml", "rayjob-train.yaml"):
        entrypoint = of_kind(f"kuberay/{name}", "RayJob")["spec"]["entrypoint"]
        yield name, shlex.split(entrypoint)[2:]
    usage = re.search(
        r"^# +sbatch infra/slurm/ray.sbatch (.*)$", (INFRA / "slurm/ray.sbatch").read_text(), re.MULTILINE
    )
    assert usage is not None
    script = (INFRA / "slurm/ray.sbatch").read_text()
    (module,) = re.findall(r'-- python -m (pipelines\.\w+) "\$@"', script)
    yield "ray.sbatch", [module, *shlex.split(usage[1])]


@pytest.mark.parametrize(("file", "words"), list(commands()), ids=lambda v: v if isinstance(v, str) else "")
def test_commands_parse_and_their_settings_exist(file: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    parsed = _parser().parse_args([words[0].removeprefix("pipelines."), *words[1:]])
    config = load(parsed.config.removeprefix("/opt/sar3d/"), parsed.overrides)
    assert config.root.startswith(("/", "s3://"))


def test_the_image_is_the_same_everywhere_and_of_this_version() -> None:
    texts = {f.relative_to(INFRA).as_posix(): f.read_text() for f in FILES}
    images = {i for text in texts.values() for i in re.findall(r"REPLACE_REGISTRY/(sar3d:[\w.]+)", text)}
    assert images == {f"sar3d:{__version__}"}
    assert "/opt/sar3d" in texts["Dockerfile"]
    assert "NVIDIA_DRIVER_CAPABILITIES=compute,utility,graphics" in texts["Dockerfile"]


def test_what_the_image_copies_exists_and_is_let_through() -> None:
    copied = re.findall(r"^COPY (.+) \S+$", (INFRA / "Dockerfile").read_text(), re.MULTILINE)
    names = {name for line in copied for name in line.split()}
    allowed = set(re.findall(r"^!(\S+)$", (INFRA / "Dockerfile.dockerignore").read_text(), re.MULTILINE))
    assert names == allowed
    assert all((REPOSITORY / name).exists() for name in names)


def test_no_code_imports_infra() -> None:
    lines = [
        line for folder in ("sar3d", "pipelines") for f in (REPOSITORY / folder).rglob("*.py") for line in f.open()
    ]
    assert not [line for line in lines if re.match(r"\s*(from|import) infra\b", line)]


SRUN = """#!/usr/bin/env bash
# Two tasks on this machine, as srun would start them: TERM is passed on.
while [[ "$1" == --* ]]; do shift; done
for task in 0 1; do SLURM_PROCID=$task SLURM_LOCALID=$task "$@" & tasks+=" $!"; done
trap 'kill -TERM $tasks' TERM
wait $tasks || wait $tasks
"""


@pytest.mark.slow
def test_the_slurm_script_runs_a_job_and_cleans_up(tmp_path: Path) -> None:
    """Head and two workers on this machine, with a stand-in for srun; nothing is left of them afterwards."""
    (tmp_path / "srun").write_text(SRUN)
    (tmp_path / "srun").chmod(0o755)
    number = str(50_000 + os.getpid() % 10_000)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": number}
    environment |= {"SLURM_CPUS_PER_TASK": "1", "SAR3D_VENV": str(Path(sys.executable).parents[1])}
    words = ["--config", "configs/demo.yaml", f"root={tmp_path / 'root'}", "download.procedural.count=4"]
    words += ["render.views=3", "render.resolution=32", "render.shard_objects=2", "tracking.enabled=false"]
    words += ["stages=[download,render]", "report=false"]
    shell = shutil.which("bash") or "bash"
    done = subprocess.run(
        [shell, str(INFRA / "slurm/ray.sbatch"), *words],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert list((tmp_path / "root" / "render").glob("*/_SUCCESS"))
    assert not list(Path("/tmp").glob(f"ray-{number}-*"))
