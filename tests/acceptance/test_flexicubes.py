"""Proofs of the mesh decoder."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
import trimesh
from flexi_fit import chamfer_and_f, fit, scene_of
from proofs import Record

from sar3d.meshes import load_scene, normalize


@pytest.mark.slow
@pytest.mark.acceptance("FlexiCubes fit eight real objects from 32 views in less than 60 s each")
def test_fit_of_eight_objects(shared: Path, record_property: Record) -> None:
    listed = json.loads((shared / "objects" / "manifest.json").read_text())
    listed.sort(key=lambda entry: hashlib.sha256(entry["uid"].encode()).hexdigest())
    torch.set_num_threads(1)
    scores = []
    for entry in listed[:8]:
        scene, _ = normalize(load_scene(shared / "objects" / entry["file"]))
        fitted = fit(scene)
        chamfer, f_score = chamfer_and_f(scene_of(fitted.mesh), scene)
        record_property(entry["name"], f"chamfer {chamfer:.4f}, F@0.01 {f_score:.3f}, {fitted.cpu_seconds:.0f} CPU-s")
        mesh = trimesh.Trimesh(fitted.mesh.vertices.numpy(), fitted.mesh.faces.numpy(), process=False)
        assert mesh.is_watertight, entry["name"]
        scores.append((chamfer, f_score, fitted.cpu_seconds))
    assert all(chamfer < 0.0075 and f_score > 0.90 for chamfer, f_score, _ in scores)
    assert sum(chamfer < 0.004 and f_score > 0.98 for chamfer, f_score, _ in scores) >= 6
    assert all(seconds < 60 for *_, seconds in scores)
