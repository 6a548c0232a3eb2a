"""The sections of a report: tables, and sentences made from the numbers."""

from anytime_keras.reporting.page import Figure, Heading, Items, Table, Text

NOISE = 2.0  # standard errors below which a difference is within noise
WITHIN = 0.005  # of the last exit's accuracy: "as good as"


def blocks(report, figures):
    """Returns the blocks of the page.

    Args:
        report: `Report`.
        figures: dict from a name to a plot, the result of `Report.figures`.
    """
    return [
        Heading(report.curve.name, 1),
        Text(_about(report.about)),
        *_warning(report.about),
        Heading("What to use when"),
        Items(advice(report)),
        Heading("Exits"),
        Figure("curve", figures["curve"], "Error at each exit, against multiply-accumulates and against time."),
        _exits(report),
        Text(_times(report.seconds)),
        *_smaller(report),
        Heading("Early exit"),
        Text(
            "Samples exit where the confidence first reaches a threshold. Thresholds are fitted on validation images "
            "and measured here on test images. Costs include the heads of all exits computed."
        ),
        Figure("early_exit", figures["early_exit"], "Accuracy against average cost."),
        _budgets(report),
        Heading("Thresholds with a promise"),
        Text(
            f"With {_percent(report.about['confidence'], 0)} confidence, early exit by the threshold adds at most the "
            "tolerated errors to the last exit's, on images drawn as the validation images were. The last column is "
            "what it adds on the test images."
        ),
        _promises(report),
        Heading("Calibration"),
        Text(
            "The expected calibration error is the mean distance between confidence and accuracy, over 15 intervals of "
            f"confidence. Temperatures: {report.about['temperatures']}."
        ),
        Figure("reliability", figures["reliability"], "Accuracy against confidence at each exit."),
        Figure("risk_coverage", figures["risk_coverage"], "Error among the most confident share of the images."),
        Heading("Monotonicity"),
        Text(
            "The share of test images for which the true class's probability falls by more than 1, 5 and 10 points "
            "from some exit to a later one; that some exit has right and a later one wrong (flips); and that some exit "
            "has right and the last one wrong (lost)."
        ),
        Figure("monotonicity", figures["monotonicity"], "Accuracy and falls, as trained and with `monotone`."),
        _methods(report),
    ]


def advice(report):
    """Returns what to use when, a list of str."""
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
            f"Batches with a promise: `fit_thresholds(validation, risk={entry['risk']})` costs "
            f"{_percent(entry['macs'] / last.with_all_heads, 0)} of the last exit's MACs on average."
        )
    else:
        needed = min((entry["needed"] for entry in report.promises if "needed" in entry), default=None)
        why = f"at least {needed:,} validation images are needed" if needed else "no threshold keeps one"
        texts.append(f"Batches with a promise: none; {why}.")
    texts.append(_monotone_advice(report.monotonicity))
    before = _mean(report.calibration.errors)
    after = _mean(report.calibration.calibrated_errors or report.calibration.errors)
    if report.calibration.calibrated_errors is None:
        texts.append(f"Confidence that is read as a probability: its mean calibration error is {_percent(before)}.")
    elif after < before:
        texts.append(
            "Confidence that is read as a probability: `predictor.calibrate(validation)`. Temperatures lower the mean "
            f"calibration error from {_percent(before)} to {_percent(after)}."
        )
    else:
        texts.append(f"Confidence can be read as it is: temperatures do not lower its error of {_percent(before)}.")
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
        return "Answers that are shown as they improve: `monotone` makes them no steadier."
    last = _final(best) - _final(trained)
    price = " Use it only where steady answers are worth this." if last < -WITHIN else ""
    return (
        f'Answers that are shown as they improve: `ak.monotone(model, "{name}")`. The true class falls by more than 5 '
        f"points for {_percent(best.falls[0.05])} of the images instead of {_percent(trained.falls[0.05])}; the mean "
        f"accuracy of the exits changes by {_points(change)}, the last exit's by {_points(last)}.{price}"
    )


