"""The text of a report: tables, and sentences made from the numbers. All other text is in `report.md`."""

import pathlib
import string

from anytime_keras.reporting.page import table

TEMPLATE = pathlib.Path(__file__).with_name("report.md")
NOISE = 2.0  # standard errors below which a difference is within noise
WITHIN = 0.005  # of the last exit's accuracy: "as good as"


def text(report):
    """Returns the page in Markdown. Plots are images with the names of `Report.figures`."""
    fields = dict(
        name=report.curve.name,
        about=_about(report.about),
        warning=_warning(report.about),
        advice="\n".join(f"- {each}" for each in advice(report)),
        exits=_exits(report),
        times=_times(report.seconds),
        smaller=_smaller(report),
        budgets=_budgets(report),
        confidence=_percent(report.about["confidence"], 0),
        promises=_promises(report),
        temperatures=report.about["temperatures"],
        methods=_methods(report),
    )
    return string.Template(TEMPLATE.read_text(encoding="utf-8")).substitute(fields)


def advice(report):
    curve, last = report.curve, report.curve[-1]
    call = "`predictor.predict(x, deadline=...)`"
    texts = [
        f"One answer by a deadline: {call}. Exits answer after {_ms(curve[0].latency)} ({_percent(1 - curve[0].error)} "
        f"right) to {_ms(last.latency)} ({_percent(1 - last.error)} right) on this machine."
    ]
    texts += [_verdict(entry) for entry in report.comparison]
    texts.append(_early_exit_advice(report))
    kept = [entry for entry in report.promises if entry.get("threshold", 2) <= 1]
    if kept:
        entry = min(kept, key=lambda each: each["risk"])
        texts.append(
            f"Batches with a guarantee: `fit_thresholds(validation, risk={entry['risk']})` costs "
            f"{_percent(entry['macs'] / last.with_all_heads, 0)} of the last exit's MACs on average."
        )
    else:
        needed = min((entry["needed"] for entry in report.promises if "needed" in entry), default=None)
        why = f"at least {needed:,} validation images are needed" if needed else "no threshold meets one"
        texts.append(f"Batches with a guarantee: none; {why}.")
    texts.append(_monotone_advice(report.monotonicity))
    before = _mean(report.calibration.errors)
    after = _mean(report.calibration.calibrated_errors or report.calibration.errors)
    if report.calibration.calibrated_errors is None:
        texts.append(f"Confidence as a probability: its mean calibration error is {_percent(before)}.")
    elif after < before:
        texts.append(
            "Confidence as a probability: `predictor.calibrate(validation)`. Temperatures lower the mean "
            f"calibration error from {_percent(before)} to {_percent(after)}."
        )
    else:
        texts.append(f"Confidence as a probability: temperatures do not lower its mean error of {_percent(before)}.")
    return texts


def _early_exit_advice(report):
    last = report.curve[-1]
    good = [each for each in report.early_exit if each["accuracy"] >= 1 - last.error - WITHIN]
    cheapest = min(good, key=lambda each: each["macs"])
    share = cheapest["macs"] / last.with_all_heads
    static = [point for point in report.curve if point.with_all_heads <= cheapest["macs"] * (1 + 1e-9)]
    if share > 0.999:
        return "Batches at an average cost: early exit saves nothing at the last exit's accuracy."
    beside = f"; {static[-1].exit} for all, at no more cost, {_percent(1 - static[-1].error)}" if static else ""
    return (
        f"Batches at an average cost: `predict_batch(x, average_budget=...)`. Early exit reaches "
        f"{_percent(cheapest['accuracy'])} with {_percent(share, 0)} of the last exit's MACs{beside}."
    )


def _monotone_advice(methods):
    trained = methods["as trained"]
    name = min(("product", "caching"), key=lambda method: methods[method].falls[0.05])
    best = methods[name]
    change = _mean(best.accuracies) - _mean(trained.accuracies)
    if best.falls[0.05] >= trained.falls[0.05]:
        return "Answers that are shown as they improve: `monotone` does not make them steadier."
    last = _final(best) - _final(trained)
    price = " Use it only where steady answers are worth this." if last < -WITHIN else ""
    return (
        f'Answers that are shown as they improve: `ak.monotone(model, "{name}")`. The true class falls by more than 5 '
        f"points for {_percent(best.falls[0.05])} of the images instead of {_percent(trained.falls[0.05])}; the mean "
        f"accuracy of the exits changes by {_points(change)}, the last exit's by {_points(last)}.{price}"
    )


def _verdict(entry):
    better, beside = "the smaller network is", f"{entry['name']} has {_percent(entry['accuracy'])}; no exit is as fast"
    if "exit" in entry:
        gain, noise = entry["gain"], NOISE * entry["standard_error"]
        better = "the smaller network is" if gain > noise else "this network is" if gain < -noise else "neither is"
        beside = (
            f"{entry['name']} has {_percent(entry['accuracy'])} in {_ms(entry['seconds'])}, {entry['exit']} "
            f"{_percent(entry['exit_accuracy'])} in {_ms(entry['exit_seconds'])}, a difference of {_points(gain)} with "
            f"a standard error of {100 * entry['standard_error']:.1f}"
        )
    elif "exit_as_accurate" in entry:
        beside += f"; {entry['exit_as_accurate']}, which is as accurate, takes {_ms(entry['exit_seconds'])}"
    return f"At a fixed deadline of {_ms(entry['seconds'])}, {better} better: {beside}."


