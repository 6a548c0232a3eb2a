"""Plots of serving: what each policy achieves at each load."""

from anytime_keras._lazy import style

STATIC = "0.8"  # grey


def plot_loads(results, path=None, title=None, ylabel="right and in time, per request (%)"):
    """Plots the share of requests that got a right answer in time against the load, one line per policy.

    Static exits (`"exit_1"`, ...) are drawn in grey, other policies in colour.

    Args:
        results: dict from a policy to a dict from each load, a multiple of the last exit's capacity, to the share.
        path: str or path with a suffix such as `.png`; None does not save the plot.
        title: str or None.
        ylabel: str.

    Returns:
        A `matplotlib.figure.Figure`, which displays itself in a notebook.

    Raises:
        ValueError: if `path` has no suffix.

    Example:
    >>> figure = plot_loads({"value": {0.5: 0.9, 2: 0.8}, "last": {0.5: 0.9, 2: 0.1}, "exit_1": {0.5: 0.6, 2: 0.6}})
    >>> len(figure.axes[0].lines)
    3
    """
    axes = style.picture(height=3.6).add_subplot()
    draw_loads(axes, results)
    axes.set_ylabel(ylabel)
    axes.legend(fontsize=7, frameon=False)
    if title:
        axes.set_title(title, fontsize=10)
    return style.save(axes.figure, path)


def draw_loads(axes, results):
    """Draws the lines of `plot_loads` on axes of Matplotlib."""
    number = 0
    for policy, shares in sorted(results.items(), key=lambda item: not item[0].startswith("exit_")):
        loads = sorted(shares)
        static = policy.startswith("exit_")
        look = {"color": STATIC, "linewidth": 1.0} if static else style.look(number)
        number += not static
        label = policy if not static else "static exits" if policy == "exit_1" else None
        axes.plot(loads, [100 * shares[load] for load in loads], label=label, **look)
    axes.set_xscale("log")
    axes.set_xticks(loads, [f"{load:g}" for load in loads])
    axes.minorticks_off()
    axes.set_ylim(0, 100)
    axes.set_xlabel("load / capacity of the last exit")
    style.plain(axes)
