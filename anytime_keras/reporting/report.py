"""`report`: one page about a trained network, measured on this machine."""

import dataclasses
import numbers
import pathlib
from typing import Any

import keras

from anytime_keras import _files, graph
from anytime_keras.evaluation import Samples, evaluate
from anytime_keras.evaluation.evaluate import weighted_batches
from anytime_keras.inference import EANN, risk
from anytime_keras.inference.monotone import joined
from anytime_keras.reporting import figures, measure, page, sections


def report(
    model: keras.Model | EANN,
    data: Any,
    validation: Any = None,
    smaller: dict | None = None,
    confidence: float = 0.95,
    name: str | None = None,
    seconds: float = 2.0,
) -> "Report":
    """Measures the cost and the error of a trained network's exits, and recommends how to use them.

    The report contains the error at each exit against multiply-accumulates and against time on this machine,
    calibration, monotonicity with and without `monotone`, early exit at each average cost beside one exit for all
    samples, thresholds with a guarantee, and a comparison with smaller networks at equal time. Temperatures and
    thresholds are fitted on the validation data and measured on the test data. The model is not changed.

    All logits of both data sets are held in memory, as float32.

    Args:
        model: functional Keras model whose outputs are its exits, or an `EANN`, of which the used exits are measured.
        data: `ak.data.DataSet`, or test data as in `evaluate`.
        validation: validation data as in `evaluate`, held out from training; None uses the data set's. A float is the
            share of the test samples to use instead, chosen at random; the others are then measured.
        smaller: dict from a name to a functional Keras model for the same data, with one or more outputs.
        confidence: float from 0 to 1, the probability with which the guarantees hold; see `Predictor.fit_thresholds`.
        name: str, the network's name; defaults to the model's.
        seconds: float, the minimum duration of the latency measurement.

    Returns:
        A `Report`.

    Raises:
        ValueError: if there are no validation data, `confidence` is not between 0 and 1, an exit's outputs contain NaN,
            or the exits do not predict one class for each sample.

    Example:
    >>> import keras, numpy as np, anytime_keras as ak
    >>> features = keras.Input((3,))
    >>> early, late = keras.layers.Dense(3)(features), keras.layers.Identity()(features)
    >>> model = ak.AnytimeModel(features, {"early": early, "late": late}, name="small")
    >>> x = np.random.default_rng(0).normal(size=(300, 3)).astype("float32")
    >>> found = ak.report(model, (x[:100], x[:100].argmax(axis=1)), validation=(x, x.argmax(axis=1)), seconds=0)
    >>> found.curve[-1].error, found.monotonicity["product"].lost
    (0.0, 0.0)
    >>> found.advice()[0][:26]
    'One answer by a deadline: '
    """
    risk.check_risk(measure.RISKS[0], confidence)
    test, validation, facts = _splits(data, validation)
    model = _functional(model)
    smaller = _checked(model, smaller)
    name = model.name if name is None else name
    curve, logits, thresholds, rows = _measured(model, test, validation, name)
    others = {label: evaluate(network, test, name=label) for label, network in smaller.items()}
    for label, other in others.items():
        if other.samples is None:
            raise ValueError(f"`smaller` must hold classifiers. Received: '{label}', whose exits end in a sigmoid.")
    if rows is not None:
        others = {label: measure.restricted(other, other.samples.take(rows)) for label, other in others.items()}
    example = keras.tree.map_structure(lambda value: value[:1], next(weighted_batches(test))[0])
    direct, whole, of_others = measure.latencies(model, smaller, example, seconds)
    curve = _with_latency(curve, direct)
    others = {label: _with_latency(other, own) for (label, other), own in zip(others.items(), of_others)}
    macs = curve.costs()
    return Report(
        curve=curve,
        smaller=others,
        calibration=curve.calibration(),
        monotonicity=measure.combined(logits, curve.samples, thresholds.temperatures),
        early_exit=measure.early_exits(curve.samples, macs, thresholds.confidences),
        budgets=measure.early_exits(curve.samples, macs, thresholds.confidences, measure.SHARES),
        promises=measure.promises(curve.samples, macs, thresholds, confidence),
        comparison=measure.compared(curve, others),
        seconds=whole,
        about={
            **facts,
            **curve.about,
            "validation": "held out" if rows is None else f"a random {validation:.0%} of the test images",
            "validation images": thresholds.count,
            "temperatures": thresholds.source,
            "lower validation error": measure.leak(thresholds, curve.samples),
            "confidence": confidence,
        },
    )


