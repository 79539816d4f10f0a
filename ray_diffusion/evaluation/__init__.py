"""How good drawn images are, each figure beside the floor that real images reach.

Features come from a small classifier of the dataset's own classes, trained on its train split and
kept in the cache under the dataset's fingerprint. Figures made with different datasets or
classifier versions are not comparable; both stand in the result.
"""
