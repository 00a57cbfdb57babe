"""The embedded model family: small, real, offline; pictures, recipe, build and tasks."""
