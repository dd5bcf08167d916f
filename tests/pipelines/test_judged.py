"""A judge's scores in MLflow: traces with scores and reasons, and their mean as a metric of the run."""

from pathlib import Path

import pytest

from pipelines.evaluating.judged import Judged, log_judgements
from pipelines.runtime.mlflow_run import Place, connect, experiment_of
from sar3d.metrics.caption_judge import Judgement


@pytest.mark.slow
def test_judged_captions_are_traces_of_the_run(tmp_path: Path) -> None:
    where = Place(f"sqlite:///{tmp_path / 'mlflow.db'}", "sar3d", str(tmp_path / "artifacts"))
    client = connect(where)
    experiment = experiment_of(client, where)
    run = client.create_run(experiment).info.run_id
    judged = [
        Judged("a", "a cup", "a red cup", Judgement(50, "the color is missing")),
        Judged("b", "", "a boat", Judgement(0, "nothing was said")),
    ]
    log_judgements(where, run, "judge_m_01234567", judged)
    assert client.get_run(run).data.metrics == {"judge_m_01234567/mean": 25.0}
    traces = client.search_traces(locations=[experiment])
    found = {(a.value, a.rationale) for trace in traces for a in trace.info.assessments if a.name.startswith("judge")}
    assert found == {(50, "the color is missing"), (0, "nothing was said")}
