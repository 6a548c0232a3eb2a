"""The part of `Predictor` that classifies whole data sets within an average budget, and learns from validation data."""

import math
import numbers

import keras
import numpy as np

from anytime_keras.evaluation.evaluate import weighted_batches
from anytime_keras.evaluation.labels import class_numbers
from anytime_keras.inference import calibration, early_exit
from anytime_keras.inference.answers import BatchAnswer, check_classes, probabilities


class BatchMethods:
    """See `Predictor`."""

    def predict_batch(self, x, confidence=None, average_budget=None, batch_size=256):
        """Classifies samples, each by the first exit that is sure enough of it: easy ones cost less than hard ones.

        Samples that are sure leave, and the batch shrinks, unless the network mixes the axis of samples with another
        one: there all go on, and `average_macs` says so. Where the backend compiles for each size of batch (JAX), it
        shrinks to one of few sizes: up to 8 all, then 10, 12, 14, 16, 20, 24, 28, 32, 40 ...

        Args:
            x: input of the model, shape `(samples, ...)`.
            confidence: float, the probability of the likeliest class with which a sample leaves; or a list with one
                for each exit but the last, at which all leave.
            average_budget: float, MACs that a sample may cost on average, heads on the way included; `fit_thresholds`
                must have been called for it, with the exits and temperatures of now and inputs of this size.
            batch_size: int, samples that run together at first.

        Returns:
            A `BatchAnswer`.

        Raises:
            ValueError: if not one of `confidence` and `average_budget` is given, the latter is not fitted, `x` does
                not fit the model, or its exits do not tell two classes or more.
        """
        if (confidence is None) == (average_budget is None):
            raise ValueError(
                "One of `confidence` and `average_budget` must be given. "
                f"Received: confidence={confidence}, average_budget={average_budget}."
            )
        state = self._current()
        _check_heads(state)
        batches = _parts(state, x, batch_size)
        macs = _macs(state, batches[0])
        thresholds = self._fitted(state, average_budget, macs) if confidence is None else _thresholds(confidence, state)
        parts = [
            early_exit.classify(state.engine, inputs, thresholds, state.temperatures, self._worker.lock)
            for inputs in batches
        ]
        logits, positions, sure, deepest = (np.concatenate(values) for values in zip(*parts))
        exits = [state.stages.exit_names[position] for position in positions]
        return BatchAnswer(logits, exits, positions, sure, float(np.array(macs)[deepest].mean()))

    def fit_thresholds(self, validation, average_budget):
        """Finds how sure a sample must be to leave, for a budget to be spent on average; keeps it with the model.

        Args:
            validation: pair `(x, y)` of arrays, or batches of them, that were not trained on; y is not used.
            average_budget: float, or a list of them: MACs for each sample, on average.

        Returns:
            A dict from each budget to its threshold of confidence, the same at all exits.

        Raises:
            ValueError: if a budget is less than the first exit costs.
        """
        budgets = [_budget(budget) for budget in np.ravel(np.asarray(average_budget, object))]
        state = self._current()
        logits, _, _, macs = self._outputs(state, validation)
        if len(macs) > 1:
            raise ValueError(
                "Thresholds are fitted for inputs of one size, since costs depend on it. Received: sizes at which the "
                f"last exit costs {sorted(own[-1] for own in macs)} MACs."
            )
        (macs,) = macs
        each = zip(logits, state.temperatures, state.engine.sigmoid)
        sure = [probabilities(*of_exit).max(axis=-1) for of_exit in each]
        fitted = {budget: early_exit.fit_threshold(np.stack(sure), macs, budget) for budget in budgets}
        with self._changing:
            known = [entry for entry in self._found().get("thresholds", []) if not _of(entry, state, macs, fitted)]
            of_state = [state.stages.exit_names, state.temperatures, list(macs)]
            known += [[budget, threshold, *of_state] for budget, threshold in fitted.items()]
            self._keep(thresholds=sorted(known))
        return fitted

    def calibrate(self, validation):
        """Learns from validation data which exits are of use and how sure they are; keeps it with the model.

        An exit that makes no fewer errors than an earlier one is passed over from now on: its answer is not better.
        This is how Hu et al. (AAAI 2019, section 4) choose among the networks of an EANN. What is left is compiled and
        prepared again. The temperature of each exit is fitted, so that its confidence is the share of right answers
        (Guo et al., 2017). Thresholds fitted before were for other exits or temperatures, and do not count any more.
        Other threads may use the predictor meanwhile, and get answers as before until all is ready.

        Args:
            validation: tuple `(x, y)` or `(x, y, sample_weight)` of arrays, or batches of them, that were not trained
                on. Labels are ints or one-hot.

        Returns:
            A dict from the name of each exit that is left to its temperature.
        """
        self._worker.check_process()
        with self._changing:
            state = self._state
            if any(state.engine.sigmoid):
                raise ValueError(
                    "Only exits that predict one class for each sample can be calibrated. Received: exits that end in "
                    "a sigmoid, whose outputs are their `probabilities`. Choose exits with `Predictor(exits=...)`."
                )
            logits, labels, weights, _ = self._outputs(state, validation)
            names = state.stages.exit_names
            labels = class_numbers(labels, logits.shape[1:], names[0])
            useful = calibration.better_exits(logits, labels, weights)
            names = [names[position] for position in useful]
            found = {
                name: calibration.fit_temperature(logits[position], labels, weights)
                for name, position in zip(names, useful)
            }
            self._change(names, found)
            self._keep(exits=names, temperatures=found)
        return dict(found)

    def _found(self):
        """Returns what was found for the model, by this predictor or another one of the same model."""
        return dict(getattr(self._model, "inference", self._own) or {})

    def _keep(self, **found):
        self._own = {**self._found(), **found}
        if hasattr(self._model, "inference"):
            self._model.inference = dict(self._own)

    def _fitted(self, state, average_budget, macs):
        budget = _budget(average_budget)
        found = {entry[0]: entry[1] for entry in self._found().get("thresholds", []) if _of(entry, state, macs)}
        if budget not in found:
            raise ValueError(
                f"No threshold is fitted for `average_budget` {average_budget} and the exits "
                f"{state.stages.exit_names} at their temperatures and costs, {list(macs)} MACs. Fitted: {list(found)}. "
                "Call `predictor.fit_thresholds(validation, average_budget)` with inputs of that size."
            )
        return [found[budget]] * len(state.costs)

    def _outputs(self, state, validation, batch_size=256):
        """Returns all exits' logits, shape `(exits, samples, classes)`; labels; sample weights, or None; and a set with
        the exits' costs at each size of the inputs."""
        _check_heads(state)
        logits, labels, weights, macs = [], [], [], set()
        for x, y, sample_weight in weighted_batches(validation, batch_size):
            for inputs in _parts(state, x, batch_size):
                logits.append(early_exit.all_logits(state.engine, inputs, self._worker.lock))
                macs.add(_macs(state, inputs))
            labels.append(np.asarray(keras.ops.convert_to_numpy(y)))
            if isinstance(sample_weight, (dict, list, tuple)):
                raise ValueError("Sample weights must be one array for all exits. Received: one for each.")
            if sample_weight is not None:
                weights.append(np.ravel(keras.ops.convert_to_numpy(sample_weight)))
        if not logits:
            raise ValueError("`validation` must hold a sample or more. Received: none.")
        weights = np.concatenate(weights) if weights else None
        return np.concatenate(logits, axis=1), np.concatenate(labels), weights, macs


