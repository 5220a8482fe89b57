"""Let ``python -m ctsigprop.cli`` be the command line."""

from ctsigprop.cli import app

app()
