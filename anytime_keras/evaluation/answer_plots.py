"""Plots how the answers for one image improve from exit to exit."""

import numpy as np

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
    from anytime_keras.evaluation import style  # only plots need Matplotlib

    style.checked(path)
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
        path = style.checked(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=FRAME_MS, loop=0)
    else:
        style.save(figure, path)
    return figure


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
    """Draws the image and a bar chart for each answer, with the likeliest class in colour and the true one marked."""
    from anytime_keras.evaluation import style

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
        panel.set_xlim(0, 100)
        panel.set_xticks([0, 50, 100])
        panel.tick_params(labelsize=8, length=0)
        panel.set_title(f"{answer.exit}\n{1e3 * answer.seconds:.2f} ms", fontsize=8)
        panel.spines[["top", "right", "bottom"]].set_visible(False)
    panels[len(panels) // 2].set_xlabel("sure (%)", fontsize=8)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure
