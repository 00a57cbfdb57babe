"""Offline jobs: TVP and M²PT training, evaluation, the embedded model. Imports `prompts`, never `server`."""
