"""Learning rules of the field behind one interface."""
