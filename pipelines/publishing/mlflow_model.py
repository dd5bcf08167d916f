"""Models in MLflow's pyfunc flavor: with signature and input example, for `mlflow models serve` and `load_model`."""

from pathlib import Path
from typing import Any

from pipelines.publishing.columns import ANSWERS, COLUMNS, DEFAULTS, EXAMPLE
from sar3d import __version__

_CODE = Path(__file__).with_name("pyfunc_model.py")


def _arguments(bundle: Path) -> dict[str, Any]:
    """What saving and logging have in common."""
    import pandas as pd
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import Array, DataType

    inputs = Schema([ColSpec(kind, name, required=False) for name, kind in COLUMNS.items()])
    outputs = [ColSpec(kind, name, required=False) for name, kind in ANSWERS.items()]
    kinds = {str: "string", int: "long", float: "double"}
    params = ParamSchema([ParamSpec(name, kinds[type(value)], value) for name, value in DEFAULTS.items()])
    return {
        "python_model": str(_CODE),
        "artifacts": {"models": str(bundle)},
        "signature": ModelSignature(inputs, Schema([*outputs, ColSpec(Array(DataType.long), "tokens")]), params),
        "input_example": pd.DataFrame([EXAMPLE]),
        "pip_requirements": [f"sar3d=={__version__}"],
    }


def save(bundle: Path, folder: Path) -> None:
    """Write the MLflow model of a bundle into a new folder."""
    import mlflow

    mlflow.pyfunc.save_model(folder, **_arguments(bundle))


def register(bundle: Path, name: str) -> str:
    """Log the MLflow model of a bundle in a run of its own at MLFLOW_TRACKING_URI and register it; returns its address."""
    import mlflow

    with mlflow.start_run(run_name=f"publish {name}"):
        logged = mlflow.pyfunc.log_model(name="model", registered_model_name=name, **_arguments(bundle))
    return f"models:/{name}/{logged.registered_model_version}"
