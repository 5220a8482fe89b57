"""Neurons, synapses, plasticity and networks."""
