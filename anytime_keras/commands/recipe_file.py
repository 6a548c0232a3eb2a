"""What the files in `zoo/recipes` run: train by a recipe, go on where it stopped, and publish what came out."""

import copy
import sys
import time

from absl import flags

FLAGS = flags.FlagValues()
_own = dict(flag_values=FLAGS)
flags.DEFINE_string("folder", None, "Where to train; default: runs/ and the network's name.", **_own)
flags.DEFINE_string("data_dir", None, "Where data sets lie.", **_own)
flags.DEFINE_string("zoo", None, "The zoo to publish to; default: the checkout's.", **_own)
flags.DEFINE_bool("publish", False, "Write weights and manifest to the zoo at the end.", **_own)
flags.DEFINE_bool("announce", False, "Only write the manifest of a network that is not trained yet.", **_own)
flags.DEFINE_integer("epochs", None, "Another number of epochs, to try the recipe.", lower_bound=1, **_own)


def main(recipe, name, label=None, precision="float32", argv=None, **facts):
    """Runs a recipe file.

    The training is kept in a folder and goes on from its last epoch when the file is run again. The backend is that of
    `KERAS_BACKEND`.

    Args:
        recipe: `ak.training.Recipe`.
        name, label, precision, **facts: as in `ak.zoo.publish`.
        argv: list of str, the command line; None for this process's.
    """
    from anytime_keras import training, zoo
    from anytime_keras.zoo import publishing

    argv = list(sys.argv if argv is None else argv)
    if {"-h", "--help"} & set(argv[1:]):
        print(f"{sys.modules['__main__'].__doc__ or ''}\n{FLAGS.get_help()}")
        return
    try:
        values = copy.deepcopy(FLAGS)
        unknown = values(argv)[1:]
        if unknown:
            raise ValueError(f"Unknown arguments: {unknown}. Flags look like --publish.")
        label = label or recipe.data["data"]
        facts["recipe_file"] = f"recipes/{publishing.stem(name, label)}.py"
        if values.announce:
            print(zoo.announce(recipe, name, label, values.zoo, **facts))
            return
        content = recipe.to_dict()
        if values.epochs is not None:
            content["epochs"] = values.epochs
        if values.data_dir is not None:
            content["data"]["data_dir"] = values.data_dir
        recipe = training.Recipe.from_dict(content)
        _run(recipe, name, label, precision, facts, values)
    except (ValueError, OSError, flags.Error) as error:
        sys.exit(f"{name}: {error}")


def _run(recipe, name, label, precision, facts, values):
    from anytime_keras import runtime, training, zoo
    from anytime_keras.zoo import publishing

    if values.publish:
        publishing.check_whole(recipe)  # before hours of training
        publishing.open_zoo(values.zoo, name, label)
    runtime.repeatable()
    folder = values.folder or f"runs/{publishing.stem(name, label)}"
    run = training.train(recipe, folder, resume=True, callbacks=[_seconds()])
    if values.publish:
        minutes = sum(epoch["seconds"] for epoch in run.history) / 60
        manifest = zoo.publish(
            run.model,
            name,
            run.data,
            recipe,
            values.zoo,
            label,
            precision,
            epochs=len(run.history),
            minutes=minutes,
            **facts,
        )
        print(f"\n{manifest}")


def _seconds():
    """A callback that adds each epoch's seconds to its logs, so that they are kept over resumptions."""
    import keras

    class Seconds(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.begin = time.perf_counter()

        def on_epoch_end(self, epoch, logs=None):
            logs["seconds"] = time.perf_counter() - self.begin

    return Seconds()
