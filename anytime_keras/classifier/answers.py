"""Answers with the names of classes."""

import dataclasses

import numpy as np

from anytime_keras import _errors
from anytime_keras._checks import check_int
from anytime_keras.inference import Answer


@dataclasses.dataclass(repr=False)
class LabeledAnswer(Answer):
    """An `anytime_keras.inference.Answer` whose classes have names.

    Attributes:
        logits, exit, position, seconds, late, temperature, sigmoid: as in `Answer`. `seconds` includes decoding and
            preprocessing.
        class_names: list of str, the names of the classes.
        single: bool, whether the answer is for one image, so that `top` and `probability` return no list of images.

    Example:
    >>> logits = np.log([[0.1, 0.7, 0.2]])
    >>> answer = LabeledAnswer(logits, "exit_2", 1, 0.003, class_names=["cat", "dog", "fox"], single=True)
    >>> answer
    LabeledAnswer(dog (70%), exit_2 after 3.0 ms)
    >>> answer.label, [(label, round(probability, 2)) for label, probability in answer.top(2)]
    ('dog', [('dog', 0.7), ('fox', 0.2)])
    """

    class_names: list = dataclasses.field(default_factory=list)
    single: bool = False

    @classmethod
    def of(cls, answer, class_names, single, seconds):
        """Returns an answer with labels, `seconds` of which were added by preprocessing."""
        fields = {field.name: getattr(answer, field.name) for field in dataclasses.fields(Answer)}
        fields["seconds"] += seconds
        return cls(**fields, class_names=class_names, single=single)

    @property
    def labels(self):
        """The name of the likeliest class of each image, a list of str."""
        return [self.class_names[number] for number in self.classes]

    @property
    def label(self):
        """The name of the likeliest class of a single image."""
        if len(self.logits) != 1:
            raise ValueError(f"`label` is for one image. Received: an answer for {len(self.logits)}. Use `labels`.")
        return self.labels[0]

    def top(self, k=5):
        """Returns the likeliest classes.

        Args:
            k: int, the number of classes; all if there are fewer.

        Returns:
            A list of pairs (name, probability), likeliest first; for several images a list of such lists.
        """
        order = np.argsort(-self.probabilities, axis=-1, kind="stable")[:, : check_int("k", k)]
        pairs = zip(self.probabilities, order)
        found = [[(self.class_names[number], float(row[number])) for number in numbers] for row, numbers in pairs]
        return found[0] if self.single else found

    def probability(self, label):
        """Returns the probability of a class: a float, or a list of them for several images.

        Raises:
            ValueError: if there is no class of that name; similar ones are listed.
        """
        if label not in self.class_names:
            raise ValueError(
                f"`label` must be one of the {len(self.class_names)} classes. Received: {label!r}. "
                f"{_errors.nearest(label, self.class_names, most=20)}"
            )
        found = self.probabilities[:, self.class_names.index(label)].tolist()
        return found[0] if self.single else found

    def to_dict(self, k):
        """Returns the `k` likeliest classes of a single image, the exit and the time, as plain data."""
        best = [{"label": label, "probability": round(sure, 6)} for label, sure in self.top(k)]
        return {"predictions": best, "exit": self.exit, "milliseconds": round(1e3 * self.seconds, 3), "late": self.late}

    def __repr__(self):
        labels, shown = self.labels, 3
        named = [f"{label} ({100 * sure:.0f}%)" for label, sure in zip(labels[:shown], self.confidence)]
        if len(labels) > shown:
            named.append(f"and {len(labels) - shown} more")
        late = ", late" if self.late else ""
        return f"LabeledAnswer({', '.join(named)}, {self.exit} after {1e3 * self.seconds:.1f} ms{late})"
