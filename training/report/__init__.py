"""`passepartout report tvp`: trains frames on models in turn, measures them on all, and writes what came out."""
