"""Parses `--set model.num_units=9`, which sets one field of a recipe by its dotted path."""

import json

from anytime_keras._errors import nearest


def changed(recipe: dict, settings: list[str]) -> dict:
    """Returns a copy of a recipe's dict with settings `path=value` applied; a value is JSON, or else a string.

    >>> changed({"epochs": 3, "model": {"name": "resann"}}, ["model.num_units=9", "epochs=5"])
    {'epochs': 5, 'model': {'name': 'resann', 'num_units': 9}}
    """
    content = json.loads(json.dumps(recipe))
    for setting in settings:
        path, equals, text = setting.partition("=")
        unknown = f"--set={setting} must name a field of the recipe."
        *outer, last = path.split(".")
        if not equals or not last:
            raise ValueError(f"--set must look like --set=model.num_units=9. Received: --set={setting}.")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        place = content
        for depth, key in enumerate(outer):
            if key not in place:
                raise ValueError(f"{unknown} {nearest(key, place)}")
            place[key] = place = {} if place[key] is None else place[key]
            if not isinstance(place, dict):
                raise ValueError(f"--set={setting}: `{'.'.join(outer[: depth + 1])}` has no fields.")
        if not outer and last not in content:
            raise ValueError(f"{unknown} {nearest(last, content)}")
        place[last] = value
    return content
