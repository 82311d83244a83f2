"""The gates of `evaluation`: what a merged model must have shown before anybody uses it.

A gate is a file here and a line in GATES. Its verdict is a function of the metrics that `evaluate` publishes, so that
it also judges models that were evaluated before the gate existed.
"""

from neuron_ops.steps.checks import Check
from neuron_ops.steps.gates import better_than_base

GATES: tuple[Check, ...] = (better_than_base.GATE,)
