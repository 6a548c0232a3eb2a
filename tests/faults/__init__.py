"""Fault injection: killed processes, full disks, damaged files, fuzzed input. `python -m tests.faults` runs all."""
