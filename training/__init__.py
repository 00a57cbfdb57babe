"""Offline jobs: TVP and M²PT training, evaluation, the embedded model family. Imports `prompts`, never `server`."""
