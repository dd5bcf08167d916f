"""Variations: coarse scales stay to the token, fine ones follow the prompt; what there is after each scale can be seen."""

import dataclasses
from pathlib import Path

import generators
import numpy as np
import pytest
import torch

from sar3d import Sar3D
from sar3d.ar.decoding_config import Decoding
from sar3d.ar.sampling import Kept
from sar3d.errors import UserError
from sar3d.export.config import ExportSettings
from sar3d.generate.partial import Partial
from sar3d.generate.prompts import NoPrompt, Prompt

LOOSE = Decoding(top_k=20, top_p=1.0)
COARSE = 3 * (1 + 4 + 9)
"""Tokens of three scales."""


@pytest.fixture(scope="module")
def system() -> Sar3D:
    return Sar3D.from_pretrained(generators.bundle(), device="cpu")


def test_kept_scales_stay_and_finer_ones_follow_prompt_and_seed(system: Sar3D, tmp_path: Path) -> None:
    (apple,) = system.generate(text="a red apple", decoding=LOOSE)
    varied = system.vary(apple, keep_scales=3, text="a ship", n=2, seed=1, decoding=LOOSE)
    for sample in varied:
        assert torch.equal(sample.tokens[:COARSE], apple.tokens[:COARSE])
        assert (sample.tokens[COARSE:] != apple.tokens[COARSE:]).float().mean() > 0.3
        assert sample.settings["keep_scales"] == 3
    assert not torch.equal(varied[0].tokens, varied[1].tokens)
    apple.save(tmp_path, ExportSettings(formats=()))
    for source in (apple.tokens, tmp_path, tmp_path / "tokens.safetensors"):
        again = system.vary(source, keep_scales=3, text="a ship", seed=1, decoding=LOOSE)[0]
        assert torch.equal(again.tokens, varied[0].tokens)


def test_all_scales_are_the_object_and_none_is_generation(system: Sar3D) -> None:
    first, second = system.generate(text="a red apple", n=2, decoding=LOOSE)
    scales = len(system.vqvae.config.quantizer.scales)
    (back,) = system.vary(first, keep_scales=scales, text="a ship")
    assert torch.equal(back.tokens, first.tokens)
    torch.testing.assert_close(back.planes, first.planes)
    (fresh,) = system.vary(second, keep_scales=0, text="a red apple", decoding=LOOSE)
    assert torch.equal(fresh.tokens, first.tokens)


def test_what_there_is_after_each_scale_grows_into_the_sample(system: Sar3D) -> None:
    seen: list[tuple[int, int, int, np.ndarray]] = []

    def look(done: Partial) -> None:
        seen.extend(
            (done.first + i, done.scale, done.done.tokens.shape[1], done.picture(i, 16)) for i in range(len(done))
        )

    prompts = [Prompt("a red apple", 1), Prompt("a ship", 2), Prompt(NoPrompt("text"), 3)]
    samples = list(system.sample(prompts, [LOOSE, Decoding(), LOOSE], batch=2, on_partial=look))
    sides = system.vqvae.config.quantizer.scales
    for i in range(3):
        mine = [entry for entry in seen if entry[0] == i]
        assert [(scale, length) for _, scale, length, _ in mine] == [(s, 3 * n * n) for s, n in enumerate(sides)]
        assert mine[0][3].shape == (16, 16, 3)
        assert (mine[0][3] != mine[-1][3]).any()
    assert samples[2].settings["prompt"] == {"kind": "none"}
    assert samples[1].settings["decoding"] == dataclasses.asdict(Decoding())


def test_what_is_no_object_of_these_models_is_refused(system: Sar3D, tmp_path: Path) -> None:
    (apple,) = system.generate(text="a red apple")
    with pytest.raises(UserError, match="11 scales cannot be kept: an object has 10"):
        system.vary(apple, keep_scales=11, text="a ship")
    with pytest.raises(UserError, match="give all tokens"):
        system.vary(apple.tokens[:9], keep_scales=1, text="a ship")
    with pytest.raises(UserError, match="holds no tokens"):
        system.vary(tmp_path / "none", keep_scales=1, text="a ship")
    other = dataclasses.replace(apple, settings={**apple.settings, "models": {"vqvae": "0" * 64}})
    other.save(tmp_path, ExportSettings(formats=()))
    with pytest.raises(UserError, match="of the VQVAE 0000000000000000, not of"):
        system.vary(tmp_path, keep_scales=1, text="a ship")
    with pytest.raises(UserError, match="must be 1 times"):
        list(system.sample([Prompt("a ship")], kept=Kept(apple.tokens[None, :5], [1])))
