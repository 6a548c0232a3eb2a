"""Pictures of one image's answers, getting better exit by exit."""

import numpy as np

MOST_CLASSES = 5
FRAME_MS = 900


def plot_answers(image, answers, class_names=None, path=None, truth=None, title=None):
    """Draws an image and, exit by exit, how sure the network is of the classes that it considers.

    Args:
        image: array of shape `(height, width)` or `(height, width, channels)`, or a batch of one such image; its values
            are stretched from black to white.
        answers: list of `Answer`s of that image alone; `predictor.predict(image, until=answers.append)` fills one.
        class_names: list of str, such as `data.class_names`; None numbers the classes.
        path: where to save the picture, its type by the ending; a `.gif` shows one answer after the other.
        truth: int, the image's class, if it is to be marked.
        title: str or None.

    Returns:
        The `matplotlib.figure.Figure` with all answers side by side; a notebook shows it.

    Raises:
        ValueError: if there is no answer, or they are of several images, or the image is none.

    Example:
    >>> from anytime_keras.inference import Answer
    >>> first, last = np.array([[0.0, 1.0, 0.5]]), np.array([[0.0, 1.0, 3.0]])
    >>> answers = [Answer(first, "exit_1", 0, seconds=0.001), Answer(last, "exit_2", 1, seconds=0.003)]
    >>> figure = plot_answers(np.eye(8), answers, ["bird", "cat", "dog"], truth=2)
    >>> [axes.get_title().split()[0] for axes in figure.axes[1:]]
    ['exit_1', 'exit_2']
    """
    from anytime_keras.evaluation import style  # Matplotlib is needed for pictures alone

    style.checked(path)
    image, answers = _image(image), list(answers)
    if not answers or any(len(answer.probabilities) != 1 for answer in answers):
        raise ValueError(
            "`answers` must hold one answer or more, each of one image. Received: batches of "
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
    """Returns the few classes that are likeliest at some exit, and the true one, in order."""
    highest = np.max([answer.probabilities[0] for answer in answers], axis=0)
    chosen = set(np.argsort(-highest, kind="stable")[:MOST_CLASSES].tolist())
    return sorted(chosen | {int(answer.probabilities[0].argmax()) for answer in answers} | ({truth} - {None}))


def _drawn(image, answers, shown, names, truth, title):
    """Draws the image and a panel of bars for each answer: the likeliest class in colour, the true one marked."""
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