def _about(about):
    machine = about["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return (
        f"{about.get('data', 'Given data')}: {about['images']:,} test images, {about['validation images']:,} "
        f"validation images for thresholds ({about['validation']}). "
        f"{machine['processor']}, {machine['backend']}, {versions}. {machine['date']}."
    )


def _warning(about):
    if about["lower validation error"] is None:
        return ""
    validation, test = about["lower validation error"]
    return (
        f"\nCaution: the last exit's error is {_percent(validation)} on the validation images and {_percent(test)} on "
        "the test images. The network may have been trained on the validation images. Then no guarantee below holds.\n"
    )


def _exits(report):
    before, after = report.calibration.errors, report.calibration.calibrated_errors
    last = report.curve[-1].with_all_heads
    columns = {
        "exit": lambda point: point.exit,
        "MACs": lambda point: _millions(point.with_all_heads),
        "of last": lambda point: _percent(point.with_all_heads / last, 0),
        "time": lambda point: _ms(point.latency),
        "accuracy": lambda point: _percent(1 - point.error),
        "calibration error": lambda point: _percent(before[point.exit]),
        "with temperature": lambda point: _percent(after[point.exit]) if after else "-",
    }
    return table(columns, report.curve)


def _times(seconds):
    return (
        "Times are medians for one image, straight to the exit, as compiled by Keras; all networks were measured in "
        f"turns. All exits in one pass take {_ms(seconds['all exits'])}; the last exit of `monotone` takes "
        f"{_ms(seconds['product'])} (product) and {_ms(seconds['caching'])} (caching)."
    )


def _smaller(report):
    if not report.comparison:
        return ""

    def if_as_fast(text):
        return lambda entry: text(entry) if "exit" in entry else "-"

    columns = {
        "smaller network": lambda entry: entry["name"],
        "MACs": lambda entry: _millions(entry["macs"]),
        "time": lambda entry: _ms(entry["seconds"]),
        "accuracy": lambda entry: _percent(entry["accuracy"]),
        "latest exit as fast": if_as_fast(lambda entry: entry["exit"]),
        "its accuracy": if_as_fast(lambda entry: _percent(entry["exit_accuracy"])),
        "difference": if_as_fast(lambda entry: f"{_points(entry['gain'])} ± {100 * entry['standard_error']:.1f}"),
    }
    return f"\n## Smaller networks at equal time\n\n{table(columns, report.comparison)}\n"


def _budgets(report):
    last = report.curve[-1].with_all_heads

    def one_exit(entry):
        point = [point for point in report.curve if point.with_all_heads <= entry["budget"] * (1 + 1e-9)][-1]
        return f"{point.exit}: {_percent(1 - point.error)}"

    columns = {
        "average budget": lambda entry: f"{_percent(entry['budget'] / last, 0)} ({_millions(entry['budget'])})",
        "threshold": _threshold,
        "MACs on test": lambda entry: _millions(entry["macs"]),
        "accuracy": lambda entry: _percent(entry["accuracy"]),
        "one exit for all": one_exit,
    }
    return table(columns, report.budgets)


def _promises(report):
    last = report.curve[-1].with_all_heads

    def macs(entry):
        if "needed" in entry:
            return f"needs {entry['needed']:,} validation images or more"
        return _percent(entry["macs"] / last, 0)

    def if_kept(text):
        return lambda entry: "-" if "needed" in entry else text(entry)

    columns = {
        "tolerated errors": lambda entry: f"{100 * entry['risk']:g} per 100",
        "threshold": if_kept(_threshold),
        "average MACs, of last": macs,
        "accuracy": if_kept(lambda entry: _percent(entry["accuracy"])),
        "added errors": if_kept(lambda entry: f"{100 * entry['excess']:+.2f} per 100"),
    }
    return table(columns, report.promises)


def _methods(report):
    methods = report.monotonicity
    columns = {
        "method": str,
        "> 1 point": lambda method: _percent(methods[method].falls[0.01]),
        "> 5": lambda method: _percent(methods[method].falls[0.05]),
        "> 10": lambda method: _percent(methods[method].falls[0.1]),
        "flips": lambda method: _percent(methods[method].flips),
        "lost": lambda method: _percent(methods[method].lost),
        "mean accuracy of exits": lambda method: _percent(_mean(methods[method].accuracies)),
        "last exit": lambda method: _percent(_final(methods[method])),
    }
    return table(columns, methods)


def _threshold(entry):
    return f"{entry['threshold']:.4f}" if entry["threshold"] <= 1 else "none"


def _mean(values):
    return sum(values.values()) / len(values)


def _final(found):
    return list(found.accuracies.values())[-1]


def _percent(value, digits=1):
    return f"{100 * value:.{digits}f}%"


def _points(value):
    return f"{100 * value:+.1f} points"


def _millions(macs):
    return f"{macs / 1e6:,.3g}M"


def _ms(seconds):
    return f"{1e3 * seconds:.3g} ms"
