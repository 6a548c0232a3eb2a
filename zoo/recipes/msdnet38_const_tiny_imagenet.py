"""MSDNet38 with equal weights (CONST) on Tiny ImageNet 200, by a modern recipe.

  python zoo/recipes/msdnet38_const_tiny_imagenet.py --data_dir=FOLDER_OF_tiny-imagenet-200 --publish

Run it again to go on where it stopped; with KERAS_BACKEND=jax it runs on JAX, and on a GPU where there is one.
Meant for one GPU. It has not been run to its end yet: there are no minutes and no accuracies to expect.
"""

from anytime_keras.commands.recipe_file import main
from anytime_keras.training import Recipe

RECIPE = Recipe(
    model={"name": "msdnet38", "stem": "small", "input_shape": [64, 64, 3], "num_classes": 200},
    data={"data": "tiny_imagenet", "augment": ["pad_crop", "flip", "erase"]},
    weighting={"name": "constant"},
    optimizer={"name": "sgd", "momentum": 0.9, "nesterov": True},
    learning_rate=0.1,
    schedule={"name": "cosine", "warmup_epochs": 5},
    weight_decay=5e-4,
    label_smoothing=0.1,
    epochs=120,
    batch_size=128,
    seed=0,
    precision="mixed_bfloat16",
)

if __name__ == "__main__":
    main(
        RECIPE,
        "msdnet38_const",
        "tiny_imagenet",
        precision="float16",
        description="MSDNet38 with equal weights (CONST).",
    )
