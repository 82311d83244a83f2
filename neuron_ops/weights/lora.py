"""LoRA adapters in PEFT's format: reading and checking a folder by itself.

Scaling, patterns and names follow PEFT 0.17 (`peft/tuners/lora/model.py`, `layer.py`, `utils/save_and_load.py`). What
can't be merged exactly is refused by name. `lora_targets` pairs an adapter with a base model.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuron_ops.errors import InvalidInput, MissingArtifact
from neuron_ops.weights.safetensors_io import SafetensorsFile, TensorEntry, read_safetensors

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
PREFIX = "base_model.model."
FLOAT_DTYPES = ("F32", "BF16", "F16")

# Switches of LoraConfig that change what the numbers mean in a way that is not implemented here.
_REFUSED_SWITCHES = {
    "fan_in_fan_out": "weights stored as (in, out), as GPT-2's Conv1D does, are not supported",
    "use_qalora": "QA-LoRA pools its inputs, which no merged weight can express",
    "layer_replication": "replicated layers change the model's structure",
    "target_parameters": "LoRA on bare parameters (experts) is not supported",
    "trainable_token_indices": "trainable tokens are not supported",
}
# With these, PEFT changes the base weights when the adapter is made and again whenever it is loaded.
_BASE_CHANGING_INITS = ("pissa", "olora", "corda", "loftq")

LOW_RANK_KEY = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_A\.weight|lora_B\.weight|lora_B\.bias|lora_embedding_A|lora_embedding_B"
    r"|lora_magnitude_vector(?:\.weight)?)"
)


@dataclass(frozen=True)
class Adapter:
    """A checked adapter folder."""

    path: Path
    config: Mapping[str, Any]
    file: SafetensorsFile

    def scaling(self, module: str) -> float:
        """PEFT's factor of B@A for `module` (its name in the base model): alpha / r, or alpha / sqrt(r) for rsLoRA."""
        alpha = float(pattern_value(self.config.get("alpha_pattern"), module, self.config.get("lora_alpha", 8)))
        rank = self.rank(module)
        return alpha / math.sqrt(rank) if self.config.get("use_rslora") else alpha / rank

    def rank(self, module: str) -> int:
        return int(pattern_value(self.config.get("rank_pattern"), module, self.config.get("r", 8)))


