"""From a feature pyramid to memory.

- `deformable`: all levels, by deformable attention
- `dense`: one level, by dense attention
"""
