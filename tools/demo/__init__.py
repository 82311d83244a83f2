"""The demo's world in plain English, and the program that makes from it what neuron_ops/demo ships.

Everything under neuron_ops/demo is made by `python -m tools.demo.build`; nobody edits it by hand. Importing this
package imports nothing else: torch belongs to build.py alone.
"""
