"""`passepartout report tvp`: frames trained on models in turn, measured on all, and what came out."""
