"""Batch prediction within an average budget, and calibration on validation data, for `Predictor`."""

import keras
import numpy as np

from anytime_keras._checks import check_int, check_one
from anytime_keras.evaluation.evaluate import weighted_batches
from anytime_keras.evaluation.samples import class_numbers
from anytime_keras.inference import calibration, early_exit, risk as risks
from anytime_keras.inference.answers import check_classes
from anytime_keras.inference.thresholds import checked_budget, choose_thresholds, fits_budget, same_target


class BatchMethods:
    """The batch methods of `Predictor`."""

    def predict_batch(self, x, confidence=None, average_budget=None, batch_size=256, risk=None, max_drop=None):
        """Classifies each sample with the first exit that is confident enough (early exit).

        Confident samples are removed from the batch at each exit, so easy samples cost less than hard ones. If the
        network mixes the batch axis with another axis, the batch cannot shrink: all samples continue, and
        `average_macs` counts this. If the backend compiles for each batch size (JAX), the batch is padded to one of a
        few sizes: any size up to 8, then 10, 12, 14, 16, 20, 24, 28, 32, 40 ... File engines run at most 32
        samples, or the largest prepared size, at a time; LiteRT and OpenVINO load stages for 8 and 2 samples as well.

        Args:
            x: input of the model, shape `(samples, ...)`.
            confidence: float, the probability of the likeliest class at which a sample exits; or a list with one value
                for each exit but the last, where all remaining samples exit.
            average_budget: float, average MACs per sample, including all heads computed. Requires an earlier call of
                `fit_thresholds` with this budget, the current exits and temperatures, and inputs of this size.
            batch_size: int, initial batch size.
            risk: float, the tolerated loss by early exit. Requires an earlier call of `fit_thresholds` with this risk,
                the current exits and temperatures; the confidence and loss are those of the latest such call.
            max_drop: float, as a fraction. Requires an earlier call of `fit_thresholds` with it, as for `risk`.

        Returns:
            A `BatchAnswer`.

        Raises:
            ValueError: if not exactly one of `confidence`, `average_budget`, `risk` and `max_drop` is given, no
                threshold is fitted for it, `x` does not fit the model, or the exits do not predict at least two
                classes.
        """
        goals = {"confidence": confidence, "average_budget": average_budget, "risk": risk, "max_drop": max_drop}
        batch_size = check_int("batch_size", batch_size)
        state = self._current()
        _check_heads(state)
        inputs = state.engine.start(x)
        macs = _macs(state, inputs)
        names, temperatures = state.stages.exit_names, state.temperatures
        thresholds = choose_thresholds(goals, self._found(), names, temperatures, macs)
        batches = self._batches(state, inputs, batch_size)
        return early_exit.classify(state.engine, batches, thresholds, temperatures, self._worker.lock, names, macs)

    def fit_thresholds(self, validation, average_budget=None, risk=None, max_drop=None, confidence=0.95, loss="error"):
        """Fits the confidence threshold that meets each target, and stores it with the model.

        One kind of target must be given; `predict_batch` takes the same target to use the threshold.

        - `average_budget` limits the average cost, as measured on the validation data.
        - `risk` gives a guarantee: if samples to come are drawn as the validation samples were, then with probability
          `confidence` the mean loss of early answers is at most `risk` above that of the last exit's answers. Each
          threshold is the lowest for which this can be shown. If that is above 1, no sample exits early. The guarantee
          is for the exits, temperatures and weights of now, and holds for each risk by itself. Reference: [Jazbec et
          al., NeurIPS 2024](https://arxiv.org/abs/2405.20915); see `anytime_keras.inference.risk` for the test.
        - `max_drop` limits the drop in accuracy below the last exit's on the validation data, without a guarantee.

        Args:
            validation: pair `(x, y)` of arrays, or batches of such pairs, held out from training. `average_budget` does
                not use `y`. Use other samples for `risk` than `calibrate` was given, or the guarantee is approximate.
            average_budget: float or list of floats, average MACs per sample.
            risk: float or list of floats, from 0 to 1; 0.01 tolerates one more error per hundred samples.
            max_drop: float or list of floats, from 0 to 1; 0.01 is one point of accuracy.
            confidence: float from 0 to 1, for `risk`.
            loss: for `risk`: `"error"`; `"consistency"`, whether the class differs from the last exit's; or a function
                of probabilities, shape `(samples, classes)`, and labels, shape `(samples,)`, that returns a number from
                0 to 1 for each sample.

        Returns:
            A dict from each target to its confidence threshold, which applies to all exits.

        Raises:
            ValueError: if not exactly one kind of target is given, a budget is below the cost of the first exit, an
                exit's outputs contain NaN, or there are too few samples for a risk at this confidence.
        """
        check_one(average_budget=average_budget, risk=risk, max_drop=max_drop)
        if average_budget is None:
            return self._fit_risks(validation, risk, max_drop, confidence, loss)
        budgets = [checked_budget(budget) for budget in np.ravel(np.asarray(average_budget, object))]
        if not budgets:
            raise ValueError("`average_budget` must be a number or a list with at least one. Received: [].")
        state = self._current()
        logits, _, _, macs = self._outputs(state, validation)
        if len(macs) > 1:
            raise ValueError(
                "Thresholds are fitted for inputs of one size, since costs depend on it. Received: sizes at which the "
                f"last exit costs {sorted(own[-1] for own in macs)} MACs."
            )
        (macs,) = macs
        sure = state.confidences(logits)
        fitted = {budget: early_exit.fit_threshold(sure, macs, budget) for budget in budgets}
        with self._changing:
            of_state = [state.stages.exit_names, state.temperatures, list(macs)]
            known = self._found().get("thresholds", [])
            known = [entry for entry in known if not fits_budget(entry, fitted, *of_state)]
            known += [[budget, threshold, *of_state] for budget, threshold in fitted.items()]
            self._keep(thresholds=sorted(known))
        return fitted

    def _fit_risks(self, validation, risk, max_drop, confidence, loss):
        kind, targets = ("risk", risk) if max_drop is None else ("max_drop", max_drop)
        risks.check_targets(kind, targets, confidence, loss)
        state = self._current()
        logits, labels, weights, _ = self._outputs(state, validation)
        fitted, entries = risks.fit(state, logits, labels, weights, kind, targets, confidence, loss)
        with self._changing:
            known = self._found().get("risk_thresholds", [])
            known = [entry for entry in known if not any(same_target(entry, other) for other in entries)]
            self._keep(risk_thresholds=known + entries)
        return fitted

    def calibrate(self, validation):
        """Selects the useful exits and fits their temperatures on validation data; stores both with the model.

        An exit is dropped if an earlier exit makes as few errors or fewer, the rule by which Hu et al. (AAAI 2019,
        section 4) select among the networks of an EANN. The remaining exits are compiled and prepared again. The
        temperature of each exit is fitted so that its confidence matches its accuracy (Guo et al., 2017). Thresholds
        fitted for other exits or temperatures no longer apply. Other threads can use the predictor during the call;
        they get answers from the previous state until the new one is ready.

        With `dtype="int8"`, the temperatures of the 8-bit stages are returned and used, and those of the network's own
        outputs are stored, because each 8-bit predictor fits its temperatures to the network's confidences.

        Args:
            validation: tuple `(x, y)` or `(x, y, sample_weight)` of arrays, or batches of such tuples, held out from
                training. Labels are ints or one-hot.

        Returns:
            A dict from the name of each remaining exit to its temperature.
        """
        self._worker.check_process()
        with self._changing:
            state = self._state
            state.engine.check_weights()
            if any(state.engine.sigmoid):
                raise ValueError(
                    "Only exits that predict one class for each sample can be calibrated. Received: exits that end in "
                    "a sigmoid, whose outputs are their `probabilities`. Choose exits with `Predictor(exits=...)`."
                )
            in_8_bits = state.latencies.dtype == "int8"
            logits, labels, weights, _ = self._outputs(state, validation, run=_both if in_8_bits else None)
            names = state.stages.exit_names
            logits, theirs = logits[: len(names)], logits[-len(names) :]  # the engine's and the network's own
            labels = class_numbers(labels, logits.shape[1:], names[0])
            useful = calibration.better_exits(logits, labels, weights)

            def temperatures(outputs):
                fitted = [calibration.fit_temperature(outputs[position], labels, weights) for position in useful]
                return {names[position]: temperature for position, temperature in zip(useful, fitted)}

            found = temperatures(logits)
            self._change(list(found), found)
            self._keep(exits=list(found), temperatures=temperatures(theirs) if in_8_bits else found)
        return dict(found)

    def predict_exits(self, x, batch_size=256):
        """Runs all exits in use, as `anytime_keras.evaluate` does to measure their errors on this predictor's engine.

        Args:
            x: input of the model, shape `(samples, ...)`.
            batch_size: int, the largest batch to run.

        Returns:
            A dict from exit name to logits, an array of shape `(samples, classes)`, in order.

        Raises:
            ValueError: if `x` does not fit the model.
        """
        batch_size = check_int("batch_size", batch_size)
        state = self._current()
        batches = self._batches(state, state.engine.start(x), batch_size)
        parts = [early_exit.exit_outputs(state.engine, batch, self._worker.lock) for batch in batches]
        return {name: np.concatenate(logits) for name, logits in zip(state.stages.exit_names, zip(*parts))}

    def _batches(self, state, inputs, batch_size):
        """Splits the first stage's inputs into batches of the size that is fastest, at most `batch_size`."""
        size = state.engine.batch_size(batch_size)
        return [[tensor[at : at + size] for tensor in inputs] for at in range(0, inputs[0].shape[0], size)]

    def _found(self):
        """Returns the stored calibration of the model, by this or another predictor."""
        return dict(getattr(self._model, "inference", self._own) or {})

    def _keep(self, **found):
        self._own = {**self._found(), **found}
        if hasattr(self._model, "inference"):
            self._model.inference = dict(self._own)

    def _outputs(self, state, validation, batch_size=256, run=None):
        """Runs all exits on validation data, by the function `run` or `early_exit.exit_outputs`.

        Returns:
            A tuple of logits, shape `(exits, samples, classes)`, labels, sample weights or None, and a set with the
            exits' costs at each input size.
        """
        _check_heads(state)
        logits, labels, weights, macs = [], [], [], set()
        for x, y, sample_weight in weighted_batches(validation, batch_size):
            for inputs in self._batches(state, state.engine.start(x), batch_size):
                logits.append(np.stack((run or early_exit.exit_outputs)(state.engine, inputs, self._worker.lock)))
                macs.add(_macs(state, inputs))
            labels.append(np.asarray(keras.ops.convert_to_numpy(y)))
            if isinstance(sample_weight, (dict, list, tuple)):
                raise ValueError("Sample weights must be one array for all exits. Received: one for each.")
            if sample_weight is not None:
                weights.append(np.ravel(keras.ops.convert_to_numpy(sample_weight)))
        if not logits:
            raise ValueError("`validation` must hold a sample or more. Received: none.")
        logits, weights = np.concatenate(logits, axis=1), np.concatenate(weights) if weights else None
        if np.isnan(logits).any():
            exits = [name for name, own in zip(state.stages.exit_names, logits) if np.isnan(own).any()]
            raise ValueError(
                f"`validation` must give numbers at each exit. Received: NaN from {exits}. Look for NaN in the inputs "
                "and in the network's weights."
            )
        return logits, np.concatenate(labels), weights, macs


def _both(engine, inputs, lock):
    """Returns the engine's logits of all exits, followed by the network's own."""
    return early_exit.exit_outputs(engine, inputs, lock) + engine.network_logits(inputs)


def _macs(state, inputs):
    return tuple(cost.with_all_heads for cost in state.costs_of(inputs))


def _check_heads(state):
    for name, shape in zip(state.stages.exit_names, state.engine.gives):
        check_classes(shape, f"'{name}'")
    if len(set(state.engine.gives)) > 1:
        raise ValueError(f"All exits must have the same number of classes. Received: shapes {state.engine.gives}.")
