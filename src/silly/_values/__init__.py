"""What more than one room needs to check or say: arguments, units, the optional libraries."""
