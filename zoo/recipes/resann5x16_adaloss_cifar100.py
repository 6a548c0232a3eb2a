"""ResANN (5 units a block, 16 channels) with AdaLoss on CIFAR-100, by the paper's recipe but for 20 epochs and precision.

  python zoo/recipes/resann5x16_adaloss_cifar100.py --publish

Run it again to go on where it stopped; with KERAS_BACKEND=jax it runs on JAX, and on a GPU where there is one.
Hardware: two cores of an AMD EPYC; 54 minutes with other work beside. Expected: right on 17.6, 21.0, 24.0, 25.8, 26.5,
35.0, 42.1, 44.9, 47.2, 47.8, 53.8, 56.6, 58.0, 58.3 and 58.4% of the 10,000 test images, exit by exit, as its manifest
says of TensorFlow; JAX draws other random numbers. The paper trains for 300 epochs, not 20: `--epochs=300` is meant for
a GPU and has not been run.
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
