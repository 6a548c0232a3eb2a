"""Writes model cards: Markdown with YAML front matter, as the Hugging Face Hub reads it. Their text is in `card.md`."""

import json
import pathlib
import string

from anytime_keras import _tables
from anytime_keras.classifier import facts

PLOT = "curve.png"
# Identifiers of licences on the Hub.
LICENCES = ("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc-by-4.0", "cc-by-nc-4.0", "cc0-1.0", "gpl-3.0")
TEMPLATE = pathlib.Path(__file__).with_name("card.md")


def text(classifier, preset=None):
    """Returns the model card of a `Classifier` as Markdown; `preset` is the name for `from_preset`, None a path."""
    about, curve = classifier.about, facts.curve(classifier.about)
    title = about.get("name") or getattr(classifier.model, "name", "classifier")
    preset = preset or "path/of/this/folder"
    height, width, channels = classifier.preprocessor.image_shape
    fields = dict(
        front_matter=_front_matter(title, about, curve),
        title=title,
        num_classes=len(classifier.class_names),
        num_exits=len(classifier.costs),
        description=about.get("description") or "",
        preset=preset,
        quoted_preset=json.dumps(preset),
        measured=_measured(about, curve),
        table=_table(classifier.costs, curve),
        plot="" if curve is None else f"![Error against cost]({PLOT})",
        colour={1: "grey", 3: "RGB"}.get(channels, f"{channels} channels"),
        short_side=classifier.preprocessor.short_side,
        height=height,
        width=width,
        class_names="; ".join(classifier.class_names),  # a name may contain commas
        data=_data(about),
        training=_training(about),
        licence=f"Weights: {about['licence']}." if about.get("licence") else "The licence is not recorded.",
    )
    parts = TEMPLATE.read_text(encoding="utf-8").split("\n\n")
    paragraphs = (string.Template(part).substitute(fields) for part in parts)
    return "\n\n".join(filter(None, paragraphs))


def _front_matter(title, about, curve):
    """Returns the lines of the YAML front matter that depend on the network. JSON is YAML too."""
    licence, data = about.get("licence"), about.get("data", {})
    fields = {}
    if licence is not None and licence.lower() in LICENCES:
        fields["license"] = licence.lower()
    elif licence is not None:
        fields.update(license="other", license_name=licence)
    if "name" in data and curve is not None and "split" in curve.about:
        fields["metrics"] = ["accuracy"]
        result = {
            "task": {"type": "image-classification"},
            "dataset": {"name": data["name"], "type": data["name"], "split": curve.about["split"]},
            "metrics": [{"type": "accuracy", "name": f"accuracy at {curve[-1].exit}", "value": 1 - curve[-1].error}],
        }
        fields["model-index"] = [{"name": title, "results": [result]}]
    return "".join(f"{key}: {json.dumps(value)}\n" for key, value in fields.items())


def _measured(about, curve):
    if curve is None:
        return "The accuracy has not been measured."
    images, split, data = curve.about.get("images"), curve.about.get("split"), about.get("data", {}).get("name")
    measured = f"Measured on {images:,} {split} images of {data}. " if images and split and data else ""
    measured += "The accuracy is the percentage of images whose likeliest class is correct.\n"
    return measured + "The loss is the mean cross-entropy; lower is better."


def _table(costs, curve):
    """Returns a table of the exits, with their accuracy and loss if the curve is known."""
    headings = ["exit", "MACs (millions)", "parameters"]
    rows = [[cost.exit, f"{cost.with_all_heads / 1e6:,.3f}", f"{cost.params:,}"] for cost in curve or costs]
    if curve is not None:
        headings += ["accuracy", "loss"]
        rows = [[*row, f"{100 * (1 - point.error):.2f}%", f"{point.loss:.3f}"] for row, point in zip(rows, curve)]
    return _tables.markdown(headings, rows)


def _data(about):
    data = about.get("data")
    if not data:
        return "The training data is not recorded."
    sizes = ", ".join(f"{count:,} {split}" for split, count in (data.get("sizes") or {}).items())
    found = {"data set": data["name"], "source": data.get("source"), "licence of the data": data.get("licence")}
    return "\n".join(f"- {name}: {value}" for name, value in {**found, "images": sizes}.items() if value)


def _training(about):
    lines = []
    if about.get("architecture"):
        lines.append(f"- architecture: {about['architecture']}")
    if about.get("weighting"):
        weighting = ", ".join(f"{key} {value}" for key, value in about["weighting"].items() if key != "name")
        lines.append(f"- weighting of the exits' losses: {about['weighting']['name']}{weighting and f' ({weighting})'}")
        if about["weighting"]["name"] == "adaloss":
            lines[-1] += ", which weights the loss of each exit by the inverse of its running mean"
    for number, cycle in enumerate(about.get("lineage", ()), start=1):
        minutes = f" in {cycle['minutes']:.0f} minutes" if cycle["minutes"] is not None else ""
        machine = cycle["machine"].get("processor") or cycle["machine"].get("devices", "")
        lines.append(f"- run {number}: {cycle['epochs']:.4g} epochs{minutes}, seed {cycle['seed']}, on {machine}")
    if about.get("reference"):
        lines.append(f"- reference: {about['reference']}")
    if about.get("recipe"):
        recipe = json.dumps(about["recipe"], indent=1)
        lines += ["", f"<details><summary>Recipe of the last run</summary>\n\n```json\n{recipe}\n```\n\n</details>"]
    return "\n".join(lines) or "The training is not recorded."
