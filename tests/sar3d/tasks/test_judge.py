"""The judge of procedural objects: what it sees, learns, says, and how its file comes back."""

from pathlib import Path

import pytest
import torch

from sar3d.errors import UserError
from sar3d.metrics.judge import QUESTIONS, RESOLUTION, VIEWS, Confusion, ProceduralJudge, judge_cameras
from sar3d.procedural import catalog, vocabulary
from sar3d.tasks.judge import answers, augmented, draw, measure, report, train

OBJECTS = catalog(4)


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    return draw([made.uid for made in OBJECTS])


def test_true_pictures_show_the_object_from_all_sides_inside_the_frame(pictures: torch.Tensor) -> None:
    assert pictures.shape == (4, VIEWS, 3, RESOLUTION, RESOLUTION)
    drawn = (pictures < 250).any(dim=2)
    assert (drawn.flatten(2).sum(2) > 200).all()
    assert not drawn[..., [0, -1], :].any()
    assert not torch.equal(pictures[:, 0], pictures[:, 4])


def test_a_judge_learns_what_it_is_shown(pictures: torch.Tensor) -> None:
    truth = answers([made.uid for made in OBJECTS[:2]])
    judge = train(pictures[:2], truth, epochs=25)
    tables = measure(judge, pictures[:2], truth)
    assert tables["family"].accuracy == tables["main"].accuracy == 1.0
    assert [line.split(":")[0] for line in report(tables)] == list(QUESTIONS)


def test_a_judge_comes_back_from_its_file(pictures: torch.Tensor, tmp_path: Path) -> None:
    torch.manual_seed(0)
    judge = ProceduralJudge({name: vocabulary()[name] for name in QUESTIONS}).eval()
    judge.save(tmp_path / "judge.safetensors")
    back = ProceduralJudge.load(tmp_path / "judge.safetensors")
    shown = pictures.float() / 255
    with torch.no_grad():
        for name, logits in judge(shown).items():
            assert torch.allclose(back(shown)[name], logits, atol=0.02)
    assert (tmp_path / "judge.safetensors").stat().st_size < 1 << 20
    verdict = back.judge(shown)[0]
    assert verdict.answers["family"] in vocabulary()["family"]
    assert 0.0 < verdict.confidence["main"] < 1.0


def test_another_file_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="holds no judge"):
        ProceduralJudge.load(tmp_path / "other.safetensors")


def test_training_pictures_stay_pictures(pictures: torch.Tensor) -> None:
    torch.manual_seed(1)
    for _ in range(6):
        changed = augmented(pictures)
        assert changed.shape == pictures.shape
        assert 0.0 <= float(changed.min()) <= float(changed.max()) <= 1.0
        assert (changed - pictures.float() / 255).abs().mean() < 0.2


def test_confusions_are_counted_by_truth_and_answer() -> None:
    table = Confusion.of(("cat", "dog"), ["cat", "cat", "dog", "dog"], ["cat", "dog", "dog", "dog"])
    assert table.counts.tolist() == [[1, 1], [0, 2]]
    assert table.accuracy == 0.75
    assert table.mistakes() == [("cat", "dog", 1)]


def test_cameras_look_at_the_middle_from_all_around() -> None:
    c2w, intrinsics = judge_cameras()
    assert c2w.shape == (VIEWS, 4, 4)
    assert intrinsics.shape == (VIEWS, 3, 3)
    assert abs(c2w[:, :2, 3].sum(axis=0)).max() < 0.15
