"""`passepartout demo`: the main job on the embedded model, from nothing to answers over HTTP."""
