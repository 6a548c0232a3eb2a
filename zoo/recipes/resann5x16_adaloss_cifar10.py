"""ResANN (5 units a block, 16 channels) with AdaLoss on CIFAR-10, by the paper's recipe but for 20 epochs and precision.

  python zoo/recipes/resann5x16_adaloss_cifar10.py --publish

Run it again to go on where it stopped; with KERAS_BACKEND=jax it runs on JAX, and on a GPU where there is one.
Hardware: two cores of an AMD EPYC; 52 minutes with other work beside. Expected: right on 52.5, 60.0, 65.8, 66.9, 67.6,
72.4, 78.6, 81.2, 82.1, 82.3, 83.5, 85.1, 85.4, 85.5 and 85.7% of the 10,000 test images, exit by exit, as its manifest
says of TensorFlow; JAX draws other random numbers. The paper trains for 300 epochs, not 20: `--epochs=300` is meant
for a GPU and has not been run.
"""

from anytime_keras.commands.recipe_file import main
from anytime_keras.training import Recipe

RECIPE = Recipe(
    model={"name": "resann", "num_units": 5, "channels": 16, "input_shape": [32, 32, 3], "num_classes": 10},
    data={"data": "cifar10", "augment": ["pad_crop", "flip"]},
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
        "cifar10",
        precision="float16",
        description="ResANN (5 units a block, 16 channels) with AdaLoss.",
    )
