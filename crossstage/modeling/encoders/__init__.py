"""From a feature pyramid to memory.

tokens (a pyramid as memory, with every field filled), none (that memory as it is), dense (layers of dense attention),
deformable (layers of deformable attention).
"""
