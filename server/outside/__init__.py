"""Pictures that a request names by address: fetched here, where the operator allows, handed on as bytes."""
