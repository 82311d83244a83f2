"""Compilers and their caches, seen from outside: how one is started, told its cache, and how that cache is read."""
