"""A bundle: the models that belong together, in one folder that `Sar3D.from_pretrained` takes, with a card."""

import shutil
from pathlib import Path

from sar3d.errors import UserError
from sar3d.generate.folders import CAPTIONER_FOLDER, GENERATOR_FOLDERS, MESH_FOLDER, VQVAE_FOLDER, Folders, find_folders
from sar3d.hub import describe, digest

CARD = "README.md"


def make_bundle(model: str, out: Path) -> Folders:
    """Copy the models of a place into the folder `out`; returns where they are now.

    Args:
        model: a pipeline's root, a bundle, a URL, or a repository of the hub.
        out: a new folder, or an empty one.

    Raises:
        UserError: there are no models, or `out` holds something.
    """
    found = find_folders(model)
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out} is not empty: give a new folder for the bundle")
    for name, folder in _parts(found).items():
        shutil.copytree(folder, out / name)
    (out / CARD).write_text(bundle_card(find_folders(out)), encoding="utf-8")
    return find_folders(out)


def _parts(folders: Folders) -> dict[str, Path]:
    """Folders of a bundle by name."""
    parts = {VQVAE_FOLDER: folders.vqvae}
    parts |= {GENERATOR_FOLDERS[kind]: folder for kind, folder in folders.generators.items()}
    if folders.captioner is not None:
        parts[CAPTIONER_FOLDER] = folders.captioner
    if folders.flexicubes is not None:
        parts[MESH_FOLDER] = folders.flexicubes
    return parts


def bundle_card(folders: Folders) -> str:
    """Markdown with the metadata that the Hugging Face hub reads."""
    kinds = {"text": "text-to-3d", "image": "image-to-3d"}
    tag = next(kinds[kind] for kind in kinds if kind in folders.generators)
    rows = [
        f"| `{name}/` | {describe(folder)['kind']} | `{digest(folder)}` |" for name, folder in _parts(folders).items()
    ]
    ask = 'text="a red apple"' if "text" in folders.generators else 'image="cup.png"'
    return "\n".join(
        [
            *("---", "library_name: sar3d", "tags: [3d, sar3d]", f"pipeline_tag: {tag}", "---"),
            "# SAR3D models",
            "",
            "Models that belong together: a tokenizer, generators of 3D objects, and what describes objects.",
            "",
            *("| folder | kind | digest |", "|---|---|---|", *rows),
            "",
            *("## Use", "", "```python", "from sar3d import Sar3D", ""),
            'system = Sar3D.from_pretrained("path/to/this/folder")  # or the name of this repository on the hub',
            f'system.generate({ask})[0].save("object")',
            *("```", ""),
        ]
    )


def push(folder: Path, repository: str, kind: str = "model") -> str:
    """Upload a folder to the Hugging Face hub; returns its address. The token is the one of `hf auth login` or HF_TOKEN.

    Raises:
        UserError: the hub refuses, or cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    try:
        api.create_repo(repository, repo_type=kind, exist_ok=True)
        return str(api.upload_folder(repo_id=repository, folder_path=folder, repo_type=kind))
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{repository} cannot be pushed to the hub: {reason}") from error
