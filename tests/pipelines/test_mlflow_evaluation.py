"""A judge's scores in MLflow: traces with scores and reasons, and their mean as a metric of the run."""

from pathlib import Path

import pytest

from pipelines.runtime.mlflow_evaluation import Assessment, log_assessments
from pipelines.runtime.mlflow_run import Place, connect, experiment_of


@pytest.mark.slow
def test_judged_captions_are_traces_of_the_run(tmp_path: Path) -> None:
    where = Place(f"sqlite:///{tmp_path / 'mlflow.db'}", "sar3d", str(tmp_path / "artifacts"))
    client = connect(where)
    experiment = experiment_of(client, where)
    run = client.create_run(experiment).info.run_id
    judged = [
        Assessment("a", "a cup", "a red cup", 50, "the color is missing"),
        Assessment("b", "", "a boat", 0, "nothing was said"),
    ]
    log_assessments(client, run, "judge_m_01234567", judged)
    log_assessments(client, run, "judge_m_01234567", [Assessment("c", "a", "b", 100, "again")])
    assert client.get_run(run).data.metrics == {"judge_m_01234567/mean": 25.0}
    traces = client.search_traces(locations=[experiment])
    found = {(a.value, a.rationale) for trace in traces for a in trace.info.assessments if a.name.startswith("judge")}
    assert len(traces) == 2, "a repeated entry adds nothing"
    assert found == {(50, "the color is missing"), (0, "nothing was said")}
