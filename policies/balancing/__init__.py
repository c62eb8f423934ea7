"""What to lay down on idle devices: histories, forecasts and the policies that act on them."""
