"""Faults: processes killed, disks full, files damaged, odd input. `python -m tests.faults` runs and counts them."""
