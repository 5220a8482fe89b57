"""The command line: learn, compare, simulate, portrait, bifurcation, show, validate."""

from __future__ import annotations

import typer

from ctsigprop.cli.bifurcation import bifurcation
from ctsigprop.cli.compare import compare
from ctsigprop.cli.learn import learn
from ctsigprop.cli.portrait import portrait
from ctsigprop.cli.show import check, show
from ctsigprop.cli.simulate import simulate

__all__ = ["app"]

app = typer.Typer(
    help="Continuous-time neural systems that learn: simulate, analyse, fit.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(learn)
app.command()(compare)
app.command()(simulate)
app.command()(portrait)
app.command()(bifurcation)
app.command()(show)
app.command(name="validate")(check)
