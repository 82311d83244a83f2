"""Signals as in a terminal, wherever the tests run."""

import signal

# A shell's background jobs ignore Ctrl-C, programs that they start inherit it, and ours respect it: the tests that
# interrupt a program would wait for its end in vain.
signal.signal(signal.SIGINT, signal.default_int_handler)
