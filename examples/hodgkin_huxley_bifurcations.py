"""The squid's axon under a steady current: rest, bistability, firing, and depolarisation block.

Rinzel and Miller (1980) found the branch of cycles and its folds; Guckenheimer and Oliva (2002)
the period doublings near the first, behind which there is chaos in the resting neuron's basin.
"""

from __future__ import annotations

import sys
from pathlib import Path

import ctsigprop as ct
from ctsigprop.analyses.bifurcations import bifurcation_diagram, findings
from ctsigprop.analyses.plots import plot_bifurcations


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tree = bifurcation_diagram(
        ct.System(ct.hodgkin_huxley()),
        "I",
        (0.0, 200.0),
        ranges={"v": (-100, 60)},
        title="Hodgkin-Huxley axon",
    )
    print(findings(tree))
    ct.save(tree, folder / "hodgkin_huxley_bifurcations.zarr", overwrite=True)
    plot_bifurcations(tree).savefig(folder / "hodgkin_huxley_bifurcations.png")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "examples/output"))
