"""Conversion of a network's stages to the files of other runtimes, and the runtimes that run them.

`parts` describes stages as functions of named tensors, `converters` converts them, `part_cache` keeps the results, and
`runtimes` loads and runs them. The engines of `Predictor` and `export` use this room.
"""
