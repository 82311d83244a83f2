"""Models, adapters and sharded checkpoints of Llama's shapes with random bf16 weights, and processes to compare.

Shared by the benchmarks. Generating needs numpy and runs in a separate process: the peak memory that the kernel
reports for a child starts at that of the process that started it, so the measuring process has to stay small.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Shapes:
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int = 128256
    tied: bool = True

    def linears(self) -> dict[str, tuple[int, int]]:
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "self_attn.q_proj": (queries, self.hidden),
            "self_attn.k_proj": (keys, self.hidden),
            "self_attn.v_proj": (keys, self.hidden),
            "self_attn.o_proj": (self.hidden, queries),
            "mlp.gate_proj": (self.intermediate, self.hidden),
            "mlp.up_proj": (self.intermediate, self.hidden),
            "mlp.down_proj": (self.hidden, self.intermediate),
        }

    def tensors(self) -> dict[str, tuple[int, ...]]:
        found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocabulary, self.hidden)}
        for layer in range(self.layers):
            prefix = f"model.layers.{layer}."
            found |= {f"{prefix}{name}.weight": shape for name, shape in self.linears().items()}
            found |= {
                f"{prefix}{norm}.weight": (self.hidden,) for norm in ("input_layernorm", "post_attention_layernorm")
            }
        found["model.norm.weight"] = (self.hidden,)
        if not self.tied:
            found["lm_head.weight"] = (self.vocabulary, self.hidden)
        return found

    def config(self) -> dict[str, object]:
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": self.tied,
            "dtype": "bfloat16",
        }


SHAPES = {
    "tiny": Shapes(256, 512, 2, 8, 8, 32, 4096),
    "1b": Shapes(2048, 8192, 16, 32, 8, 64),
    "3b": Shapes(3072, 8192, 28, 24, 8, 128),
    "8b": Shapes(4096, 14336, 32, 32, 8, 128, tied=False),
}


def write_base(folder: Path, shapes: Shapes) -> None:
    """A model folder with shards of at most one gigabyte."""
    from neuron_ops.weights.safetensors_io import INDEX_NAME, TensorSpec
    from neuron_ops.weights.safetensors_writer import SafetensorsWriter, encode_index, split_into_shards

    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(shapes.config(), indent=2))
    specs = [TensorSpec(name, "BF16", shape) for name, shape in shapes.tensors().items()]
    shards = split_into_shards(specs, 10**9)
    noise = _noise()
    for name, tensors in shards:
        with SafetensorsWriter(folder / name, tensors) as writer:
            for tensor in tensors:
                for done in range(0, tensor.nbytes, len(noise)):
                    writer.write(noise[: min(len(noise), tensor.nbytes - done)])
            writer.finish()
    if len(shards) > 1:
        (folder / INDEX_NAME).write_bytes(encode_index(shards))


def _noise(elements: int = 1 << 23) -> memoryview:
    """bf16 numbers of a normal distribution, deviation 0.02."""
    import numpy as np

    values = np.random.default_rng(0).normal(0, 0.02, elements).astype(np.float32)
    return (values.view(np.uint32) >> 16).astype("<u2").data.cast("B")


def write_adapter(folder: Path, shapes: Shapes, targets: Sequence[str], rank: int = 16) -> None:
    """A PEFT adapter in fp32."""
    import numpy as np

    from neuron_ops.weights.safetensors_io import TensorSpec
    from neuron_ops.weights.safetensors_writer import SafetensorsWriter, in_file_order

    folder.mkdir(parents=True)
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": list(targets)}
    config |= {"task_type": "CAUSAL_LM", "base_model_name_or_path": "base"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    specs = []
    for layer in range(shapes.layers):
        for name, (rows, columns) in shapes.linears().items():
            if name.rpartition(".")[2] in targets:
                prefix = f"base_model.model.model.layers.{layer}.{name}."
                specs.append(TensorSpec(f"{prefix}lora_A.weight", "F32", (rank, columns)))
                specs.append(TensorSpec(f"{prefix}lora_B.weight", "F32", (rows, rank)))
    specs = in_file_order(specs)
    random = np.random.default_rng(1)
    with SafetensorsWriter(folder / "adapter_model.safetensors", specs) as writer:
        for spec in specs:
            writer.write(random.normal(0, 0.01, spec.shape).astype(np.float32).data.cast("B"))
        writer.finish()


@dataclass(frozen=True)
class Cost:
    cpu_seconds: float
    wall_seconds: float
    peak_megabytes: float


def run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Cost:
    """Run a program to its end, and ask the kernel for its time and memory."""
    import time

    start = time.perf_counter()
    process = subprocess.Popen(command, env={**os.environ, **(environment or {})}, cwd=REPOSITORY)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command[:3]} ended with exit code {process.returncode}")
    return Cost(usage.ru_utime + usage.ru_stime, time.perf_counter() - start, usage.ru_maxrss / 1024)


def python(code: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", code, *map(str, arguments)]


# Our blocks are computed one after another and are too small for BLAS threads, which would only spin beside them.
# An installed package has its bytecode; compiling the source in every run would cost 0.02 s that nobody pays.
OURS = {"OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": ""}


Programs = dict[str, tuple[list[str], Mapping[str, str] | None]]
"""By name: a command, and the variables that its environment adds to ours."""


def compare(programs: Programs, out: Path, runs: int) -> None:
    """Run all programs in turn, `runs` times, and print medians and their ratio to the first.

    Each is preceded by an unmeasured run of the first. A virtual machine returns memory that is idle for seconds to
    its host, and the next program that writes gigabytes pays to fetch it again: by chance, twice the cost of the copy.
    """
    costs: dict[str, list[Cost]] = {name: [] for name in programs}
    first = next(iter(programs))
    for _ in range(runs):
        for name, (command, environment) in programs.items():
            run(*programs[first])
            shutil.rmtree(out, ignore_errors=True)
            costs[name].append(run(command, environment))
            shutil.rmtree(out, ignore_errors=True)
    print(f"{'program':34} {'CPU s':>7} {'ratio':>6} {'wall s':>7} {'peak MB':>8}   medians of {runs}")
    for name, found in costs.items():
        ratios = [one.cpu_seconds / other.cpu_seconds for one, other in zip(found, costs[first], strict=True)]
        cpu, wall, peak = (
            statistics.median(getattr(cost, field) for cost in found)
            for field in ("cpu_seconds", "wall_seconds", "peak_megabytes")
        )
        print(f"{name:34} {cpu:7.2f} {statistics.median(ratios):6.2f} {wall:7.2f} {peak:8.0f}")


def generate(call: str, *arguments: object) -> None:
    """Call `module.function(...)` of this folder in another process; `m` is this module there."""
    code = f"import sys, model_shapes as m, {call.partition('.')[0]}; {call}"
    path = f"{Path(__file__).parent}{os.pathsep}{REPOSITORY}"
    run(python(code, *arguments), {"PYTHONPATH": path})
