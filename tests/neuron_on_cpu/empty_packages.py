"""Empty names in place of the packages that only exist with a Neuron SDK, so that the public libraries import."""

import importlib.abc
import importlib.machinery
import os
import sys
import types
from collections.abc import Sequence
from typing import Any

SDK_PACKAGES = {"torch_neuronx", "libneuronxla", "neuronxcc", "nki", "nkilib", "neuronxlogger"}
VERSIONS = {
    "neuronxcc": "2.21.33363.0+stand.in",
    "torch_neuronx": "2.8.0.2.10.16998+stand.in",
    "libneuronxla": "2.2.12677.0+stand.in",
}
PLATFORM = "STAND_IN_PLATFORM"
"""Variable that names the device's generation, trn1 or trn2: the libraries lay out key-value heads by it."""


def install(torch_xla: types.ModuleType) -> None:
    """Fill the names in; after torch_xla is imported, which looks for libneuronxla."""
    import torch
    import torch_xla.core.xla_env_vars as xla_env_vars

    sys.meta_path.insert(0, _EmptyPackages())
    classes: Any = torch.classes
    classes.neuron = Nothing()  # classes that the SDK's native library registers
    if not hasattr(xla_env_vars, "HOST_WORLD_SIZE"):
        xla_env_vars.HOST_WORLD_SIZE = "STAND_IN_HOSTS"
        os.environ.setdefault("STAND_IN_HOSTS", "1")


class Nothing:
    """Takes every call, index, attribute and subclass; as a decorator it changes nothing."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return args[0] if len(args) == 1 and not kwargs and callable(args[0]) else Nothing()

    def __getattr__(self, name: str) -> "Nothing":
        if name.startswith("__"):
            raise AttributeError(name)
        return Nothing()

    def __getitem__(self, index: object) -> "Nothing":
        return Nothing()

    def __mro_entries__(self, bases: object) -> tuple[type, ...]:
        return (object,)


class _EmptyClass(type):
    def __getattr__(cls, name: str) -> Nothing:
        if name.startswith("__"):
            raise AttributeError(name)
        return Nothing()


class _EmptyModule(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _EmptyClass(name, (), {"__init__": lambda self, *_, **__: None}) if name[0].isupper() else Nothing()


class _EmptyPackages(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a module for every name below the SDK's packages."""

    def find_spec(self, fullname: str, path: object, target: object = None) -> importlib.machinery.ModuleSpec | None:
        if fullname.partition(".")[0] not in SDK_PACKAGES:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        module = _EmptyModule(spec.name)
        module.__path__ = []
        module.__version__ = VERSIONS.get(spec.name.partition(".")[0], "0")  # type: ignore[attr-defined]
        if spec.name.startswith("torch_neuronx.utils"):
            module.get_platform_target = lambda: os.environ.get(PLATFORM, "trn1")  # type: ignore[attr-defined]
            module.SUPPORTED_TYPES = ["trn1", "trn2"]  # type: ignore[attr-defined]
        if spec.name.endswith(".collectives"):
            module.CollectivesConfig = _CollectivesConfig  # type: ignore[attr-defined]
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        """Nothing to execute."""


class _CollectivesConfig:
    """Which rank sends to which; asked for when process groups are made, used by kernels only."""

    def __init__(self, replica_groups: Sequence[Sequence[int]], **_: Any) -> None:
        self.rank_src_tgt_pairs: list[list[int]] = [[] for group in replica_groups for _ in group]
