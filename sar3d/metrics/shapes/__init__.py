"""Metrics of shape, which need no weights: of one object against its truth, and of a set against another.

Distances are named with what they are and how shapes were scaled. `chamfer_l1` is half the sum of the two mean
distances, `chamfer_l2` the sum of the two mean squared ones (the convention of PointFlow and of COV and MMD tables).
`unit_box` centers each shape's bounding box and scales its longest side to 1; `posed` applies to both shapes what does
that to the truth, so that errors of position and size count.
"""
