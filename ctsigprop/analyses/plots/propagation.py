"""Samples and contexts on their way through the layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctsigprop.analyses.plots.look import BLACK, BLUE, GREY, need, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from xarray import DataTree

__all__ = ["plot_propagation"]


def plot_propagation(tree: DataTree) -> Figure:
    """Draw, for each layer, how near samples come to their contexts, and where both lie at the end.

    Parameters
    ----------
    tree : xarray.DataTree
        With the group ``propagation``: measures of `ctsigprop.analyses.propagation.propagation` put
        together along ``epoch``.

    Examples
    --------
    >>> import ctsigprop as ct, torch, xarray as xr
    >>> from ctsigprop.analyses.propagation import propagation
    >>> batch = torch.rand(6, 4), torch.tensor([0, 1] * 3)
    >>> measure = propagation(ct.Sigprop(ct.Layers.dense([4, 8, 8, 2])), *batch)
    >>> tree = xr.DataTree.from_dict({"propagation": measure.expand_dims(epoch=[0])})
    >>> plot_propagation(tree).axes[0].get_title()
    'layer h1'
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    need(tree, "propagation", "ctsigprop.analyses.propagation.propagation")
    data = tree["propagation"].to_dataset()
    layers = data["layer"].values.tolist()
    last = data.isel(epoch=-1)
    classes = data.sizes["class"]
    colours = mpl.colormaps["tab10" if classes <= 10 else "turbo"].resampled(classes)
    with style():
        figure = Figure(figsize=(2.5 * len(layers) + 1.2, 5.2))
        axes = figure.subplots(2, len(layers), squeeze=False, height_ratios=(1.0, 1.3))
        for k, layer in enumerate(layers):
            top, below = axes[:, k]
            here = data.isel(layer=k)
            top.plot(data["epoch"], here["own"], "-o", ms=3, color=BLUE, label="own context")
            top.plot(data["epoch"], here["other"], "--s", ms=3, color=GREY, label="other contexts")
            top.set(title=f"layer {layer}", xlabel="epoch", ylim=(-0.35, 1.0))
            top.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=4))
            place = last["sample_place"].isel(layer=k).values
            label = last["label"].values
            below.scatter(*place.T, c=label, cmap=colours, vmin=0, vmax=classes - 1, s=5, alpha=0.5)
            goal = last["context_place"].isel(layer=k).values
            below.scatter(
                *goal.T, c=range(classes), cmap=colours, vmin=0, vmax=classes - 1,
                s=110, marker="*", edgecolors=BLACK, linewidths=0.7, zorder=3,
            )  # fmt: skip
            below.set_xlabel(f"1st component ({float(last['spread'][k]):.0%} in both)")
            below.tick_params(labelleft=False, labelbottom=False)
        axes[0, 0].set_ylabel("correlation")
        axes[1, 0].set_ylabel("2nd component")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        handles.append(Line2D([], [], marker="o", ls="", color=GREY, ms=4))
        handles.append(Line2D([], [], marker="*", ls="", mfc="white", color=BLACK, ms=9))
        figure.legend(
            handles, [*labels, "samples", "contexts, in the colour of their class"],
            loc="outside lower center", ncols=4, fontsize=8,
        )  # fmt: skip
        if "title" in tree.attrs:
            figure.suptitle(tree.attrs["title"], fontsize=10)
    return figure
