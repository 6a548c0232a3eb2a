"""What `publish` cannot measure: facts about a training and its data, and results that others reported."""

import dataclasses
import json
import pathlib

import numpy as np

from anytime_keras import runtime
from anytime_keras._errors import check_known

# The origin and the licence of data sets, as their makers state them.
SOURCES: dict[str, list] = json.loads(pathlib.Path(__file__).with_name("sources.json").read_text())


@dataclasses.dataclass
class Facts:
    """Facts that `publish` cannot measure; see its `facts`."""

    description: str = ""
    reference: str | None = None
    licence: str = "Apache-2.0"
    source: str | None = None
    data_licence: str | None = None
    epochs: float | None = None
    images: int | None = None
    seed: int = 0
    minutes: float | None = None
    machine: dict | None = None
    note: str | None = None
    replace: str | None = None
    weighting: dict | None = None
    before: list | None = None
    after: list | None = None

    @classmethod
    def of(cls, facts):
        check_known(facts, [field.name for field in dataclasses.fields(cls)], "Unknown fact `{}`.")
        return cls(**facts)


@dataclasses.dataclass
class Reported:
    """Accuracies that others measured and reported. `publish` takes them in place of a data set.

    It is for networks with weights of others, such as those of `ak.models.from_pytorch`, whose training data is not at
    hand. `ak.zoo.evaluate` measures such a network again for those who have the data. The model needs a `preprocessor`
    and `class_names`.

    Attributes:
        name: str, the data set's name, such as `"imagenet2012"`.
        accuracies: list of float from 0 to 1, one per exit, earliest first.
        images: int, the number of images that they were measured on.
        reference: str, the paper or address that reports them, recorded in the manifest.
        split: str, the data set's split, `"test"` or `"validation"`. ImageNet's validation images are `"test"` here.

    Example, with a checkpoint of [L2W-DEN](https://github.com/LeapLabTHU/L2W-DEN), a list `names` of the classes and a
    list `accuracies` of what its paper reports for each exit:

        model = ak.models.from_pytorch("msdnet_step7", "checkpoint.pth.tar")
        model.class_names = names
        reported = ak.zoo.Reported("imagenet2012", accuracies, 50_000, "Han et al., 2022")
        facts = dict(weighting={"name": "learned"}, licence="not stated")
        ak.zoo.publish(model, "msdnet_step7_l2w", reported, folder="our_zoo", **facts)
        ak.zoo.add("our_zoo")
    """

    name: str
    accuracies: list
    images: int
    reference: str
    split: str = "test"

    split_seed = 0  # not an attribute of the dataclass: the split is fixed

    def check(self, model):
        """Raises ValueError unless a model can be published with these results."""
        for what in ("preprocessor", "class_names"):
            if getattr(model, what) is None:
                raise ValueError(f"To publish without a data set, set `model.{what}`. Received: None.")
        accuracies = list(self.accuracies)
        if len(accuracies) != model.num_exits or not all(0 <= accuracy <= 1 for accuracy in accuracies):
            raise ValueError(
                f"`accuracies` must be {model.num_exits} numbers from 0 to 1, one per exit. Received: {accuracies}."
            )

    def fill(self, entry, model, stored):
        """Adds the results to a manifest's entry, and returns a golden pair of the stored network."""
        preprocessor = model.preprocessor
        for exit, accuracy in zip(entry["exits"], self.accuracies):
            exit.update(accuracy=float(accuracy), loss=None)
        entry["data"].update(mean=preprocessor.mean, std=preprocessor.std, class_names=list(model.class_names))
        entry["data"].update(sizes={self.split: self.images}, split_seed=0)
        machine = {"reported": self.reference}
        entry["measured"] = {"split": self.split, "images": self.images, "split_seed": 0, "machine": machine}
        x = preprocessor(np.random.default_rng(0).integers(0, 256, preprocessor.image_shape, "uint8"))
        return {"input": x, **runtime.finish(stored(x, training=False))}
