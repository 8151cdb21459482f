"""A shelf of layers and densities that components share: a plugin may import from it as from the façade.

`from aegen.nn.densities import log_standard`. What two components need belongs here; what one needs stays with it.
"""
