"""`passepartout report tvp|m2pt`: the papers' pictures for your models and tasks; what both reports share."""
