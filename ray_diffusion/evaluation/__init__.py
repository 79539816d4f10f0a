"""How good drawn images are, each figure beside the floor that real images reach.

========================  ==========================================================
frechet, kernel           distances between two sets of features
manifold                  the regions that features cover: precision and recall
sliced                    a distance between two sets of images that needs no features
memorisation              how many drawn images are copies of training images
features, classifier      ways to describe images by features; the judge of classes
report                    all figures of a model's images, with their floors
gallery, page             the report as one HTML page, with pictures
compare                   models in the order of a figure
========================  ==========================================================

Figures made with different datasets or features do not compare; the fingerprints of both stand in
the report, and ``compare.rank`` refuses them.
"""
