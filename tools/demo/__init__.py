"""The demo's world in plain English, and the program that generates neuron_ops/demo from it.

`python -m tools.demo.build` makes everything under neuron_ops/demo; nobody edits it by hand. Importing this
package imports nothing else: torch belongs to build.py alone.
"""
