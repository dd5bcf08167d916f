"""A part of `gpu.py`: the same training step under Ray Train and DeepSpeed, where they are installed."""

import dataclasses
import importlib.util
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from gpu_parts import Box, Setting, Values, say

_HERE = Path(__file__).resolve().parent


def training_step(box: Box, setting: Setting) -> None:
    """One worker on one GPU, ZeRO 1."""
    missing = [name for name in ("ray", "deepspeed") if importlib.util.find_spec(name) is None]
    if missing:
        return box.record("through Ray Train and DeepSpeed", {"not run": f"not installed: {', '.join(missing)}"})
    box.attempt("through Ray Train and DeepSpeed", lambda: measured(setting))
    return None


def measured(setting: Setting) -> Values:
    os.environ["PYTHONPATH"] = os.pathsep.join([str(_HERE.parent), str(_HERE), os.environ.get("PYTHONPATH", "")])
    os.environ |= {"RAY_TRAIN_V2_ENABLED": "1", "RAY_TRAIN_METRICS_ENABLED": "0"}
    on_gpu = setting.device.startswith("cuda")
    if not on_gpu:
        os.environ |= {"DS_ACCELERATOR": "cpu"}
    from pipelines.runtime.cluster import ClusterConfig, connect

    ray = connect(ClusterConfig(address="local"), say)
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    with tempfile.TemporaryDirectory() as storage:
        trainer = TorchTrainer(
            worker,
            train_loop_config={"tiny": setting.tiny},
            torch_config=TorchConfig(backend="nccl" if on_gpu else "gloo"),
            scaling_config=ScalingConfig(num_workers=1, use_gpu=on_gpu),
            run_config=RunConfig(storage_path=storage),
        )
        found: Values = trainer.fit().return_value
    ray.shutdown()
    return found


def worker(given: dict[str, Any]) -> Values:
    """The step of `gpu_step`, with the engine of the training stages."""
    sys.path.insert(0, str(_HERE))
    from gpu_step import TINY, batch_of, compile_blocks, random_task, settings_of, step_seconds

    from pipelines.runtime.training.state import TrainWork, start
    from pipelines.runtime.training.sync import Workers
    from sar3d.vqvae.config import QuantizerConfig

    task = random_task(*(("tiny", TINY) if given["tiny"] else ("d24", QuantizerConfig())))
    batch = 1 if given["tiny"] else 4
    settings = dataclasses.replace(settings_of(batch, "bf16"), zero=1)
    work = TrainWork(task, None, settings, "", "")  # type: ignore[arg-type]  # no data are read
    run = start(work, Workers())
    compile_blocks(run.model, run.device.type == "cuda")
    seconds = step_seconds(run, batch_of(task.model_config, batch, run.device.type == "cuda"))
    usual = statistics.median(seconds[2:])
    speed = task.speed(batch / usual, run.settings, run.device, 1)
    return {"batch": batch, "step_ms": 1e3 * usual, "first_step_seconds": seconds[0], **speed}
