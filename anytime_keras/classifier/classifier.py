"""`Classifier`: raw images in, named classes out, as good as a deadline allows."""

import functools
import pathlib
import time

import numpy as np

from anytime_keras._checks import check_int
from anytime_keras.classifier import card, facts, networks, presets
from anytime_keras.classifier.answers import LabeledAnswer
from anytime_keras.export.reader import ExportedModel
from anytime_keras.inference import Predictor
from anytime_keras.inference.engines.base import padded
from anytime_keras.inference.predictor import check_limits
from anytime_keras.preprocessing import decoding
from anytime_keras.preprocessing.host import HostPreprocessor


class Classifier:
    """Classifies raw images with an anytime network: decodes and preprocesses them, runs the network, names classes.

    `from_preset` loads a classifier by name. The network runs in a `Predictor`, which is created, compiled and measured
    at the first call. That takes some seconds; later calls are fast.

    Args:
        model: functional Keras model whose outputs are its exits, such as an `AnytimeModel`; an `EANN`; or the
            `ExportedModel` of an exported set.
        preprocessor: `anytime_keras.preprocessing.Preprocessor`; None uses the model's own, or that of an ensemble's
            first member.
        class_names: list of str, the names of the classes in the order of the network's outputs; None as for
            `preprocessor`.
        about: dict of facts for the model card, like the attribute; None if nothing is known.
        **options: arguments of `Predictor`, such as `exits` and `engine`. An exported set runs only on the engine that
            it was exported for.

    Attributes:
        model: the network.
        preprocessor: the `Preprocessor`; call it to get the network's inputs for an image.
        class_names: list of str.
        about: dict of plain data: name, data, curve, recipe and so on, as far as they are known.
        predictor: the `Predictor`.

    Raises:
        ValueError: if the model has no preprocessor or class names and none are given, or they or an option do not fit
            the model.
        TypeError: if an option is unknown.

    Example:
    >>> import anytime_keras as ak
    >>> classifier = ak.Classifier.from_preset("resann2x16_adaloss_digits")
    >>> from sklearn.datasets import load_digits
    >>> images = load_digits().images / 16                # or paths, or Pillow images
    >>> answer = classifier(images[0], deadline=60)
    >>> answer.label, answer.exit, len(answer.top(3))
    ('0', 'exit_6', 3)
    >>> classifier.predict(list(images[:3])).labels
    ['0', '1', '2']
    """

    def __init__(self, model, preprocessor=None, class_names=None, about=None, **options):
        networks.check_options(options)
        self.model, self.about, self._options = model, dict(about or {}), options
        own = networks.first(model)
        self.preprocessor = getattr(own, "preprocessor", None) if preprocessor is None else preprocessor
        self.class_names = getattr(own, "class_names", None) if class_names is None else class_names
        name = self.about.get("name") or getattr(model, "name", "the model")
        for what in ("preprocessor", "class_names"):
            if getattr(self, what) is None:
                raise ValueError(
                    f"'{name}' does not contain its {what.replace('_', ' ')}, so pass `{what}`. Networks that are "
                    "trained by `ak.training.train` or loaded from the zoo contain it."
                )
        if not isinstance(self.preprocessor, HostPreprocessor):
            raise ValueError(
                f"`preprocessor` must be an `ak.preprocessing.Preprocessor`. Received: {self.preprocessor!r:.100}."
            )
        if isinstance(self.class_names, str) or not hasattr(self.class_names, "__iter__"):
            raise ValueError(f"`class_names` must be a list of names. Received: {self.class_names!r:.100}.")
        self.class_names = list(map(str, self.class_names))
        networks.check(name, model, self.preprocessor, self.class_names)
        self._costs = networks.costs(model, self.preprocessor.image_shape)
        if isinstance(model, ExportedModel):
            networks.check_set_options(model, options)
        else:
            networks.check_exits(self._costs, options)

    @classmethod
    def from_preset(cls, preset, weights="default", preprocessor=None, class_names=None, **options):
        """Loads a classifier.

        Args:
            preset: one of

                - a name of the zoo, see `ak.zoo.list(loads=True)`;
                - the folder of a finished training, or one that `save_to_preset` wrote;
                - a `.keras` file of a model with a preprocessor, or a folder that `EANN.save` wrote of such models;
                - the folder of a set that `ak.export` wrote;
                - `"hf://user/model"`, a preset on the Hugging Face Hub. Needs the package huggingface_hub.
            weights: str, for names of the zoo the label of the weights, such as a data set's name.
            preprocessor, class_names, **options: as in `Classifier`. For an exported set, `num_threads` is also
                possible.

        Returns:
            A `Classifier`.

        Raises:
            ValueError: if there is no such preset (similar names are listed), it is damaged, or an option does not fit.
            TypeError: if an option is unknown.
            OSError: if a file is neither here nor can be downloaded.
            ImportError: if a package is missing.
        """
        networks.check_options(options)
        found = presets.load(preset, weights, options.get("num_threads"))
        if isinstance(found["model"], ExportedModel):
            options.pop("num_threads", None)
        given = {"preprocessor": preprocessor, "class_names": class_names}
        found.update((name, value) for name, value in given.items() if value is not None)
        return cls(**found, **options)

    def __getstate__(self):
        return {name: value for name, value in vars(self).items() if name != "predictor"}  # made again when needed

    @functools.cached_property
    def predictor(self):
        if isinstance(self.model, ExportedModel):
            return networks.SetPredictor(self.model, self._example(1))
        return Predictor(self.model, self._example(1), **self._options)

    def _example(self, batch_size):
        """Returns the network's inputs for random images."""
        pixels = np.random.default_rng(0).integers(0, 256, (batch_size, *self.preprocessor.image_shape), "uint8")
        return self.preprocessor(pixels)

    def prepare(self, batch_size=1):
        """Compiles the network for batches of a size, and measures the latency of its exits, for deadlines.

        Args:
            batch_size: int, number of images.
        """
        self.predictor.prepare(self._example(check_int("batch_size", batch_size)))

    def __call__(self, images, deadline=None, budget=None, until=None):
        """Classifies an image, or several as one batch, within one limit; without a limit, with the last exit.

        Args:
            images: an image or a list of images, each a path, a Pillow image or an array; see `Preprocessor`.
            deadline: float, seconds from the call, including decoding and preprocessing, but not the time in which the
                first call creates the predictor. On JAX, the first call with a larger batch is late; call `prepare`
                with its size to avoid that.
            budget: float, multiply-accumulates for each image.
            until: function from a `LabeledAnswer` to a bool; the first answer for which it is true is returned.

        Returns:
            A `LabeledAnswer`.

        Raises:
            ValueError: if an image or a limit is not valid, or there is more than one limit.
        """
        check_limits(deadline, budget, until)
        predictor, begin = self.predictor, time.perf_counter()
        labeled, inputs = self._preprocessed(images, begin)
        left = None if deadline is None else max(deadline - (time.perf_counter() - begin), 0.0)
        met = None if until is None else lambda answer: until(labeled(answer))
        answer = labeled(predictor.predict(inputs, deadline=left, budget=budget, until=met))
        if deadline is not None:
            answer.late = answer.seconds > deadline
        return answer

    def stream(self, images):
        """Yields successively better `LabeledAnswer`s for an image or one batch; see `Predictor.stream`."""
        predictor, begin = self.predictor, time.perf_counter()
        labeled, inputs = self._preprocessed(images, begin)
        return map(labeled, predictor.stream(inputs))

    def predict(self, images, batch_size=32, budget=None):
        """Classifies any number of images, batch by batch.

        Args:
            images: list of images or array of shape `(images, height, width, channels)`; see `Preprocessor`.
            batch_size: int.
            budget: float, multiply-accumulates for each image; None answers with the last exit.

        Returns:
            One `LabeledAnswer` for all images.

        Raises:
            ValueError: if an image or an argument is not valid.
        """
        batch_size = check_int("batch_size", batch_size)
        batch_size = getattr(self.model, "batch_size", None) or batch_size  # of an exported set
        predictor, begin = self.predictor, time.perf_counter()
        if decoding.is_single(images):
            images = [images]
        logits = []
        for first in range(0, max(len(images), 1), batch_size):
            inputs = self.preprocessor(images[first : first + batch_size])
            # The last batch is filled up, since some backends compile for each size.
            filled = padded([inputs], batch_size)[0] if len(images) > batch_size else inputs
            answer = predictor.predict(filled, budget=budget)
            logits.append(answer.logits[: len(inputs)])
        answer = LabeledAnswer.of(answer, self.class_names, False, 0.0)
        answer.logits, answer.seconds = np.concatenate(logits), time.perf_counter() - begin
        return answer

    def _preprocessed(self, images, begin):
        """Returns a function that adds labels to the predictor's answers, and the network's inputs."""
        inputs, single = self.preprocessor(images), decoding.is_single(images)
        spent = time.perf_counter() - begin
        return lambda answer: LabeledAnswer.of(answer, self.class_names, single, spent), inputs

    def finetune(self, folder, minutes=10.0, to=None, **options):
        """Trains the network on a folder of images, starting from its weights, and returns a new classifier.

        The new classifier has the folder's classes and the preprocessor of this one, and `about["curve"]` is its error
        on held-out images at each exit. See `ak.training.finetune`, which does the work.

        Args:
            folder: path of a folder with one folder of images per class, such as `folder/cat/1.jpg`.
            minutes: float, total duration.
            to: output directory, which `from_preset` can load; None writes nothing.
            **options: further arguments of `ak.training.finetune`, such as `validation`, `seed` and `verbose`.

        Returns:
            A `Classifier`.

        Raises:
            ValueError: as `ak.training.finetune`; or if the classifier runs an exported set or an ensemble, which
                cannot be trained.

        Example, with three folders of photos in `photos`:

            classifier = ak.Classifier.from_preset("msdnet33_adaloss").finetune("photos", minutes=10, to="runs/photos")
            classifier("photo.jpg").label
        """
        from anytime_keras import training  # predicting needs no training

        if isinstance(self.model, ExportedModel):
            raise ValueError(
                f"An exported set cannot be trained. Received: '{self.model.path}'. Train the model that was exported."
            )
        if getattr(self.model, "preprocessor", None) is None:
            self.model.preprocessor = self.preprocessor
        run = training.finetune(self.model, folder, minutes, to, name=self.about.get("name"), **options)
        about = facts.of_run(run) if to is None else facts.of_training(pathlib.Path(to))
        return type(self)(run.model, about=about, **self._options)

    def save_to_preset(self, folder, overwrite=False):
        """Writes the classifier to a folder for `from_preset`, with a model card.

        The folder contains `model.keras` (or what `EANN.save` writes), `preset.json` (preprocessing, class names and
        `about`), the model card `README.md` and, if the errors of the exits are known, their plot. It is written
        completely or not at all.

        Args:
            folder: path, new or empty.
            overwrite: bool, whether to replace a preset in that folder.

        Returns:
            The path, a `pathlib.Path`.

        Raises:
            ValueError: if the classifier runs an exported set, which is not a Keras model.
            FileExistsError: if `folder` exists and is not empty, unless it is a preset to overwrite.
        """
        return presets.save(self, folder, overwrite)

    def upload_preset(self, uri, private=False):
        """Uploads the classifier to the Hugging Face Hub, as `save_to_preset` writes it.

        Needs the package huggingface_hub and a login (`hf auth login`, or the environment variable HF_TOKEN).

        Args:
            uri: str, `"hf://user/model"`. The repository is created if it does not exist.
            private: bool, whether a new repository is private.

        Returns:
            The address of the model's page, a str.

        Raises:
            ValueError: if `uri` is not valid, or the classifier runs an exported set.
            ImportError: if huggingface_hub is missing.
            OSError: if the upload fails.
        """
        return presets.upload(self, uri, private)

    def model_card(self):
        """Returns the model card as Markdown with YAML front matter; see `save_to_preset`."""
        return card.text(self)

    @property
    def costs(self):
        """The cost of each exit, a list of `anytime_keras.cost.ExitCost`, earliest first."""
        return list(self._costs)

    def __repr__(self):
        name, costs = self.about.get("name") or getattr(self.model, "name", type(self.model).__name__), self._costs
        size = " x ".join(map(str, self.preprocessor.image_shape))
        macs = " to ".join(f"{cost.with_all_heads / 1e6:.3g}M" for cost in (costs[0], costs[-1]))
        return f"Classifier('{name}', {len(self.class_names)} classes, images {size}, {len(costs)} exits, {macs} MACs)"
