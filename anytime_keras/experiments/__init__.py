"""Reproduces the paper's experiments (`anytime-keras reproduce`): results as JSON, beside the paper's numbers."""
