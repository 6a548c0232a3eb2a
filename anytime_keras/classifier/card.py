"""Writes model cards: Markdown with YAML front matter, as the Hugging Face Hub reads it."""

import json
import textwrap

from anytime_keras.classifier import facts

PLOT = "curve.png"
# Identifiers of licences on the Hub.
LICENCES = ("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc-by-4.0", "cc-by-nc-4.0", "cc0-1.0", "gpl-3.0")
WIDTH = 120


def text(classifier, preset=None):
    """Returns the model card of a `Classifier` as Markdown; `preset` is the name for `from_preset`, None a path."""
    about, curve = classifier.about, facts.curve(classifier.about)
    title = about.get("name") or getattr(classifier.model, "name", "classifier")
    sections = {
        "Use": _use(preset),
        "Accuracy and cost": _accuracy(classifier, about, curve),
        "Input and classes": _input(classifier),
        "Data": _data(about),
        "Training": _training(about),
        "Limits": _limits(classifier),
        "Licence": f"Weights: {about['licence']}." if about.get("licence") else "The licence is not recorded.",
    }
    parts = [_front_matter(title, about, curve), f"# {title}", _introduction(classifier), about.get("description")]
    parts += [f"## {heading}\n\n{section}" for heading, section in sections.items()]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(title, about, curve):
    """Returns the YAML front matter. Its values are JSON, which is YAML too."""
    licence, data = about.get("licence"), about.get("data", {})
    fields = {
        "library_name": "anytime_keras",
        "pipeline_tag": "image-classification",
        "tags": ["keras", "anytime-prediction", "early-exit"],
    }
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
    return "\n".join(["---", *(f"{key}: {json.dumps(value)}" for key, value in fields.items()), "---"])


def _introduction(classifier):
    count, costs = len(classifier.class_names), classifier.costs
    return _wrapped(
        f"This network classifies images into {count} classes. It is an *anytime* network with {len(costs)} exits, at "
        "which it can stop and return a prediction. An early exit needs little computation; a later exit takes longer "
        "and is usually more accurate. A program with a deadline gets the prediction of the latest exit that was "
        "reached in time."
    )


def _use(preset):
    where = json.dumps(preset or "path/of/this/folder")
    return f"""Install the Python package `anytime-keras`, then:

```python
import anytime_keras as ak

classifier = ak.Classifier.from_preset({where})
answer = classifier("photo.jpg")                     # the most accurate answer
answer = classifier("photo.jpg", deadline=0.010)     # the best answer within 10 milliseconds
print(answer.label, answer.top(5))                   # names of classes, with probabilities
for answer in classifier.stream("photo.jpg"):        # one answer for each exit
    print(answer)
```

The first call takes some seconds, because it prepares the network for the machine. Later calls are fast.

On the command line: `anytime-keras predict {preset or "path/of/this/folder"} photo.jpg --top=5`"""


def _accuracy(classifier, about, curve):
    if curve is None:
        lines = ["The accuracy has not been measured.", "", "| exit | MACs (millions) | parameters |"]
        lines.append("| --- | ---: | ---: |")
        lines += [f"| {cost.exit} | {cost.with_all_heads / 1e6:,.3f} | {cost.params:,} |" for cost in classifier.costs]
        return "\n".join([*lines, "", _MACS])
    lines = ["| exit | MACs (millions) | parameters | accuracy | loss |", "| --- | ---: | ---: | ---: | ---: |"]
    lines += [
        f"| {point.exit} | {point.with_all_heads / 1e6:,.3f} | {point.params:,} | {100 * (1 - point.error):.2f}% "
        f"| {point.loss:.3f} |"
        for point in curve
    ]
    images, split, data = curve.about.get("images"), curve.about.get("split"), about.get("data", {}).get("name")
    measured = f"Measured on {images:,} {split} images of {data}." if images and split and data else ""
    measured += " The accuracy is the percentage of images whose likeliest class is correct. The loss is the mean "
    measured += "cross-entropy; lower is better."
    return "\n".join([*lines, "", _wrapped(f"{measured} {_MACS}"), "", f"![Error against cost]({PLOT})"])


_MACS = (
    "MACs are the multiply-accumulate operations (a multiplication and an addition each) that one image needs up to an "
    "exit. Parameters are the numbers that the network has learned up to that exit."
)


def _input(classifier):
    height, width, channels = classifier.preprocessor.image_shape
    colour = {1: "grey", 3: "RGB"}.get(channels, f"{channels} channels")
    names = "; ".join(classifier.class_names)  # a name may contain commas
    found = _wrapped(
        f"The classifier takes image files and arrays of any size. It converts them to {colour}, scales them so that "
        f"the short side has {classifier.preprocessor.short_side} pixels, and crops the center of {height} x {width} "
        "pixels. The network distinguishes these classes:"
    )
    return f"{found}\n\n<details><summary>{len(classifier.class_names)} classes</summary>\n\n{names}\n\n</details>"


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


def _limits(classifier):
    return _wrapped(
        f"The network predicts one of its {len(classifier.class_names)} classes for every image, even if the image "
        "shows none of them. Photos that differ from the training images are classified less accurately than the table "
        "says. Probabilities are the network's own estimates. Before you rely on the network, measure it on your own "
        "images."
    )


def _wrapped(paragraph):
    return textwrap.fill(" ".join(paragraph.split()), WIDTH, break_long_words=False, break_on_hyphens=False)
