"""Every number of a plan that is not computed from the recipe, the model or the data, with where it comes from.

Nothing of this project has run on Trainium yet, so times and prices are ranges over what others published. A training
that is finished in the store replaces the assumed rate by its own.
"""

from dataclasses import dataclass

from neuron_ops.planning.quantities import GIB, Range


@dataclass(frozen=True, slots=True)
class Machine:
    """How fast one EC2 instance type is at best, and what it costs."""

    core_flops: float
    """Peak bfloat16 operations per second of each logical core."""
    usd_per_hour: float
    price_source: str


_VANTAGE = "on demand in us-east-1, instances.vantage.sh, January 2026"

# Peaks: AWS Neuron documentation, Trn1 and Trn2 architecture: 191 TFLOPS for a Trainium's two cores, 667 for a
# Trainium2's four logical ones.
MACHINES = {
    "trn1.2xlarge": Machine(95.5e12, 1.34375, _VANTAGE),
    "trn1.32xlarge": Machine(95.5e12, 21.50, _VANTAGE),
    "trn1n.32xlarge": Machine(95.5e12, 24.78, _VANTAGE),
    "trn2.48xlarge": Machine(
        166.75e12, 35.76, "us-east-2, instances.vantage.sh, November 2025; mostly sold as Capacity Blocks"
    ),
}

UTILIZATION = Range(0.05, 0.20)
UTILIZATION_SOURCE = (
    "assumed, for a large model, 5 to 20 % of the cores' bfloat16 peak: AWS published 41.99 sequences/s of 8,192 "
    "tokens for pretraining Llama 3.1 8B on 32 trn1.32xlarge, which is 21 % of theirs; short sequences and eager "
    "attention reach less. Not run on Trainium"
)

COMPILATION = Range(30 * 60, 60 * 60)
COMPILATION_SOURCE = "30 to 60 min for a large model's first compilation, optimum-neuron's guide. Not run on Trainium"

CPU_FLOPS = Range(5e9, 80e9)
"""Operations per second of one thread in a large matrix product: bfloat16 without and with instructions for it.

79e9 measured with AVX-512 on a shared core; without, torch converts as it goes.
"""

# Dolly's English with a vocabulary like Llama 3's of 128,256 tokens: 4.4, measured.
BYTES_PER_TOKEN = Range(3.5, 5.0)
TEMPLATE_TOKENS = Range(10, 40)
"""Tokens that a chat template adds to a question and its answer."""

RUNTIME_BYTES = {
    "cpu": Range(0.3 * GIB, 0.6 * GIB),
    "cuda": Range(0.3 * GIB, 1.0 * GIB),
    "neuron": Range(0.0, 1.5 * GIB),
}
"""The runtime's own memory beside the model's: imports (0.36 GiB measured on cpu), contexts, buffers of collectives."""


def machine(instance_type: str | None) -> Machine | None:
    """The instance type's facts; None for a computer that has no name."""
    return MACHINES.get((instance_type or "").removeprefix("ml."))
