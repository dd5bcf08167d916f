"""The published checkpoints with FlexiCubes: names and shapes there and back, other widths, and what is refused."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sar3d.errors import UserError
from sar3d.hub import convert_published, describe, from_pretrained, save_pretrained, to_published
from sar3d.hub.flexicubes import from_published
from sar3d.vqvae.config import DecoderConfig, EncoderConfig, FieldConfig, QuantizerConfig, VQVAEConfig
from sar3d.vqvae.flexi_config import PUBLISHED_DEFORMATION, FlexiConfig, FlexiVQVAEConfig
from sar3d.vqvae.flexi_model import FlexiVQVAE

HEAD = "decoder.triplane_decoder.decoder.net_weight.4"
MESH = FlexiConfig(hidden=24, hidden_layers=2, deformation=PUBLISHED_DEFORMATION)
OTHER = VQVAEConfig(
    resolution=64,
    encoder=EncoderConfig(channels=32, multipliers=(1, 2, 1), blocks=1, attention_width=32, attention_heads=2),
    quantizer=QuantizerConfig(codebook_size=40, code_dim=4, phi=3, rule="published"),
    decoder=DecoderConfig(width=32, depth=2, heads=2, channels=8, multipliers=(1, 3), blocks=1, plane_channels=6),
    field=FieldConfig(hidden=24, hidden_layers=2),
)


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    """Of a checkpoint of another size than the published one."""
    torch.manual_seed(0)
    model = FlexiVQVAE(FlexiVQVAEConfig(vqvae=OTHER, mesh=MESH))
    return {name: tensor.clone() for name, tensor in to_published(model).items()}


def test_every_tensor_of_the_published_size_converts_and_comes_back(shared: Path):
    listed = json.loads((shared / "goldens" / "keys_vqvae_flexicubes.json").read_text())
    shapes = {name: key["shape"] for name, key in listed["keys"].items()}
    with torch.device("meta"):
        model = from_published({name: torch.empty(shape) for name, shape in shapes.items()}, "keys")
        back = to_published(model)
    assert {name: list(tensor.shape) for name, tensor in back.items()} == shapes
    assert sum(p.numel() for p in model.parameters()) == listed["total_params"]
    assert model.flexi_config.mesh == FlexiConfig(deformation=PUBLISHED_DEFORMATION)


def test_a_checkpoint_of_other_widths_comes_back_to_the_bit(tensors: dict[str, Tensor], tmp_path: Path):
    torch.save(tensors, tmp_path / "flexicubes.pt")
    model = convert_published(tmp_path / "flexicubes.pt", decoder_heads=2, encoder_heads=2)
    assert isinstance(model, FlexiVQVAE)
    assert model.flexi_config == FlexiVQVAEConfig(vqvae=OTHER, mesh=MESH)
    back = to_published(model)
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())


def test_a_model_is_saved_and_loaded(tensors: dict[str, Tensor], tmp_path: Path):
    model = from_published(tensors, "other")
    save_pretrained(model, tmp_path)
    assert describe(tmp_path)["kind"] == "flexicubes"
    loaded = from_pretrained(tmp_path, kind="flexicubes")
    assert loaded.flexi_config == model.flexi_config
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_heads_of_wrong_shapes_are_refused(tensors: dict[str, Tensor]):
    broken = dict(tensors)
    broken[f"{HEAD}.weight"], broken[f"{HEAD}.bias"] = (
        broken[f"{HEAD}.weight"][:20],
        broken[f"{HEAD}.bias"][:20],
    )
    with pytest.raises(UserError, match="net_weight from 144 to 20 channels, not from 144 to 21"):
        from_published(broken, "other")
    del tensors[f"{HEAD}.weight"]
    with pytest.raises(UserError, match=r"lacks the tensor .*net_weight\.4\.weight"):
        from_published(tensors, "other")


def test_grid_points_that_move_farther_cannot_be_published():
    with torch.device("meta"):
        model = FlexiVQVAE(FlexiVQVAEConfig(vqvae=OTHER, mesh=FlexiConfig(hidden=24, hidden_layers=2)))
    with pytest.raises(UserError, match=r"0\.45 cubes, which the published format cannot hold"):
        to_published(model)
