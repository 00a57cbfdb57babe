"""`passepartout report m2pt`: M²PT beside other ways to tune one model, on tasks never seen."""
