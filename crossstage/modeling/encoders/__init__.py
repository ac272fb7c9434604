"""From a feature pyramid to memory.

- `tokens`: a pyramid as memory, with every field filled
- `none`: that memory as it is
- `deformable`: layers of deformable attention over all levels
- `dense`: layers of dense attention over one level
"""
