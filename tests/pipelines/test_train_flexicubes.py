"""The stage that trains the mesh decoder, and what meshes are then made from tokens."""

import shutil
from pathlib import Path
from typing import Any

import generators
import mlflow
import numpy as np
import pytest
import rendered
import torch

from pipelines.cli import main
from pipelines.runtime import runner
from pipelines.runtime.models import trained
from pipelines.runtime.output import Output
from pipelines.runtime.stage import StageReport
from pipelines.train_flexicubes import TrainFlexiCubesStage
from sar3d.errors import UserError
from sar3d.export.config import ExportSettings
from sar3d.generate import Sar3D
from sar3d.hub import digest, from_pretrained, save_pretrained
from sar3d.vqvae.field import MeshField
from sar3d.vqvae.flexi_config import FlexiConfig, FlexiVQVAEConfig
from sar3d.vqvae.flexi_model import FlexiVQVAE

STAGE = TrainFlexiCubesStage()
MESHES = ExportSettings(formats=("glb", "ply", "obj"), faces=200, texture=32)


def configure(root: Path, *overrides: str) -> Any:
    return rendered.configure(
        root,
        "tracking.enabled=true",
        "train_flexicubes.task.grid=12",
        "train_flexicubes.supervise=2",
        "train_flexicubes.workers=1",
        "train_flexicubes.cpus=1",
        "train_flexicubes.train={steps: 2, batch: 2, log_every: 1, schedule: {warmup: 1}}",
        "train_flexicubes.evaluate_objects=1",
        "train_flexicubes.draw_objects=1",
        *overrides,
    )


@pytest.fixture(scope="module")
def made(local_ray: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, StageReport, Output]:
    root = tmp_path_factory.mktemp("meshes") / "root"
    shutil.copytree(rendered.root(), root, ignore=shutil.ignore_patterns("cache_*", "train_*", "generate", "evaluate"))
    config = configure(root)
    return config, *rendered.run(STAGE, config)


def test_a_trained_vqvae_gets_heads_that_give_meshes(made: tuple[Any, StageReport, Output]) -> None:
    config, report, output = made
    assert report.state == "done"
    model = from_pretrained(output.store.path("model"), kind="flexicubes")
    vqvae = from_pretrained(rendered.model(), kind="vqvae").state_dict()
    frozen = {name: t for name, t in model.state_dict().items() if not name.startswith("heads.")}
    assert all(torch.equal(tensor, vqvae[name]) for name, tensor in frozen.items())
    assert trained(output, "flexicubes").extra == {"vqvae": digest(rendered.model())}
    pictures = set(output.store.names("artifacts"))
    assert "artifacts/step-000002/meshes_views.png" in pictures
    assert "artifacts/step-000002/meshes_views/0.glb" in pictures

    client = mlflow.MlflowClient(f"sqlite:///{config.root}/mlflow.db")
    run = client.get_run(str(report.run_id))
    assert {"loss", "mask", "depth", "normal", "start/level", "views/chamfer", "views/mask_iou"} <= set(
        run.data.metrics
    )
    assert len(client.get_metric_history(run.info.run_id, "loss")) == 2
    assert rendered.run(STAGE, config)[0].state == "reused"


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("train_flexicubes.vqvae={other}", "trained on the tokens"),
        ("train_flexicubes.supervise=0", "supervise=0"),
        ("train_flexicubes.task.grid=2", "grid is 2"),
        ("generate.flexicubes=train_flexicubes", r"generate\.decoder=flexicubes"),
    ],
)
def test_wrong_requests_are_one_sentence(
    made: tuple[Any, StageReport, Output], override: str, sentence: str, mesh_decoder: Path
) -> None:
    other = override.format(other=rendered.model(1))

    def ask() -> None:
        config = configure(Path(made[0].root), other, f"train_flexicubes.init_from={mesh_decoder}")
        runner.run(STAGE, config, log=lambda _: None)

    with pytest.raises(UserError, match=sentence) as caught:
        ask()
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def mesh_decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with heads for the tokens of the VQVAE that tests share; its objects fill about half of the cube."""
    vqvae = from_pretrained(rendered.model(), kind="vqvae")
    config = FlexiConfig(16, vqvae.config.field.hidden, vqvae.config.field.hidden_layers)
    torch.manual_seed(0)
    model = FlexiVQVAE(FlexiVQVAEConfig(vqvae.config, config))
    model.load_state_dict({n: t for n, t in vqvae.state_dict().items() if not n.startswith("field_mlp.")}, strict=False)
    with torch.no_grad():
        field = vqvae.field(vqvae.decode_tokens(torch.zeros(1, 2040, dtype=torch.long)))
        level = field.query(torch.rand(1, 4096, 3) * 0.8 - 0.4).raw.median()
    model.heads.start_from(vqvae.field_mlp, float(level))
    folder = tmp_path_factory.mktemp("flexicubes")
    save_pretrained(model, folder, {"vqvae": digest(rendered.model())})
    return folder


def vertices(path: Path) -> Any:
    """Positions and colors in an OBJ file."""
    return np.array([line.split()[1:] for line in path.read_text().splitlines() if line.startswith("v ")], float)


def test_the_same_tokens_become_a_field_or_a_mesh(mesh_decoder: Path, tmp_path: Path) -> None:
    system = Sar3D.from_pretrained(generators.bundle(), flexicubes=mesh_decoder, device="cpu")
    field, mesh = (system.generate(text="a red apple", decoder=kind)[0] for kind in ("nerf", "flexicubes"))
    assert torch.equal(field.tokens, mesh.tokens)
    assert isinstance(mesh.field, MeshField)
    assert not isinstance(field.field, MeshField)
    settings = mesh.save(tmp_path, MESHES)
    assert settings["decoder"] == "flexicubes"
    assert settings["models"]["flexicubes"] == digest(mesh_decoder)
    assert all((tmp_path / f"object.{name}").stat().st_size > 1000 for name in MESHES.formats)
    words = ["generate", "--text", "a red apple", "--model", generators.bundle(), "--device", "cpu", "--formats", "obj"]
    words += ["--decoder", "flexicubes", "--flexicubes", mesh_decoder, "--faces", 200, "--out", tmp_path / "out"]
    assert main([str(word) for word in words]) == 0
    # The program takes all processors, whose number changes the last digits.
    ours, theirs = (vertices(place / "object.obj") for place in (tmp_path, tmp_path / "out" / "a-red-apple-0"))
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    with pytest.raises(UserError, match="there is no decoder 'mesh'"):
        system.generate(text="a red apple", decoder="mesh")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="there is no mesh decoder"):
        Sar3D.from_pretrained(generators.bundle(), device="cpu").generate(text="a red apple", decoder="flexicubes")
    strange = tmp_path / "strange"
    save_pretrained(from_pretrained(mesh_decoder), strange, {"vqvae": "0" * 64})
    with pytest.raises(UserError, match="was trained on the tokens of the VQVAE 0000"):
        Sar3D.from_pretrained(generators.bundle(), flexicubes=strange, device="cpu").mesh_decoder()
