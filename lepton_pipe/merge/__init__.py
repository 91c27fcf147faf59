"""Joining what blocks give: labels, tables, pyramids. Array algorithms only."""