def pattern_value(patterns: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    """The first pattern that matches the end of the module's name (`peft.utils.other.get_pattern_key`)."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def find_adapter_folder(folder: Path, adapter: str) -> Path | None:
    """`folder` itself, or the subfolder in which a training loop or PEFT put the named adapter."""
    for candidate in (folder, folder / f"adapter_{adapter}", folder / adapter):
        if (candidate / CONFIG_NAME).is_file() and any(candidate.glob("adapter_model.*")):
            return candidate
    return None


def read_adapter_config(path: Path) -> dict[str, Any]:
    """Read an adapter_config.json; keys that nothing here needs may be anything.

    Raises:
        MissingArtifact: there is no such file.
        InvalidInput: it is not JSON, not of a LoRA adapter, or asks for what is not merged here.
    """
    try:
        config = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise MissingArtifact(
            f"{path} does not exist, so {path.parent} is not a PEFT adapter. Give its folder."
        ) from None
    except ValueError as error:
        raise InvalidInput(f"{path} is not JSON ({error}). Save the adapter again.") from None
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise InvalidInput(f"{path} does not describe a LoRA adapter (peft_type must be 'LORA'). Give a LoRA adapter.")
    for switch, reason in _REFUSED_SWITCHES.items():
        if config.get(switch):
            raise InvalidInput(f"{path} sets {switch} to {config[switch]!r}: {reason}. Merge it with PEFT itself.")
    for name in ("r", "lora_alpha"):
        if not isinstance(config.get(name, 8), int | float) or not config.get(name, 8) > 0:
            raise InvalidInput(
                f"{path} gives {name} as {config[name]!r}, which is not a positive number. Save it again."
            )
    init = str(config.get("init_lora_weights")).lower()
    if init.startswith(_BASE_CHANGING_INITS):
        raise InvalidInput(
            f"{path} says init_lora_weights is {init!r}, which changed the base weights before training. Save it with "
            "path_initial_model_for_weight_conversion, which turns it into plain LoRA, and use that."
        )
    return config


def read_adapter(folder: Path) -> Adapter:
    """Read a PEFT adapter folder and check it by itself: names, ranks, dtypes.

    Raises:
        MissingArtifact: a file of it is not there.
        InvalidInput: config and tensors do not make one LoRA adapter.
        CorruptArtifact: the weights file is cut short or not what its header says.
    """
    config = read_adapter_config(folder / CONFIG_NAME)
    if not (folder / WEIGHTS_NAME).is_file():
        pickled = [path.name for path in folder.glob("adapter_model.*")]
        raise MissingArtifact(
            f"{folder} has no {WEIGHTS_NAME}{f' but {pickled[0]}, a pickle, which is not run' if pickled else ''}. "
            "Save the adapter with safe_serialization."
        )
    return check_adapter(Adapter(folder, config, read_safetensors(folder / WEIGHTS_NAME)))


def check_adapter(adapter: Adapter) -> Adapter:
    """Check that config and tensors belong together; return the adapter.

    Raises:
        InvalidInput: there is no tensor, half a pair, or another rank or dtype than the config's.
    """
    if not adapter.file.entries:
        raise InvalidInput(f"{adapter.file.path} holds no tensor: nothing was trained. Save the adapter again.")
    for module, parts in low_rank_parts(adapter).items():
        _check_low_rank(adapter, module, parts)
    return adapter


def low_rank_parts(adapter: Adapter) -> dict[str, dict[str, TensorEntry]]:
    """LoRA tensors by module; a magnitude is listed without its optional `.weight`.

    Raises:
        InvalidInput: a tensor has a name that nothing here knows.
    """
    modules: dict[str, dict[str, TensorEntry]] = {}
    for key, entry in adapter.file.entries.items():
        if not key.startswith(PREFIX):
            raise InvalidInput(f"{adapter.file.path}: {key!r} does not begin with {PREFIX!r}. Save it with PEFT again.")
        if match := LOW_RANK_KEY.fullmatch(key):
            part = match["part"].removesuffix(".weight")
            modules.setdefault(match["module"].removeprefix(PREFIX), {})[part] = entry
        elif "lora_" in key or "token_adapter" in key:
            raise InvalidInput(f"{adapter.file.path}: nothing here knows what {key!r} is. Merge it with PEFT itself.")
    return modules


def _check_low_rank(adapter: Adapter, module: str, parts: Mapping[str, TensorEntry]) -> None:
    suffixes = ("lora_embedding_A", "lora_embedding_B") if "lora_embedding_A" in parts else ("lora_A", "lora_B")
    missing = [suffix for suffix in suffixes if suffix not in parts]
    if missing:
        raise InvalidInput(
            f"{adapter.file.path}: {module} has {', '.join(sorted(parts))} but no {missing[0]}: nothing consumes it. "
            "Save the adapter again."
        )
    a, b = (parts[suffix] for suffix in suffixes)
    rank = adapter.rank(module)
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != rank or b.shape[1] != rank:
        raise InvalidInput(
            f"{adapter.file.path}: {a.name} is {list(a.shape)} and {b.name} is {list(b.shape)}, but {CONFIG_NAME} "
            f"gives {module} rank {rank}. Config and weights are of different adapters; save it again."
        )
    for entry in parts.values():
        check_float(adapter.file.path, entry.name, entry.dtype)


def check_float(path: Path, name: str, dtype: str) -> None:
    """Refuse a tensor whose numbers are not plain floats.

    Raises:
        InvalidInput: its dtype is quantized or no float at all.
    """
    if dtype not in FLOAT_DTYPES:
        raise InvalidInput(
            f"{path}: {name} is {dtype}; only {', '.join(FLOAT_DTYPES)} can be merged. Use an unquantized model."
        )