def _verdict(entry):
    if "exit" not in entry:
        beside = "no exit is as fast or as accurate"
        if "exit_as_accurate" in entry:
            beside = (
                "no exit is as fast, and the fastest that is as accurate, "
                f"{entry['exit_as_accurate']}, takes {_ms(entry['exit_seconds'])}"
            )
        return (
            f"At a fixed deadline of {_ms(entry['seconds'])}, the smaller network is better: {entry['name']} has "
            f"{_percent(entry['accuracy'])}; {beside}."
        )
    gain, error = entry["gain"], entry["standard_error"]
    pair = (
        f"{entry['name']} has {_percent(entry['accuracy'])} in {_ms(entry['seconds'])}, {entry['exit']} "
        f"{_percent(entry['exit_accuracy'])} in {_ms(entry['exit_seconds'])}, a difference of {_points(gain)} with a "
        f"standard error of {100 * error:.1f}."
    )
    if gain > NOISE * error:
        return f"At a fixed deadline of {_ms(entry['seconds'])}, the smaller network is better: {pair}"
    if gain < -NOISE * error:
        return f"At a fixed deadline of {_ms(entry['seconds'])}, this network is better: {pair}"
    return f"At a fixed deadline of {_ms(entry['seconds'])}, the two are within noise: {pair}"


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
        return []
    validation, test = about["lower validation error"]
    return [
        Text(
            f"Caution: the last exit's error is {_percent(validation)} on the validation images and {_percent(test)} "
            "on the test images. The network may have been trained on the validation images; then no promise below "
            "holds."
        )
    ]


def _exits(report):
    after = report.calibration.calibrated_errors
    last = report.curve[-1].with_all_heads
    rows = [
        [
            point.exit,
            f"{point.with_all_heads / 1e6:,.3g}M",
            f"{100 * point.with_all_heads / last:.0f}%",
            _ms(point.latency),
            _percent(1 - point.error),
            _percent(report.calibration.errors[point.exit]),
            _percent(after[point.exit]) if after else "-",
        ]
        for point in report.curve
    ]
    headings = ["exit", "MACs", "of last", "time", "accuracy", "calibration error", "with temperature"]
    return Table(headings, rows)


def _times(seconds):
    return (
        "Times are medians for one image, straight to the exit, as compiled by Keras; all networks were measured in "
        f"turns. All exits in one pass take {_ms(seconds['all exits'])}; the last exit of `monotone` takes "
        f"{_ms(seconds['product'])} (product) and {_ms(seconds['caching'])} (caching)."
    )


def _smaller(report):
    if not report.comparison:
        return []
    rows = [
        [
            entry["name"],
            f"{entry['macs'] / 1e6:,.3g}M",
            _ms(entry["seconds"]),
            _percent(entry["accuracy"]),
            entry.get("exit", "-"),
            _percent(entry["exit_accuracy"]) if "exit" in entry else "-",
            f"{_points(entry['gain'])} ± {100 * entry['standard_error']:.1f}" if "exit" in entry else "-",
        ]
        for entry in report.comparison
    ]
    headings = ["smaller network", "MACs", "time", "accuracy", "latest exit as fast", "its accuracy", "difference"]
    return [Heading("Smaller networks at equal time"), Table(headings, rows)]


def _budgets(report):
    last = report.curve[-1]
    rows = []
    for entry in report.budgets:
        static = [point for point in report.curve if point.with_all_heads <= entry["budget"] * (1 + 1e-9)][-1]
        rows.append(
            [
                f"{100 * entry['budget'] / last.with_all_heads:.0f}% ({entry['budget'] / 1e6:,.3g}M)",
                f"{entry['threshold']:.4f}" if entry["threshold"] <= 1 else "none",
                f"{entry['macs'] / 1e6:,.3g}M",
                _percent(entry["accuracy"]),
                f"{static.exit}: {_percent(1 - static.error)}",
            ]
        )
    headings = ["average budget", "threshold", "MACs on test", "accuracy", "one exit for all"]
    return Table(headings, rows)


def _promises(report):
    last, rows = report.curve[-1].with_all_heads, []
    for entry in report.promises:
        tolerated = f"{100 * entry['risk']:g} per 100"
        if "needed" in entry:
            why = f"needs {entry['needed']:,} validation images or more"
            rows.append([tolerated, "-", why, "-", "-"])
            continue
        rows.append(
            [
                tolerated,
                f"{entry['threshold']:.4f}" if entry["threshold"] <= 1 else "none",
                _percent(entry["macs"] / last, 0),
                _percent(entry["accuracy"]),
                f"{100 * entry['excess']:+.2f} per 100",
            ]
        )
    return Table(["tolerated errors", "threshold", "average MACs, of last", "accuracy", "added errors"], rows)


def _methods(report):
    rows = [
        [
            method,
            *(_percent(share) for share in found.falls.values()),
            _percent(found.flips),
            _percent(found.lost),
            _percent(_mean(found.accuracies)),
            _percent(_final(found)),
        ]
        for method, found in report.monotonicity.items()
    ]
    headings = ["method", "> 1 point", "> 5", "> 10", "flips", "lost", "mean accuracy of exits", "last exit"]
    return Table(headings, rows)


def _mean(values):
    return sum(values.values()) / len(values)


def _final(found):
    return list(found.accuracies.values())[-1]


def _percent(value, digits=1):
    return f"{100 * value:.{digits}f}%"


def _points(value):
    return f"{100 * value:+.1f} points"


def _ms(seconds):
    return f"{1e3 * seconds:.3g} ms"
