"""The demo's material: a small world in plain English, an instruction dataset about it, and a model that read it.

Everything shipped under model/ and raw/ is made by `python -m neuron_ops.demo.build`; nobody edits it by hand.
Importing this package imports nothing else: torch belongs to build.py alone.
"""
