"""The base model's small files, if they are available: in the fetched artifact, or in the folder of the recipe.

A repository that has not been fetched is not looked up: a plan needs no network except for its store.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from neuron_ops.models.config import CONFIG, WEIGHTS, Config, parse_config, refuse_without_weights
from neuron_ops.recipe.schema import BaseModelSection, package_path
from neuron_ops.steps.addresses import Lineage
from neuron_ops.store.files import Files, open_files


def read_config(lineage: Lineage) -> tuple[Config, str] | None:
    """The base model's config.json and its folder; None if the model is not available yet.

    Raises:
        InvalidInput: the folder has no config.json, or its architecture is not supported.
        CorruptArtifact: config.json is not JSON.
    """
    found, files = lineage.find("base_model"), _source(lineage.recipe.base_model)
    if found is not None:
        data = found.read(CONFIG) if found.has(CONFIG) else None
        return parse_config(data, str(found.address)), str(found.address)
    if files is not None:
        return parse_config(files.read(CONFIG), files.url), files.url
    return None


@contextlib.contextmanager
def local_files(lineage: Lineage, names: tuple[str, ...]) -> Iterator[Path | None]:
    """A local folder with those of the named files that the base model has; None if it is not available yet."""
    found, files = lineage.find("base_model"), _source(lineage.recipe.base_model)
    if found is not None:
        with found.local(names=names) as folder:
            yield folder
    elif files is not None:
        with files.local("", [name for name in names if name in files.stamps("")]) as folder:
            yield folder
    else:
        yield None


def _source(section: BaseModelSection) -> Files | None:
    if section.path is None:
        return None
    return open_files(str(package_path(section.path) or section.path))


def weights_bytes(lineage: Lineage) -> int:
    """Bytes of the base model's weights; zero if the model is not available yet."""
    found, files = lineage.find("base_model"), _source(lineage.recipe.base_model)
    if found is not None:
        return sum(file.bytes for file in found.manifest.files if file.name.endswith(WEIGHTS))
    return sum(size for name, (size, _) in files.stamps("").items() if name.endswith(WEIGHTS)) if files else 0


def check_weights(lineage: Lineage) -> None:
    """Refuse a folder without weights as the base model, as `fetch` will.

    Raises:
        InvalidInput: the folder has no weights in a supported format.
    """
    files = _source(lineage.recipe.base_model)
    if lineage.find("base_model") is None and files is not None:
        refuse_without_weights(files.stamps(""), files.url)
