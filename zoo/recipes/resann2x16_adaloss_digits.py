"""ResANN (2 units a block, 16 channels) with AdaLoss on scikit-learn's handwritten digits.

  python zoo/recipes/resann2x16_adaloss_digits.py --publish

Run it again to go on where it stopped; with KERAS_BACKEND=jax it runs on JAX.
Hardware: two cores of an AMD EPYC; 1 minute. Expected: right on 90.0, 98.1, 98.9, 98.9, 98.9 and 98.9% of the 359 test
images, exit by exit, as its manifest says of TensorFlow; JAX draws other random numbers.
"""

from anytime_keras.commands.recipe_file import main
from anytime_keras.training import Recipe

RECIPE = Recipe(
    model={"name": "resann", "num_units": 2, "channels": 16},
    data={"data": "digits", "augment": ["pad_crop"]},
    weighting={"name": "adaloss", "gamma": 0.05, "momentum": 0.9, "update_period": 1},
    optimizer={"name": "sgd", "momentum": 0.9},
    learning_rate=0.1,
    schedule={"name": "cosine", "warmup_epochs": 2},
    weight_decay=1e-4,
    epochs=30,
    batch_size=32,
    seed=0,
)

if __name__ == "__main__":
    main(RECIPE, "resann2x16_adaloss_digits", "digits", description="A small ResANN that reads handwritten digits.")
