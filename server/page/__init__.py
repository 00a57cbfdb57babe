"""The page at `/`: a picture, a question, answers of the base model and of tasks side by side."""
