"""DenseANN of depth 100 (growth rate 12) with AdaLoss on CIFAR-10, by the paper's recipe.

  python zoo/recipes/denseann100_adaloss_cifar10.py --publish

Run it again to go on where it stopped; with KERAS_BACKEND=jax it runs on JAX, and on a GPU where there is one.
Meant for one GPU. It has not been run to its end yet: there are no minutes and no accuracies to expect.
"""

from anytime_keras.commands.recipe_file import main
from anytime_keras.training import Recipe

RECIPE = Recipe(
    model={"name": "denseann", "depth": 100, "growth_rate": 12, "input_shape": [32, 32, 3], "num_classes": 10},
    data={"data": "cifar10", "augment": ["pad_crop", "flip"]},
    weighting={"name": "adaloss", "gamma": 0.05, "momentum": 0.9, "update_period": 1},
    optimizer={"name": "sgd", "momentum": 0.9},
    learning_rate=0.1,
    schedule={"name": "step", "boundaries": [0.5, 0.75]},
    weight_decay=1e-4,
    epochs=300,
    batch_size=64,
    seed=0,
)

if __name__ == "__main__":
    main(
        RECIPE,
        "denseann100_adaloss",
        "cifar10",
        precision="float16",
        description="DenseANN of depth 100 (growth rate 12) with AdaLoss.",
    )
