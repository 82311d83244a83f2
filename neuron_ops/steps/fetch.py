"""`fetch` makes `base_model`: a byte-exact copy of the published files.

The model is never loaded and saved again: a library can silently change its dtype, its sharding or its template. What a
model folder must hold belongs here.
"""

import logging
import math
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from neuron_ops.errors import CorruptArtifact, InvalidInput, MissingArtifact, Unavailable
from neuron_ops.models.config import read_config, refuse_without_weights
from neuron_ops.recipe.schema import BaseModelSection, package_path
from neuron_ops.steps import program
from neuron_ops.steps.addresses import Lineage
from neuron_ops.store.files import open_files
from neuron_ops.store.manifest import Scalar
from neuron_ops.weights.safetensors_io import read_model_folder

log = logging.getLogger(__name__)

# All files of a model folder except other frameworks' copies of the same weights and pickles.
WANTED = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "*.md", "LICENSE*", "NOTICE*", "USE_POLICY*")
UNWANTED = ("original/*", "*.bin", "*.pth", "*.gguf", "*.msgpack", "*.h5", "onnx/*")
OFFLINE = (
    "If this machine cannot reach the hub, download that commit elsewhere and set base_model.path to the folder "
    "(a local path or s3://bucket/prefix) and base_model.name to the repository id."
)


def build(lineage: Lineage, out: Path) -> program.StepResult:
    """Copy the recipe's model into `out` and inspect the copy."""
    section = lineage.recipe.base_model
    if section.repository is not None:
        _download(section, out)
    else:
        _copy(section, out)
    try:
        found = inspect(out)
    except (InvalidInput, MissingArtifact, CorruptArtifact) as error:
        # The copy is removed before anyone reads this message, so name its source.
        source = f"{section.repository}@{section.revision}" if section.repository else str(section.path)
        raise type(error)(f"base_model {str(error).replace(str(out), source)}") from None
    return program.StepResult(metrics={"model": section.id, "revision": section.revision, **found})


def inspect(folder: Path) -> dict[str, Scalar]:
    """The facts about a model folder, from config.json and the headers of its safetensors files.

    Raises:
        InvalidInput: no config.json, no safetensors files, or an architecture that is not supported.
        CorruptArtifact: config.json is not JSON, or a weights file is cut short or does not match its header.
    """
    config = read_config(folder)
    refuse_without_weights([path.name for path in folder.iterdir()], str(folder))
    files = read_model_folder(folder).files
    tensors = [tensor for file in files for tensor in file.entries.values()]
    return {
        "architecture": str(config["architectures"][0]),
        "parameters": sum(math.prod(tensor.shape) for tensor in tensors),
        "dtype": ", ".join(sorted({tensor.dtype for tensor in tensors})),
        "layers": config.get("num_hidden_layers"),
        "hidden_size": config.get("hidden_size"),
        "weights_bytes": sum(file.size for file in files),
    }


def _download(section: BaseModelSection, out: Path) -> None:
    from huggingface_hub import snapshot_download  # 0.5 CPU s: only a fetch from the hub pays for it
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    where = f"{section.repository}@{section.revision}"
    log.info("downloading %s", where)
    try:
        snapshot_download(
            str(section.repository),
            revision=section.revision,
            local_dir=out,
            allow_patterns=list(WANTED),
            ignore_patterns=list(UNWANTED),
        )
    except GatedRepoError as error:
        raise InvalidInput(f"{where} is gated. Accept its licence on the hub and set HF_TOKEN.") from error
    except RepositoryNotFoundError as error:
        raise InvalidInput(
            f"{where} does not exist, or HF_TOKEN may not see it. Check the id and the token."
        ) from error
    except RevisionNotFoundError as error:
        raise InvalidInput(f"{where}: the repository has no such commit. Correct base_model.revision.") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise Unavailable(f"{where} could not be downloaded ({_first_line(error)}). {OFFLINE}") from error
    shutil.rmtree(out / ".cache", ignore_errors=True)  # the hub client's bookkeeping, not part of the model


def _copy(section: BaseModelSection, out: Path) -> None:
    with _source(str(section.path)) as folder:
        for file in sorted(folder.rglob("*")):
            if file.is_file() and _is_wanted(file.relative_to(folder)):
                target = out / file.relative_to(folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)


@contextmanager
def _source(path: str) -> Iterator[Path]:
    folder = package_path(path)
    if folder is None and urlsplit(path).scheme == "s3":
        files = open_files(path)
        names = [name for name in files.stamps("") if _is_wanted(Path(name))]
        if not names:
            raise InvalidInput(f"base_model.path {path!r} holds no model files. Check the bucket and the prefix.")
        with files.local("", names) as copy:
            yield copy
        return
    folder = folder or Path(path)
    if not folder.is_dir():
        raise InvalidInput(
            f"base_model.path {path!r} is not a folder. Give the folder with config.json and *.safetensors."
        )
    yield folder


def _is_wanted(path: Path) -> bool:
    return any(path.match(pattern) for pattern in WANTED) and not any(path.match(pattern) for pattern in UNWANTED)


def _first_line(error: Exception) -> str:
    """The first line of an error, without the queries of its URLs: those of the hub's files are signed."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return re.sub(r"(https?://[^\s?'\"]+)\?[^\s'\"]*", r"\1?…", line)


if __name__ == "__main__":
    program.main("fetch", build)