def _parts(state, x, batch_size):
    """Cuts samples into batches, each as the list of tensors that the first stage takes."""
    if isinstance(batch_size, bool) or not isinstance(batch_size, numbers.Integral) or batch_size < 1:
        raise ValueError(f"`batch_size` must be an int, at least 1. Received: {batch_size!r}.")
    inputs, size = state.stages.start(x), int(batch_size)
    return [[tensor[at : at + size] for tensor in inputs] for at in range(0, inputs[0].shape[0], size)]


def _macs(state, inputs):
    return tuple(cost.with_all_heads for cost in state.costs_of(inputs))


def _check_heads(state):
    for name, shape in zip(state.stages.exit_names, state.engine.gives):
        check_classes(shape, f"'{name}'")
    if len(set(state.engine.gives)) > 1:
        raise ValueError(f"All exits must tell the same classes. Received: shapes {state.engine.gives}.")


def _budget(value):
    if not isinstance(value, numbers.Real) or math.isnan(value):
        raise ValueError(f"`average_budget` must be a number of MACs. Received: {value!r}.")
    return float(value)


def _of(entry, state, macs, budgets=None):
    """Tells whether a threshold was fitted for these exits, temperatures and costs, and one of the budgets if there are
    any. What an older entry lacks of these is taken for the same.
    """
    budget, _, *fitted_for = entry
    of_state = [state.stages.exit_names, state.temperatures, list(macs)][: len(fitted_for)]
    return fitted_for == of_state and (budgets is None or budget in budgets)


def _thresholds(confidence, state):
    exit_names = state.stages.exit_names
    if np.ndim(confidence) == 0:
        values = [confidence] * len(exit_names)
    elif len(confidence) == len(exit_names) - 1:
        values = [*confidence, 0.0]
    else:
        raise ValueError(
            f"`confidence` needs one value for each exit but the last of {exit_names}. "
            f"Received: {len(confidence)} values."
        )
    if not np.isfinite(np.asarray(values, float)).all():
        raise ValueError(f"`confidence` must be numbers. Received: {confidence}.")
    return values
