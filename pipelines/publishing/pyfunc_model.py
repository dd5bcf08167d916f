"""The MLflow model: loaded by MLflow as code (`models from code`), so that nothing is pickled.

Rows in, rows out. A row with `text` alone is generated, one with `object` alone is described, one with both is varied.
"""

import base64
import tempfile
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import torch

from pipelines.publishing.columns import DEFAULTS, GENERATE, check_rows


class Sar3DModel(mlflow.pyfunc.PythonModel):
    """Generates, varies and describes."""

    def load_context(self, context: Any) -> None:
        """Load the bundle that lies beside this code."""
        from sar3d import Sar3D

        self.system = Sar3D.from_pretrained(context.artifacts["models"])

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """One row for each row; see `pipelines.publishing.columns`."""
        asked = {**DEFAULTS, **(params or {})}
        return pd.DataFrame([self._answer(row, asked) for row in check_rows(model_input)])

    def _answer(self, row: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
        tokens = None if row["object"] is None else self._tokens(base64.b64decode(row["object"]))
        glb, problem, described = None, None, tokens
        if row["text"] is not None:
            wanted = {"text": row["text"], "seed": row["seed"], "decoding": asked["preset"]}
            if tokens is None:
                (sample,) = self.system.generate(**wanted)
            else:
                (sample,) = self.system.vary(tokens, keep_scales=row["keep_scales"], **wanted)
            described = sample.tokens
            glb, problem = self._glb(sample, asked)
        assert described is not None
        words = self.system.caption(described[None])[0] if self.system.folders.captioner is not None else None
        return {"caption": words, "glb": glb, "problem": problem, "tokens": described.tolist()}

    def _glb(self, sample: Any, asked: dict[str, Any]) -> tuple[str | None, str | None]:
        """A file in base64, or why there is none."""
        from sar3d.errors import ObjectError
        from sar3d.export.config import ExportSettings

        sizes = {name: asked[name] for name in GENERATE}
        export = ExportSettings(formats=("glb",), level=asked["level"] or None, **sizes)
        with tempfile.TemporaryDirectory() as folder:
            try:
                sample.save(folder, export)
            except ObjectError as error:
                return None, error.reason
            return base64.b64encode(Path(folder, "object.glb").read_bytes()).decode(), None

    def _tokens(self, data: bytes) -> torch.Tensor:
        """Of a GLB file, read and drawn in a limited process."""
        from pipelines.caching.token_encoder import loaded_encoder
        from pipelines.captioning.files import encoded_files, rendering
        from sar3d.errors import ObjectError

        system = self.system
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "object.glb")
            path.write_bytes(data)
            encoder, gpus = loaded_encoder(system.vqvae, system.vqvae_digest), float(system.device.type == "cuda")
            (made,) = encoded_files([path], encoder, system.vqvae.config.resolution, rendering(None, "auto"), gpus)
        if made.tokens is None:
            raise ObjectError(made.kind, made.error)
        return torch.tensor(made.tokens)


mlflow.models.set_model(Sar3DModel())
