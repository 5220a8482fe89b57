"""A model written once as text, in Brian2's equation language, for every back end.

::

    dv/dt = expression : unit (flags)     a differential equation
    name = expression : unit              a subexpression
    name : unit                           a declared parameter or input

Expressions hold numbers, names, ``+ - * / **``, the functions of `FUNCTIONS`, ``int(condition)``,
the constants ``pi``, ``e`` and ``inf``, the time ``t``, and units (``25*mV``). A ``#`` starts a
comment; a statement goes on inside parentheses. Nothing else is accepted, and no text is run: its
syntax tree is checked node by node, and rewritten for numbers in the declared units.
"""

from ctsigprop.equations.language import FLAGS, FUNCTIONS
from ctsigprop.equations.model import Differential, Equations
from ctsigprop.equations.structure import Structure

__all__ = ["FLAGS", "FUNCTIONS", "Differential", "Equations", "Structure"]
