"""Reproduces the paper's experiments for one command, stores the results as JSON and compares them with the paper's."""
