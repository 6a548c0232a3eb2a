"""Plots how the answers for one image improve from exit to exit."""

import numpy as np

from anytime_keras._lazy import style

MOST_CLASSES = 5
FRAME_MS = 900


def plot_answers(image, answers, class_names=None, path=None, truth=None, title=None):
    """Plots an image and the probabilities of its likeliest classes at each exit.

    Args:
        image: array of shape `(height, width)` or `(height, width, channels)`, or a batch of one such image. Values are
            scaled to the range from black to white.
        answers: list of `Answer`s for this image only; `predictor.predict(image, until=answers.append)` fills one.
        class_names: list of str, such as `data.class_names`; None uses class numbers.
        path: file for the plot; its suffix sets the format. A `.gif` shows the answers one after the other.
        truth: int, the true class, which is marked; None marks none.
        title: str or None.

    Returns:
        A `matplotlib.figure.Figure` with all answers side by side, which notebooks display.

    Raises:
        ValueError: if there are no answers, an answer is for several images, or `image` has no image shape.

    Example:
    >>> from anytime_keras.inference import Answer
    >>> first, last = np.array([[0.0, 1.0, 0.5]]), np.array([[0.0, 1.0, 3.0]])
    >>> answers = [Answer(first, "exit_1", 0, seconds=0.001), Answer(last, "exit_2", 1, seconds=0.003)]
    >>> figure = plot_answers(np.eye(8), answers, ["bird", "cat", "dog"], truth=2)
    >>> [axes.get_title().split()[0] for axes in figure.axes[1:]]
    ['exit_1', 'exit_2']
    """
    image, answers = _image(image), list(answers)
    if not answers or any(len(answer.probabilities) != 1 for answer in answers):
        raise ValueError(
            "`answers` must contain at least one answer, each for one image. Received: batch sizes "
            f"{[len(answer.probabilities) for answer in answers]}."
        )
    names = list(range(answers[0].probabilities.shape[-1]) if class_names is None else class_names)
    shown = _considered(answers, truth)
    figure = _drawn(image, answers, shown, names, truth, title)
    if path is not None and str(path).lower().endswith(".gif"):
        frames = [_drawn(image, [answer], shown, names, truth, title).frame().quantize() for answer in answers]
        frames[0].save(style.file_of(path), save_all=True, append_images=frames[1:], duration=FRAME_MS, loop=0)
    else:
        style.save(figure, path)
    return figure


def plot_photos(images, answers, headings, path=None, k=3):
    """Plots images in rows, each beside the likeliest classes of its answers, such as those under several budgets.

    Args:
        images: list of uint8 arrays of shape `(height, width, 3)` or `(height, width)`.
        answers: list with a list of answers for each image, as a `Classifier` returns them for one image.
        headings: list of str, one for each column of answers.
        path: file for the plot; its suffix sets the format.
        k: int, number of classes for each answer.

    Returns:
        A `matplotlib.figure.Figure`, which notebooks display.

    Raises:
        ValueError: if there are no images, or not as many answers as images and headings.

    Example:
    >>> from anytime_keras.classifier import LabeledAnswer
    >>> logits = np.array([[0.0, 2.0, 1.0]])
    >>> answer = LabeledAnswer(logits, "exit_1", 0, 0.001, class_names=["bird", "cat", "dog"], single=True)
    >>> figure = plot_photos([np.zeros((8, 8, 3), "uint8")], [[answer]], ["1M MACs"])
    >>> [text.get_text().split(" (")[0] for text in figure.axes[1].texts]
    ['cat', 'dog', 'bird']
    """
    if not images or len(images) != len(answers) or any(len(row) != len(headings) for row in answers):
        raise ValueError(
            "`answers` must have a list for each image, with an answer for each heading. Received: "
            f"{len(images)} images, {len(headings)} headings, {[len(row) for row in answers]} answers."
        )
    figure = style.picture(width=2.0 + 2.0 * len(headings), height=0.4 + 1.3 * len(images))
    grid = figure.subplots(len(images), 1 + len(headings), squeeze=False)
    for (first, *panels), image, row in zip(grid, images, answers):
        first.imshow(image, cmap="gray")
        first.axis("off")
        for panel, answer in zip(panels, row):
            _draw_top(panel, answer.top(k), k)
    for panel, heading in zip(grid[0][1:], headings):
        panel.set_title(heading, fontsize=8)
    return style.save(figure, path)


def _draw_top(panel, top, k):
    """Draws a bar for each of the likeliest classes, with its name above."""
    for place, (label, sure) in enumerate(top):
        panel.barh(place + 0.2, sure, height=0.35, color=style.COLORS[0] if place == 0 else style.GREY)
        name = label.split(",")[0]
        panel.text(0, place - 0.1, f"{name} ({100 * sure:.0f}%)", fontsize=7, va="bottom")
    panel.set(xlim=(0, 1), ylim=(k - 0.4, -0.6))
    panel.axis("off")


def _image(image):
    image = np.asarray(image, "float32")
    image = image[0] if image.ndim == 4 and len(image) == 1 else image
    if image.ndim == 3 and image.shape[-1] == 1:
        image = image[..., 0]
    if image.ndim != 2 and not (image.ndim == 3 and image.shape[-1] == 3):
        raise ValueError(f"`image` must have shape (height, width) or (height, width, 3). Received: {image.shape}.")
    low, high = image.min(), image.max()
    return (image - low) / max(high - low, 1e-6)


def _considered(answers, truth):
    """Returns the classes that are likeliest at some exit, and the true class, sorted."""
    highest = np.max([answer.probabilities[0] for answer in answers], axis=0)
    chosen = set(np.argsort(-highest, kind="stable")[:MOST_CLASSES].tolist())
    return sorted(chosen | {int(answer.probabilities[0].argmax()) for answer in answers} | ({truth} - {None}))


def _drawn(image, answers, shown, names, truth, title):
    figure = style.picture(width=2.2 + 1.5 * len(answers), height=2.5)
    first, *panels = figure.subplots(1, 1 + len(answers), width_ratios=[1.3] + [1] * len(answers))
    first.imshow(image, cmap="gray", interpolation="nearest")
    first.axis("off")
    labels = [f"{names[number]} ✓" if number == truth else str(names[number]) for number in shown]
    for panel, answer in zip(panels, answers):
        sure = 100 * answer.probabilities[0][shown]
        colors = [style.COLORS[0] if value == sure.max() else style.GREY for value in sure]
        panel.barh(range(len(shown)), sure, color=colors)
        panel.set_yticks(range(len(shown)), labels if panel is panels[0] else [""] * len(shown))
        panel.invert_yaxis()
        panel.set(xlim=(0, 100), xticks=[0, 50, 100])
        panel.tick_params(labelsize=8, length=0)
        panel.set_title(f"{answer.exit}\n{1e3 * answer.seconds:.2f} ms", fontsize=8)
        panel.spines[["top", "right", "bottom"]].set_visible(False)
    panels[len(panels) // 2].set_xlabel("sure (%)", fontsize=8)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure
