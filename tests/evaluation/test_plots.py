"""Tests of plots: the data of their lines, and the files."""

import io
import types

import numpy as np
import pytest
from PIL import Image

import anytime_keras as ak
from anytime_keras.classifier import LabeledAnswer
from anytime_keras.evaluation import (
    Curve,
    CurvePoint,
    plot_answers,
    plot_curves,
    plot_increases,
    plot_photos,
    plot_weights,
)
from anytime_keras.evaluation.style import COLORS
from anytime_keras.inference import Answer


def curve(name, losses, costs=(10, 30, 60), errors=(0.4, 0.3, 0.2)):
    rows = zip(costs, errors, losses)
    return Curve([CurvePoint(f"exit_{n}", error, loss, c, c, c, c) for n, (c, error, loss) in enumerate(rows, 1)], name)


CONST, OPT = curve("CONST", (0.5, 0.4, 0.3)), curve("OPT", (0.5, 0.2, 0.1))

FAR = curve("far", (1, 1, 1), (100, 200, 400))


def labels(axes):
    return [text.get_text() for text in (axes.get_legend() or axes.figure.legends[0]).get_texts()]


def test_each_curve_has_a_colour_and_a_marker_and_fractions_are_marked():
    axes = plot_curves([CONST, OPT, FAR], fractions=(0.5, 1)).axes[0]
    marks, lines = axes.lines[:2], axes.lines[2:]
    assert [mark.get_xdata()[0] for mark in marks] == [200, 400], "of the dearest curve"
    assert [text.get_text() for text in axes.texts] == ["0.5", "1"] and "shares of the largest" in axes.get_xlabel()
    assert len({line.get_color() for line in lines}) == len({line.get_marker() for line in lines}) == 3
    assert labels(axes) == ["CONST", "OPT", "far"] and axes.get_xscale() == "log"
    assert axes.get_legend() is None, "beside so many lines, not over them"
    axes.figure.canvas.draw()
    ticks = [label.get_text() for label in axes.get_xticklabels()]
    assert {"10", "100", "200"} <= set(ticks), "plain numbers, also within a decade"


def lightness(color):
    """Returns CIE L*, which colour-blind readers can see and grey prints keep."""
    linear = [(c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4) for c in color[:3]]
    luminance = np.dot(linear, [0.2126, 0.7152, 0.0722])
    return 116 * luminance ** (1 / 3) - 16 if luminance > 0.008856 else 903.3 * luminance


def test_exits_get_lighter_so_that_their_order_shows_without_colour():
    history = {f"exit_{n}_weight": [1.0, 1 / n] for n in range(1, 28)}
    axes = plot_weights(history).axes[0]
    lights = [lightness(line.get_color()) for line in axes.lines]
    assert (np.diff(lights) > 0).all() and lights[-1] < 90, "the last one shows on white"
    shown = [line.get_label() for line in axes.lines if not line.get_label().startswith("_")]
    assert len(shown) == 9 and shown[0] == "exit_1" and shown[-1] == "exit_27"


def test_weights_are_drawn_from_a_fit_a_run_and_its_file_alike(tmp_path):
    columns = {"loss": [2.0, 1.0], "exit_1_weight": [0.9, 0.5], "exit_2_weight": [1.0, 1.0]}
    rows = [dict(zip(columns, values)) for values in zip(*columns.values())]
    text = "\n".join([",".join(columns), *(",".join(map(str, row.values())) for row in rows)]) + "\n"
    (tmp_path / "history.csv").write_text(text)
    for history in (columns, types.SimpleNamespace(history=columns), rows, tmp_path / "history.csv"):
        lines = plot_weights(history, title="weights").axes[0].lines
        assert [line.get_ydata().tolist() for line in map(_as_arrays, lines)] == [[0.9, 0.5], [1.0, 1.0]]
    with pytest.raises(ValueError, match="no weights"):
        plot_weights({"loss": [1.0]})
    with pytest.raises(ValueError, match="no weights"):
        plot_weights([])


def _as_arrays(line):
    return types.SimpleNamespace(get_ydata=lambda: np.asarray(line.get_ydata(), float))


@pytest.mark.long
def test_plotted_weights_equal_those_of_the_callback():
    model = ak.models.build("resann", num_units=1, channels=4, input_shape=(8, 8, 1), num_classes=10)
    model.compile("sgd", loss="sparse_categorical_crossentropy")
    adaloss = ak.AdaLoss()
    x, y = np.random.default_rng(0).random((16, 8, 8, 1)), np.arange(16) % 10
    lines = plot_weights(model.fit(x, y, epochs=2, callbacks=[adaloss], verbose=0)).axes[0].lines
    np.testing.assert_allclose([line.get_ydata()[-1] for line in lines], adaloss.weights, rtol=1e-6)


def test_increases_are_percent_over_the_exits_that_were_trained_alone():
    some = Curve([OPT[0], OPT[2]], "OPT")  # exit_2 was not trained alone
    axes = plot_increases([CONST, OPT], some).axes[0]
    zero, const, opt = axes.lines
    np.testing.assert_allclose(const.get_ydata(), [0, 200], atol=1e-9)
    np.testing.assert_allclose(opt.get_ydata(), [0, 0])
    assert list(const.get_xdata()) == [1, 3] and labels(axes) == ["CONST", "OPT"]
    by_error = plot_increases([CONST], OPT, value="error").axes[0].lines[1]
    np.testing.assert_allclose(by_error.get_ydata(), [0, 0, 0])
    with pytest.raises(ValueError, match=r"lacks exits of `optimal`: \['exit_2', 'exit_3'\]"):
        plot_increases([Curve([CONST[0]], "short")], OPT)
    with pytest.raises(ValueError, match=r"NaN at \['exit_3'\]"):
        plot_increases([CONST], curve("OPT", (1.0, 0.5, 0.0)))
    with pytest.raises(ValueError, match="'accuracy'"):
        plot_increases([CONST], OPT, value="accuracy")
    with pytest.raises(ValueError, match="`optimal` must be a `Curve`"):
        plot_increases([CONST], [OPT])
    for nothing in ([], ["curve"]):
        with pytest.raises(ValueError, match="at least one `Curve`"):
            plot_increases(nothing, OPT)


LOGITS = np.zeros((3, 1, 12))
LOGITS[0, 0, 3], LOGITS[1, 0, 8], LOGITS[2, 0, 8] = 1, 1, 4
ANSWERS = [Answer(logits, f"exit_{n}", n - 1, 0.002 * n) for n, logits in enumerate(LOGITS, 1)]


def test_answers_are_drawn_side_by_side_with_the_top_class_in_colour(tmp_path):
    names = [f"class {n}" for n in range(12)]
    figure = plot_answers(np.ones((1, 8, 8, 1)), ANSWERS, names, tmp_path / "new" / "answers.svg", truth=11)
    image, *panels = figure.axes
    assert [panel.get_title() for panel in panels] == ["exit_1\n2.00 ms", "exit_2\n4.00 ms", "exit_3\n6.00 ms"]
    shown = [label.get_text() for label in panels[0].get_yticklabels()]
    assert "class 3" in shown and "class 8" in shown and "class 11 ✓" in shown and len(shown) <= 6
    for panel, answer, right in zip(panels, ANSWERS, ("class 3", "class 8", "class 8")):
        widths = [bar.get_width() for bar in panel.patches]
        numbers = [int(label.split()[1]) for label in shown]
        np.testing.assert_allclose(widths, 100 * answer.probabilities[0][numbers], rtol=1e-6)
        colored = [bar.get_facecolor() for bar in panel.patches]
        blue = [label for label, color in zip(shown, colored) if color == _rgba(COLORS[0])]
        assert blue == [right]
    assert (tmp_path / "new" / "answers.svg").read_text().startswith("<?xml")


def _rgba(color):
    return (*(int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)), 1)


def test_a_gif_shows_one_answer_after_the_other(tmp_path):
    plot_answers(np.eye(8), ANSWERS, path=tmp_path / "answers.gif")
    with Image.open(tmp_path / "answers.gif") as animation:
        assert animation.n_frames == 3 and animation.info["loop"] == 0 and animation.info["duration"] == 900
        frames = []
        for number in range(3):
            animation.seek(number)
            frames.append(np.asarray(animation.convert("RGB")))
    assert frames[0].shape == frames[2].shape and (frames[0] != frames[1]).any() and (frames[1] != frames[2]).any()


@pytest.mark.parametrize("change", [{"answers": []}, {"answers": [Answer(np.zeros((2, 3)), "exit_1", 0, 0.1)]}])
def test_answers_must_be_for_one_image(change):
    with pytest.raises(ValueError, match="each for one image"):
        plot_answers(**{"image": np.eye(8), "answers": ANSWERS, **change})
    with pytest.raises(ValueError, match=r"Received: \(2, 8, 8, 1\)"):
        plot_answers(np.ones((2, 8, 8, 1)), ANSWERS)


def test_a_notebook_shows_every_plot():
    for figure in (
        plot_curves([OPT]),
        plot_increases([CONST], OPT),
        plot_weights({"a_weight": [1, 0.5]}),
        plot_answers(np.eye(8), ANSWERS),
    ):
        with Image.open(io.BytesIO(figure._repr_png_())) as image:
            assert image.format == "PNG" and 300 < image.width < 1200


def pixels(figure):
    """Returns how many pixels of each of the curves' colours a picture has."""
    with Image.open(io.BytesIO(figure._repr_png_())) as image:
        counts = {color: count for count, color in image.convert("RGB").getcolors(2**20)}
    return [counts.get(tuple(int(color[at : at + 2], 16) for at in (1, 3, 5)), 0) for color in COLORS]


def test_colours_in_a_notebook_are_distinct():
    assert all(count > 0 for count in pixels(plot_curves([CONST, OPT, FAR]))[:3])


def test_a_curve_below_others_stays_visible():
    longer = curve("longer", (1, 1, 1, 1), (10, 30, 60, 100), (0.4, 0.3, 0.2, 0.1))
    figure = plot_curves([CONST, FAR, OPT, longer])
    seen, last = pixels(figure), figure.axes[0].lines[-1]
    assert min(seen[0], seen[2]) > seen[3] > 0, "each wider than what lies upon it, not its sample in the legend alone"
    lines = figure.axes[0].lines[-4:]
    assert lines[0].get_linewidth() > lines[2].get_linewidth() > last.get_linewidth() == lines[1].get_linewidth()
    near = curve("near", (1, 1, 1), errors=(0.4, 0.2, 0.1))
    lines = plot_curves([CONST, near]).axes[0].lines[-2:]
    assert lines[0].get_linewidth() == lines[1].get_linewidth(), "lines that meet at one point hide nothing"


def test_a_single_curve_is_named_by_the_title_and_several_by_a_legend():
    for draw in (plot_curves, lambda curves, **kwargs: plot_increases(curves, OPT, **kwargs)):
        axes = draw([CONST], title="100 images").axes[0]
        assert axes.get_title() == "CONST: 100 images" and not axes.figure.legends and axes.get_legend() is None
        assert draw([CONST]).axes[0].get_title() == "CONST"
        axes = draw([CONST, OPT], title="100 images").axes[0]
        assert axes.get_title() == "100 images" and labels(axes) == ["CONST", "OPT"]
    assert plot_curves([curve("", (1, 1, 1))], title="100 images").axes[0].get_title() == "100 images"


def test_photos_are_drawn_beside_their_top_classes(tmp_path):
    names = ["tabby, cat", "dog", "fox", "hen"]
    answers = [
        [LabeledAnswer(np.log([row]), "exit_1", 0, 0.001, class_names=names, single=True) for row in rows]
        for rows in ([[0.5, 0.3, 0.1, 0.1], [0.1, 0.6, 0.2, 0.1]], [[0.1, 0.1, 0.1, 0.7], [0.2, 0.2, 0.5, 0.1]])
    ]
    photos = [np.zeros((8, 12, 3), "uint8"), np.zeros((9, 6), "uint8")]
    figure = plot_photos(photos, answers, ["1M MACs", "2M MACs"], tmp_path / "photos.png", k=2)
    _, first, second, _, third, _ = figure.axes
    assert [text.get_text() for text in first.texts] == ["tabby (50%)", "dog (30%)"]
    assert third.texts[0].get_text() == "hen (70%)" and second.get_title() == "2M MACs"
    assert (tmp_path / "photos.png").exists()
    for images, row in (([], []), (photos, answers[:1]), (photos, [answers[0][:1], answers[1]])):
        with pytest.raises(ValueError, match="an answer for each heading"):
            plot_photos(images, row, ["1M MACs", "2M MACs"])


def test_a_path_without_an_extension_is_refused_before_plotting(tmp_path):
    for draw in (
        lambda path: plot_increases([CONST], OPT, path),
        lambda path: plot_weights({"a_weight": [1, 0.5]}, path),
        lambda path: plot_answers(np.eye(8), ANSWERS, path=path),
    ):
        with pytest.raises(ValueError, match="suffix"):
            draw(tmp_path / "picture")
    assert not list(tmp_path.iterdir())
