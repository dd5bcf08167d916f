"""`sar3d publish`: models and rows in the forms that others expect."""

import argparse
import tempfile
from pathlib import Path
from typing import Any

from pipelines.runtime.progress import log
from sar3d.errors import UserError


def add_command(commands: Any) -> None:
    """Add `publish` to the subparsers of the command line."""
    about = "hand models or rows on: a bundle, a repository of the Hugging Face hub, an MLflow model, a dataset"
    sub = commands.add_parser("publish", help=about, description=f"{about[0].upper()}{about[1:]}.")
    sub.add_argument("source", metavar="MODELS", help="a pipeline's root, a bundle, a URL, or owner/name of the hub")
    sub.add_argument("--stage", metavar="NAME", help="publish the rows of this stage of the root, instead of models")
    target = sub.add_mutually_exclusive_group(required=True)
    target.add_argument("--to", metavar="DIR", type=Path, help="a new folder: a bundle, or a dataset")
    target.add_argument("--hub", metavar="OWNER/NAME", help="a repository of the Hugging Face hub")
    target.add_argument("--mlflow", metavar="NAME", help="a registered model of the server in MLFLOW_TRACKING_URI")
    target.add_argument("--mlflow-folder", metavar="DIR", type=Path, help="a new folder with an MLflow model")
    sub.set_defaults(call=_call)


def _call(parsed: argparse.Namespace) -> int:
    from pipelines.publishing.bundle import make_bundle, push

    if parsed.stage is not None and not (parsed.to or parsed.hub):
        raise UserError("rows become a dataset: give --to with a folder, or --hub with a repository")
    with tempfile.TemporaryDirectory() as scratch:
        folder = parsed.to or Path(scratch, "published")
        if parsed.stage is not None:
            from pipelines.publishing.dataset import publish_rows

            made = publish_rows(parsed.source, parsed.stage, folder)
            log(f"published {made.url}")
        else:
            make_bundle(parsed.source, folder)
        where = str(folder)
        if parsed.hub:
            where = push(folder, parsed.hub, "model" if parsed.stage is None else "dataset")
        elif parsed.mlflow or parsed.mlflow_folder:
            where = _to_mlflow(folder, parsed)
        log(f"published in {where}")
    return 0


def _to_mlflow(bundle: Path, parsed: argparse.Namespace) -> str:
    from pipelines.publishing.mlflow_model import register, save

    if parsed.mlflow:
        return register(bundle, parsed.mlflow)
    save(bundle, parsed.mlflow_folder)
    return str(parsed.mlflow_folder)