@dataclasses.dataclass
class Report:
    """What `report` measured. `save` writes it; a notebook displays it.

    Attributes:
        curve: `Curve` with latencies.
        smaller: dict from a name to the curve of a smaller network.
        calibration: `Calibration`.
        monotonicity: dict from `"as trained"`, `"product"` and `"caching"` to `Monotonicity`.
        early_exit: list of dicts, early exit at average costs from the first exit's to the last's: `budget`,
            `threshold`, and on test data `macs` and `accuracy`.
        budgets: list of such dicts, for a quarter, a half and three quarters of the last exit's cost.
        promises: list of dicts by `risk`: `threshold`, `macs`, `accuracy` and `excess`, the test error above the last
            exit's; or `needed`, the number of validation samples, if there are too few.
        comparison: list of dicts, each output of the smaller networks beside the latest exit that is as fast: `name`,
            `accuracy`, `macs`, `seconds`, `exit`, `exit_accuracy`, `exit_seconds`, `gain` of the smaller network and
            its `standard_error`. If no exit is as fast, `exit_as_accurate` and `exit_seconds` of the fastest exit
            that is as accurate, if there is one.
        seconds: dict, the time to all exits in one pass (`"all exits"`) and to the last exit of `monotone` by method.
        about: dict of plain data: images, machine, versions.

    Example:
    >>> import keras, numpy as np, anytime_keras as ak
    >>> features = keras.Input((3,))
    >>> exits = {name: keras.layers.Dense(3, name=name)(features) for name in ("early", "late")}
    >>> data = np.random.default_rng(0).normal(size=(50, 3)).astype("float32"), np.zeros(50, int)
    >>> found = ak.report(ak.AnytimeModel(features, exits, name="small"), data, validation=data, seconds=0)
    >>> found.to_markdown().splitlines()[0], list(found.figures())
    ('# small', ['curve', 'early_exit', 'reliability', 'risk_coverage', 'monotonicity'])
    """

    curve: object
    smaller: dict
    calibration: object
    monotonicity: dict
    early_exit: list
    budgets: list
    promises: list
    comparison: list
    seconds: dict
    about: dict

    def advice(self):
        """Returns recommendations made from the numbers, a list of str."""
        return sections.advice(self)

    def figures(self):
        """Returns a dict from a name to each plot, a `matplotlib.figure.Figure`."""
        return {
            "curve": figures.curves(self.curve, self.smaller),
            "early_exit": figures.early_exit(self.curve, self.early_exit, self.promises, self.smaller),
            "reliability": self.calibration.plot(),
            "risk_coverage": self.calibration.plot_risk_coverage(),
            "monotonicity": figures.monotonicity(self.monotonicity),
        }

    def to_markdown(self):
        """Returns the page as Markdown with embedded plots, a str."""
        return page.to_markdown(sections.text(self), self.figures())

    def to_html(self):
        """Returns the page as HTML with embedded plots, a str."""
        return page.to_html(sections.text(self), self.figures(), self.curve.name)

    def _repr_html_(self):
        return self.to_html()

    def to_dict(self):
        """Returns the numbers as plain data."""
        plain = ("early_exit", "budgets", "promises", "comparison", "seconds", "about")
        return {
            "curve": self.curve.to_dict(),
            "smaller": {name: curve.to_dict() for name, curve in self.smaller.items()},
            "calibration": {"before": self.calibration.errors, "after": self.calibration.calibrated_errors},
            "monotonicity": {
                method: {"falls": found.falls, "lost": found.lost, "flips": found.flips, "accuracies": found.accuracies}
                for method, found in self.monotonicity.items()
            },
            **{field: getattr(self, field) for field in plain},
        }

    def save(self, folder):
        """Writes `report.html`, `report.md`, `report.json` and each plot as PDF to a folder, and returns its path."""
        folder, figures, text = pathlib.Path(folder), self.figures(), sections.text(self)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "report.html").write_text(page.to_html(text, figures, self.curve.name))
        (folder / "report.md").write_text(page.to_markdown(text, figures))
        _files.to_json(self.to_dict(), folder / "report.json")
        for name, figure in figures.items():
            figure.savefig(folder / f"{name}.pdf")
        return folder


def _measured(model, test, validation, name):
    """Returns the `Curve` on test data, its logits, the `Thresholds`, and the measured rows (None for all)."""
    temperatures = (getattr(model, "inference", None) or {}).get("temperatures", {})
    if not isinstance(validation, numbers.Real):
        held, answers = measure.outputs(model, validation)
        thresholds = measure.Thresholds(temperatures, held.samples.exit_names, answers, held.samples.labels)
        return *measure.outputs(model, test, thresholds.temperatures, name), thresholds, None
    curve, logits = measure.outputs(model, test, name=name)
    names, labels = curve.samples.exit_names, curve.samples.labels
    first, rows = measure.held_out(len(labels), validation)
    thresholds = measure.Thresholds(temperatures, names, logits[:, first], labels[first])
    logits = logits[:, rows]
    curve = measure.restricted(curve, Samples.of(names, logits, labels[rows], thresholds.temperatures))
    return curve, logits, thresholds, rows


def _splits(data, validation):
    """Returns test and validation data that can be read repeatedly, and a dict that describes them."""
    facts = {}
    if hasattr(data, "test") and hasattr(data, "validation"):
        validation = data.validation if validation is None else validation
        data, facts = data.test, {"data": data.name}
        if data is None:
            raise ValueError(f"`data` must have test images. Received: data set '{facts['data']}' without any.")
    if validation is None:
        raise ValueError(
            "`validation` must be given, or be part of the data set: temperatures and thresholds must not be fitted on "
            "test data. Received: validation=None. For example, pass `data=ak.data.load('cifar10')`."
        )
    if isinstance(validation, numbers.Real) and not 0 < validation < 1:
        raise ValueError(f"`validation` as a share of the test samples must be from 0 to 1. Received: {validation}.")
    data, validation = (list(each) if hasattr(each, "__next__") else each for each in (data, validation))
    return data, validation, facts


def _functional(model):
    """Returns the used exits of an ensemble as one functional model, or the model itself."""
    if not isinstance(model, EANN):
        return model
    network = joined(model, model.exit_names)
    network.inference = model.inference
    return network


def _checked(model, smaller):
    if not graph.is_functional(model) or len(graph.outputs_by_name(model)) < 2:
        raise ValueError(
            "`model` must be a functional Keras model with two exits or more, or an `EANN`. "
            f"Received: {type(model).__name__}."
        )
    if smaller is not None and not (isinstance(smaller, dict) and all(map(graph.is_functional, smaller.values()))):
        raise ValueError(
            f"`smaller` must be a dict from a name to a functional Keras model. Received: smaller={smaller!r:.80}."
        )
    return smaller or {}


def _with_latency(curve, seconds):
    curve.points = [dataclasses.replace(point, latency=seconds[point.exit]) for point in curve]
    return curve
