"""The published MSDNet with 10 exits with AdaLoss on CIFAR-100, by a modern recipe.

  python zoo/recipes/msdnet_cifar_10exits_adaloss_cifar100.py --publish

Run it again to go on where it stopped; with KERAS_BACKEND=jax it runs on JAX, and on a GPU where there is one.
Meant for one GPU. It has not been run to its end yet: there are no minutes and no accuracies to expect.
"""

from anytime_keras.commands.recipe_file import main
from anytime_keras.training import Recipe

RECIPE = Recipe(
    model={"name": "msdnet_cifar_10exits", "input_shape": [32, 32, 3], "num_classes": 100},
    data={"data": "cifar100", "augment": ["pad_crop", "flip", "erase"]},
    weighting={"name": "adaloss", "gamma": 0.05, "momentum": 0.9, "update_period": 1},
    optimizer={"name": "sgd", "momentum": 0.9, "nesterov": True},
    learning_rate=0.1,
    schedule={"name": "cosine", "warmup_epochs": 5},
    weight_decay=5e-4,
    label_smoothing=0.1,
    epochs=300,
    batch_size=128,
    seed=0,
    precision="mixed_bfloat16",
)

if __name__ == "__main__":
    main(
        RECIPE,
        "msdnet_cifar_10exits_adaloss",
        "cifar100",
        precision="float16",
        description="The published MSDNet with 10 exits with AdaLoss.",
    )
