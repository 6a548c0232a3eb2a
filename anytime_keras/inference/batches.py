"""The part of `Predictor` that classifies whole data sets within an average budget, and learns from validation data."""

import keras
import numpy as np

from anytime_keras.evaluation.evaluate import batches
from anytime_keras.inference import calibration, early_exit
from anytime_keras.inference.answers import BatchAnswer, probabilities


class BatchMethods:
    """See `Predictor`."""

    @property
    def temperatures(self):
        found = self._found.get("temperatures", {})
        return [found.get(name, 1.0) for name in self.exit_names]

    def predict_batch(self, x, confidence=None, average_budget=None, batch_size=256):
        """Classifies samples, each by the first exit that is sure enough of it: easy ones cost less than hard ones.

        Samples that are sure leave, and the batch shrinks. Where the backend compiles for each size of batch (JAX), it
        shrinks to one of few sizes: up to 8 all, then 10, 12, 14, 16, 20, 24, 28, 32, 40 ...

        Args:
            x: input of the model, shape `(samples, ...)`.
            confidence: float, the probability of the likeliest class with which a sample leaves; or a list with one
                for each exit but the last, at which all leave.
            average_budget: float, MACs that a sample may cost on average, heads on the way included; `fit_thresholds`
                must have been called for it.
            batch_size: int, samples that run together at first.

        Returns:
            A `BatchAnswer`.

        Raises:
            ValueError: if not one of `confidence` and `average_budget` is given, the latter is not fitted, or `x` does
                not fit the model.
        """
        if (confidence is None) == (average_budget is None):
            raise ValueError(
                "One of `confidence` and `average_budget` must be given. "
                f"Received: confidence={confidence}, average_budget={average_budget}."
            )
        thresholds = self._fitted(average_budget) if confidence is None else _thresholds(confidence, self.exit_names)
        parts = [
            early_exit.classify(self._engine, inputs, thresholds, self.temperatures, self._worker.lock)
            for inputs in self._parts(x, batch_size)
        ]
        logits, positions, sure = (np.concatenate(values) for values in zip(*parts))
        macs = np.array([cost.with_all_heads for cost in self.costs])
        exits = [self.exit_names[position] for position in positions]
        return BatchAnswer(logits, exits, positions, sure, float(macs[positions].mean()))

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
        budgets = average_budget if isinstance(average_budget, (list, tuple)) else [average_budget]
        logits, _ = self._outputs(validation)
        sure = [probabilities(*pair).max(axis=-1) for pair in zip(logits, self.temperatures)]
        macs = [cost.with_all_heads for cost in self.costs]
        fitted = {float(budget): early_exit.fit_threshold(np.stack(sure), macs, budget) for budget in budgets}
        known = {budget: threshold for budget, *threshold in self._found.get("thresholds", [])}
        known.update({budget: [threshold, self.exit_names] for budget, threshold in fitted.items()})
        self._keep(thresholds=[[budget, *entry] for budget, entry in sorted(known.items())])
        return fitted

    def calibrate(self, validation):
        """Learns from validation data which exits are of use and how sure they are; keeps it with the model.

        An exit that makes no fewer errors than an earlier one is passed over from now on: its answer is not better.
        This is how Hu et al. (AAAI 2019, section 4) choose among the networks of an EANN. What is left is compiled and
        prepared again. The temperature of each exit is fitted, so that its confidence is the share of right answers
        (Guo et al., 2017). Thresholds fitted before are forgotten.

        Args:
            validation: pair `(x, y)` of arrays, or batches of them, that were not trained on. Labels are ints or
                one-hot.

        Returns:
            A dict from the name of each exit that is left to its temperature.
        """
        logits, labels = self._outputs(validation)
        useful = calibration.better_exits(logits, labels)
        names = [self.exit_names[position] for position in useful]
        temperatures = [calibration.fit_temperature(logits[position], labels) for position in useful]
        self._keep(exits=names, temperatures=dict(zip(names, temperatures)), thresholds=[])
        if names != self.exit_names:
            self._again(names)
        return dict(self._found["temperatures"])

    def _keep(self, **found):
        self._found.update(found)
        if hasattr(self._model, "inference"):
            self._model.inference = dict(self._found)

    def _fitted(self, average_budget):
        found = {
            budget: threshold
            for budget, threshold, exits in self._found.get("thresholds", [])
            if exits == self.exit_names
        }
        if average_budget not in found:
            raise ValueError(
                f"No threshold is fitted for `average_budget` {average_budget} and the exits {self.exit_names}. "
                f"Fitted: {list(found)}. Call `predictor.fit_thresholds(validation, average_budget)`."
            )
        return [found[average_budget]] * len(self.exit_names)

    def _parts(self, x, batch_size):
        """Cuts samples into batches, each as the list of tensors that the first stage takes."""
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"`batch_size` must be an int, at least 1. Received: {batch_size!r}.")
        inputs = self._stages.start(x)
        count = inputs[0].shape[0]
        return [[tensor[at : at + batch_size] for tensor in inputs] for at in range(0, count, batch_size)]

    def _outputs(self, validation, batch_size=256):
        """Returns all exits' logits, shape `(exits, samples, classes)`, and the labels as ints."""
        logits, labels = [], []
        for x, y in batches(validation, batch_size):
            for inputs in self._parts(x, batch_size):
                logits.append(early_exit.all_logits(self._engine, inputs, self._worker.lock))
            labels.append(np.asarray(keras.ops.convert_to_numpy(y)))
        if not logits:
            raise ValueError("`validation` must hold a sample or more. Received: none.")
        logits, labels = np.concatenate(logits, axis=1), np.concatenate(labels)
        if labels.ndim > 1 and labels.shape == logits.shape[1:]:
            labels = labels.argmax(axis=-1)
        labels = labels.reshape(-1).astype(int)
        if len(labels) != logits.shape[1] or labels.min() < 0 or labels.max() >= logits.shape[2]:
            raise ValueError(
                f"Labels must be one class from 0 to {logits.shape[2] - 1} for each of {logits.shape[1]} samples. "
                f"Received: {len(labels)} labels from {labels.min()} to {labels.max()}."
            )
        return logits, labels


def _thresholds(confidence, exit_names):
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
