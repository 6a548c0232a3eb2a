"""ResANN (5 units a block, 16 channels) with AdaLoss on CIFAR-100, by the paper's recipe but for 20 epochs and precision.

  python zoo/recipes/resann5x16_adaloss_cifar100.py --publish

Run it again to go on where it stopped; with KERAS_BACKEND=jax it runs on JAX, and on a GPU where there is one.
Two cores of a CPU will do. It has not been run to its end yet: there are no minutes and no accuracies to expect.
"""

from anytime_keras.commands.recipe_file import main
from anytime_keras.training import Recipe

RECIPE = Recipe(
    model={"name": "resann", "num_units": 5, "channels": 16, "input_shape": [32, 32, 3], "num_classes": 100},
    data={"data": "cifar100", "augment": ["pad_crop", "flip"]},
    weighting={"name": "adaloss", "gamma": 0.05, "momentum": 0.9, "update_period": 1},
    optimizer={"name": "sgd", "momentum": 0.9},
    learning_rate=0.1,
    schedule={"name": "step", "boundaries": [0.5, 0.75]},
    weight_decay=1e-4,
    epochs=20,
    batch_size=64,
    seed=0,
    precision="mixed_bfloat16",
)

if __name__ == "__main__":
    main(
        RECIPE,
        "resann5x16_adaloss",
        "cifar100",
        precision="float16",
        description="ResANN (5 units a block, 16 channels) with AdaLoss.",
    )
