"""Token mergers: one file a merger.

An entry offers `partition(grid)`, `tokens_after(grid, prefix)` and a module that follows
`fpet_export.model.vit.Merger` for the reference forward pass.
"""
