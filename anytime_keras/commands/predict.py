"""Answer images with a trained network, as well as a budget allows.

anytime-keras predict runs/a cat.png dog.png --deadline_ms=5
"""
