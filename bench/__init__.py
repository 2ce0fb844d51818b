"""Benchmarks and the code-generation profiler. Not part of the installed package."""
