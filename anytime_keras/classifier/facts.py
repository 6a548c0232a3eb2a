"""Facts about a trained network for its model card, as plain data. See `of_manifest` for the fields."""

from anytime_keras import _errors, _files
from anytime_keras.evaluation import Curve


def of_manifest(manifest, entry):
    """Returns the facts in an entry of a `Manifest` of the zoo. The `curve` is that of `Curve.to_dict`."""
    content = entry.content
    return {
        **{key: manifest.content[key] for key in ("name", "description", "architecture", "reference")},
        **{key: content[key] for key in ("licence", "weighting", "lineage")},
        "weights": entry.label,
        "data": {key: content["data"][key] for key in ("name", "source", "licence", "sizes")},
        "curve": manifest.curve(entry.label).to_dict(),
        "recipe": content["lineage"][-1]["recipe"],
    }


def of_training(folder):
    """Returns the facts in the files of a training's folder, of which any may be missing; see `of_manifest`."""
    paths = [folder / f"{name}.json" for name in ("recipe", "data", "curve")]
    recipe, data, curve = (read_json(path) if path.is_file() else None for path in paths)
    what = f"The JSON files in '{folder}' must be those of a training. Missing: "
    with _errors.explained(what, KeyError, TypeError, end="."):
        return _of_results(folder.resolve().name, recipe, data, curve)


def of_run(run):
    """Returns the facts about a `training.Run` that is not saved; see `of_manifest`."""
    return _of_results(run.model.name, run.recipe.to_dict(), run.data.describe(), run.curve.to_dict())


def _of_results(name, recipe, data, curve):
    facts = {"name": name}
    if recipe is not None:
        model = recipe["model"]
        facts.update(architecture=model.get("from", model["name"]), weighting=recipe["weighting"], recipe=recipe)
    if data is not None:
        facts["data"] = {"name": data["name"], "sizes": data["sizes"]}
    if curve is not None:
        facts["curve"] = Curve.from_dict(curve).to_dict()
    return facts


def curve(about):
    """Returns the `Curve` of facts, or None."""
    return Curve.from_dict(about["curve"]) if about.get("curve") else None


def read_json(path):
    """Returns the dict in a JSON file, or raises ValueError."""
    content = _files.read_json(path, "a JSON file")
    if not isinstance(content, dict):
        raise ValueError(f"'{path}' must contain a JSON object. Received: {type(content).__name__}.")
    return content
